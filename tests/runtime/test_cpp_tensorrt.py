"""The C++ TensorRT back end: which plan it takes, which calls it makes, and the headers it needs.

Without anything     its choice of a plan is Python's, to the letter of each message; each call of
                     TensorRT that it makes is one that every binding since 8.6 offers
With NVIDIA headers  VAD_TENSORRT_HEADERS=/folder/of/8.5.1:/folder/of/10.3: it compiles against
                     each, and runs on a libnvinfer without a GPU, made from the first one's headers
                     (runtime/native/tests/fake_nvinfer.cpp). VAD_PLAN_PROBE=FILE takes a program
                     that was built with these headers already
"""

import hashlib
import json
import os
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from helpers import artefact, clip_spec, manifest
from helpers_cuda import environment_with
from helpers_native import ROOT, native_program
from helpers_plans import classic_plan, engine_sidecar, gpu, jetson, rtx_plan, wrapped, write_engine

from vad_runtime.bundle import Bundle, write_bundle
from vad_runtime.contracts import BackendError, EngineTensor
from vad_runtime.contracts.engine import json_from_sidecar
from vad_runtime.engines.fit import Machine
from vad_runtime.engines.lookup import plan_for
from vad_runtime.engines.plan_file import sidecar_path

NATIVE = ROOT / "runtime" / "native"
BACKENDS = NATIVE / "src" / "backends"
CHECK = ROOT / "scripts" / "check-tensorrt-headers"


class Probe:
    """tests/plan_probe.cpp, asked one case at a time."""

    def __init__(self, program: Path, **environment: str) -> None:
        self.program = program
        self.environment = {**os.environ, **environment}

    def ask(self, *cases: dict[str, Any]) -> list[dict[str, Any]]:
        done = subprocess.run(
            [self.program],
            input="".join(json.dumps(case) + "\n" for case in cases),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0, done.stderr
        assert len(answers) == len(cases), done.stderr
        return answers


@pytest.fixture(scope="module")
def probe() -> Probe:
    return Probe(native_program("plan_probe"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """What of a bundle matters to the choice of a plan: its folder and its graph."""
    folder = tmp_path / "site.vad"
    folder.mkdir()
    (folder / "model.fp16.onnx").write_bytes(b"a graph")
    return folder


GRAPH = hashlib.sha256(b"a graph").hexdigest()
MISSING = "TensorRT is not installed. Install it."


def nano(**changes: Any) -> Machine:
    """A Jetson whose Python has TensorRT and nothing else, as C++ has it."""
    return jetson(**{"missing": {"tensorrt": MISSING, "rtx": MISSING}, **changes})


def case(bundle: Path, machine: Machine, precision: str, engine: Path | None) -> dict[str, Any]:
    return {
        "call": "plan_for",
        "bundle": str(bundle),
        "sha256": GRAPH,
        "precision": precision,
        "engine": "" if engine is None else str(engine),
        "machine": {
            "architecture": machine.architecture,
            "missing": MISSING,
            "cuda": machine.cuda,
            "l4t": machine.l4t,
            "sm": None if machine.gpu is None else machine.gpu.sm,
            "gpu": None if machine.gpu is None else machine.gpu.name,
            "libraries": dict(machine.libraries),
        },
    }


def python(bundle: Path, machine: Machine, precision: str, engine: Path | None) -> dict[str, Any]:
    """What the Python twin answers."""
    graph = bundle / "model.fp16.onnx"
    nothing = cast(Any, SimpleNamespace(artefacts={}))
    try:
        fit = plan_for(graph, nothing, cast(Any, precision), machine, engine=engine)
    except BackendError as error:
        return {"error": str(error)}
    return {"plan": str(fit.plan), "flavour": fit.flavour, "version": fit.header.version}


def same(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    flavours = {"TensorRT lean runtime": "lean", "TensorRT dispatch runtime": "dispatch"}
    if "flavour" in given:
        given = {key: given[key] for key in ("plan", "flavour", "version")}
        given["flavour"] = flavours.get(given["flavour"], "tensorrt")
    assert given == wanted


# -- the same choice as Python's ---------------------------------------------------------------

SIDECARS: list[dict[str, Any]] = [
    {},
    {"version": "10.3.1"},
    {"version": "10.2.0"},
    {"version_compatible": True},
    {"version_compatible": True, "host_code": True, "version": "10.3.0"},
    {"hardware_compatible": True, "sms": [86]},
    {"sms": [86]},
    {"sms": [87, 86], "later_sms": True},
    {"architecture": "x86_64"},
    {"architecture": "ARM64"},
    {"cuda": "13.1"},
    {"cuda": None},
    {"l4t": None},
    {"l4t": "35.4.1"},
    {"gpu": "Orin Nano"},
    {"precision": "int8"},
    {"precision": "fp32"},
    {"source_sha256": "cd" * 32},
    {"batches": [1, 4]},
    {"options": {"tf32": True, "level": 4, "dla": 0}},
    {"options": {"tf32": False, "level": None}},
    {"created": "2026-01-01T00:00:00Z"},
    {"created": "2026-02-01T00:00:00Z"},
    {
        "outputs": [
            EngineTensor(name=name, dtype="float32", shape=[-1]) for name in ("score", "a b")
        ]
    },
    {"bytes": 599},
    {"bytes": 601},
    {"sha256": "00" * 32},
    {"family": "rtx"},
]
MACHINES: list[dict[str, Any]] = [
    *[{}] * 8,
    {"libraries": {"tensorrt": "10.3.0.30"}},
    {"libraries": {"tensorrt": "10.13.3.9"}},
    {"libraries": {"lean": "10.3.0", "dispatch": "10.3.0"}},
    {"libraries": {"tensorrt": "10.4.0", "lean": "10.3.0"}},
    {"libraries": {"dispatch": "10.13.0"}},
    {"libraries": {}},
    {"gpu": None, "no_gpu": "No driver.", "cuda": None},
    {"gpu": gpu(110, "Thor"), "l4t": "38.2", "cuda": "13.0"},
    {"gpu": gpu(75, "T4"), "libraries": {"lean": "10.3.0"}, "l4t": None},
    {"architecture": "arm64"},
    {"architecture": "x86_64", "l4t": None, "gpu": gpu(86, "RTX 3080"), "cuda": "11.8"},
]
PLANS = [
    classic_plan(),
    classic_plan(),
    classic_plan(),
    classic_plan((10, 3, 1, 0)),
    classic_plan((0, 0, 0, 0)),
    rtx_plan(),
    rtx_plan(mask=1 << 20),
    wrapped(classic_plan(), {"task": "detect"}),
    wrapped(b"nothing", {"task": "detect"}),
    (20).to_bytes(4, "little") + b"{ no JSON and a plan behind it",
    b"",
    b"ftrt short",
    b"xtrt" + bytes(60),
    b"\x08\x08\x12\x07pytorch",
    b"version https://git-lfs.github.com/spec/v1",
    "just a text, with an ä".encode(),
    b"\xff\xfe\x00\x01binary",
    b"'quoted'\x01\x00",
]


def random_folder(rng: random.Random, folder: Path) -> list[Path]:
    """Write up to four plans with sidecars that may or may not suit them."""
    plans = []
    for number in range(rng.choice([0, 1, 1, 2, 3, 4])):
        plan = rng.choice(PLANS if rng.random() < 0.4 else PLANS[:1])
        changes = {"source_sha256": GRAPH}
        for _ in range(rng.choice([0, 1, 1, 2])):
            changes |= rng.choice(SIDECARS)
        path = folder / f"{rng.choice('abc')} {number}.engine"
        write_engine(folder, path.name, plan, **changes)
        if rng.random() < 0.05:
            sidecar_path(path).unlink()
        plans.append(path)
    return plans


@pytest.mark.parametrize("seed", range(6))
def test_cpp_chooses_and_refuses_plans_as_python_does(
    probe: Probe, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    given, wanted = [], []
    for number in range(60):
        folder = tmp_path / f"{number} site.vad"
        folder.mkdir()
        (folder / "model.fp16.onnx").write_bytes(b"a graph")
        plans = random_folder(rng, folder / "engines")
        engine = rng.choice([None, None, folder / "engines", *plans, folder / "no.engine"])
        arguments = (
            folder,
            nano(**rng.choice(MACHINES)),
            rng.choice(["fp16"] * 4 + ["int8"]),
            engine,
        )
        given.append(case(*arguments))
        wanted.append(python(*arguments))
    assert sum("plan" in one for one in wanted) > 3, "a test of refusals alone"
    for one, other in zip(probe.ask(*given), wanted, strict=True):
        same(one, other)


def test_a_plan_that_fits_is_taken(probe: Probe, bundle: Path) -> None:
    plan = write_engine(bundle / "engines", "a.engine", classic_plan(), source_sha256=GRAPH)
    (answer,) = probe.ask(case(bundle, nano(), "fp16", None))
    assert (answer["plan"], answer["version"]) == (str(plan), "10.3.0")


def test_a_plan_behind_a_wrapper_begins_where_the_wrapper_ends(probe: Probe, bundle: Path) -> None:
    whole = wrapped(classic_plan(), {"names": ["ä"]})
    sidecar = {"family": "tensorrt", "version": "10.3.0", "architecture": "aarch64", "sms": [87]}
    write_engine(bundle / "engines", "a.engine", whole, source_sha256=GRAPH, **sidecar)
    (answer,) = probe.ask(case(bundle, nano(), "fp16", None))
    assert answer["offset"] == whole.index(b"ftrt")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-5],
        lambda text: text.replace(b'"sms"', b'"smz"'),
        lambda text: text.replace(b'"schema": 1', b'"schema": 2'),
        lambda text: text.replace(b'"schema": 1', b'"schema": true'),
        lambda text: text.replace(b'"schema": 1', b'"schema": 1, "more": 1'),
        lambda text: text.replace(b'"bytes": 600', b'"bytes": "600"'),
        lambda text: text.replace(b'"bytes": 600', b'"bytes": 0'),
        lambda text: text.replace(b'"bytes": 600', b'"bytes": 600.5'),
        lambda text: text.replace(b'"tensorrt"', b'"tensorflow"'),
        lambda text: text.replace(b'"fp16"', b'"fp8"'),
        lambda text: text.replace(b'"host_code": false', b'"host_code": 0'),
        lambda text: text.replace(b'"host_code": false', b'"host_code": null'),
        lambda text: text.replace(b'"options": {}', b'"options": []'),
        lambda text: text.replace(b'"build": {}', b'"build": 1'),
        lambda text: text.replace(b'"dtype": "uint8"', b'"dtype": 8'),
        lambda text: text.replace(b'"dtype": "uint8",', b'"dtype": "uint8", "more": 1,'),
        lambda _: b"[]",
        lambda _: b"",
        lambda _: b"\xff",
    ],
)
def test_a_sidecar_that_python_refuses_is_refused(probe: Probe, bundle: Path, damage: Any) -> None:
    plan = write_engine(bundle / "engines", "a.engine", classic_plan(), source_sha256=GRAPH)
    before = sidecar_path(plan).read_bytes()
    assert damage(before) != before
    sidecar_path(plan).write_bytes(damage(before))
    assert "error" in python(bundle, nano(), "fp16", None)
    (answer,) = probe.ask(case(bundle, nano(), "fp16", None))
    assert answer["error"].startswith(f"{plan}.json: ")
    assert "\n" not in answer["error"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": [EngineTensor(name="x", dtype="uint8", shape=[-1, 8, 32, 32, 1])]}, "`clip`"),
        ({"inputs": [EngineTensor(name="clip", dtype="int8", shape=[-1, 8, 32, 32, 1])]}, "int8"),
        ({"inputs": [EngineTensor(name="clip", dtype="uint8", shape=[-1, 8, 48, 32, 1])]}, "48"),
        ({"outputs": []}, "score"),
        ({"batches": []}, "batch"),
        ({"batches": [0]}, "batch"),
    ],
)
def test_a_plan_of_another_shape_is_refused_before_it_is_loaded(
    probe: Probe, bundle: Path, changes: dict[str, Any], words: str
) -> None:
    write_engine(bundle / "engines", "a.engine", classic_plan(), source_sha256=GRAPH, **changes)
    (answer,) = probe.ask(case(bundle, nano(), "fp16", None) | {"clip": [8, 32, 32, 1]})
    assert words in answer["error"]
    assert "Build it again with: vad-export build-engine " in answer["error"]


# -- plans of trtexec --------------------------------------------------------------------------


def test_a_plan_without_a_sidecar_runs_only_where_that_was_asked_for(
    probe: Probe, tmp_path: Path
) -> None:
    plan = tmp_path / "a b.engine"
    plan.write_bytes(classic_plan((0, 0, 0, 0)))  # before 8.6 no version stands there
    asked = case(tmp_path, nano(libraries={"tensorrt": "8.5.2"}), "fp32", plan)
    (answer,) = probe.ask(asked)
    assert "error" in answer
    (answer,) = probe.ask(asked | {"no_sidecar": True})
    assert (answer["plan"], answer["flavour"]) == (str(plan), "TensorRT")
    assert answer["rebuild"].startswith("trtexec --onnx=model.onnx --optShapes=clip:1x")
    assert answer["rebuild"].endswith(f"'--saveEngine={plan}'")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist. Build an engine with: trtexec "),
        (b"just a text", "is a text file, not a plan."),
        (b"ftrt short", "too short for a plan"),
        (rtx_plan(), "is a plan of TensorRT-RTX, which this program does not run."),
    ],
)
def test_what_is_no_plan_is_refused_without_a_sidecar_too(
    probe: Probe, tmp_path: Path, content: bytes | None, words: str
) -> None:
    plan = tmp_path / "a.engine"
    if content is not None:
        plan.write_bytes(content)
    (answer,) = probe.ask(case(tmp_path, nano(), "fp32", plan) | {"no_sidecar": True})
    assert words in answer["error"]


def test_a_sidecar_that_is_there_is_heeded(probe: Probe, bundle: Path) -> None:
    plan = write_engine(bundle / "engines", "a.engine", classic_plan(), source_sha256=GRAPH)
    (answer,) = probe.ask(case(bundle, nano(), "fp16", plan) | {"no_sidecar": True})
    assert answer["error"].endswith("is to be heeded. Leave --no-sidecar out.")
    for engine in (None, plan.parent):
        (answer,) = probe.ask(case(bundle, nano(), "fp16", engine) | {"no_sidecar": True})
        assert answer["error"].endswith("Name its file with --engine.")


# -- the calls exist in every version ----------------------------------------------------------

OWNERS = {"runtime": "Runtime", "engine": "ICudaEngine", "context": "IExecutionContext"}
PYTHON_NAMES = {
    "getNbIOTensors": "num_io_tensors",
    "getIOTensorName": "get_tensor_name",
    "getTensorIOMode": "get_tensor_mode",
    "getTensorDataType": "get_tensor_dtype",
    "getNbOptimizationProfiles": "num_optimization_profiles",
    "getProfileShape": "get_tensor_profile_shape",
    "enqueueV3": "execute_async_v3",
    "setEngineHostCodeAllowed": "engine_host_code_allowed",
}
"""Where the binding has a name or a property of its own; all else is the same in snake_case."""

ENUMS = {"TensorIOMode": {"kINPUT": 0}, "OptProfileSelector": {"kMAX": 2}}


def cpp_calls() -> set[tuple[str, str]]:
    """Return owner and member of each call of TensorRT's objects in the C++ source."""
    text = "".join(
        (BACKENDS / name).read_text() for name in ("tensorrt.cpp", "tensorrt_library.cpp")
    )
    return set(re.findall(r"\b(runtime|engine|context)_?->(\w+)\(", text))


def snapshots() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted((ROOT / "tests" / "trt_api").glob("*.json")):
        if not file.name.startswith("rtx"):  # C++ runs no plans of TensorRT-RTX
            yield file.stem, json.loads(file.read_text())


def snake(name: str) -> str:
    return PYTHON_NAMES.get(name) or re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def test_every_call_of_the_cpp_source_exists_in_every_version() -> None:
    calls = cpp_calls()
    assert {"deserializeCudaEngine", "enqueueV3", "setTensorAddress"} <= {name for _, name in calls}
    versions = dict(snapshots())
    assert len(versions) >= 4
    for version, api in versions.items():
        for owner, name in sorted(calls):
            assert snake(name) in api[OWNERS[owner]], f"{version} has no {OWNERS[owner]}.{name}"


def test_the_numbers_of_types_are_those_of_every_version() -> None:
    text = (BACKENDS / "tensorrt_values.hpp").read_text()
    known = {int(number): name for number, name in re.findall(r'\{(\d), \{"(\w+)"', text)}
    titles = {"float32": "FLOAT", "float16": "HALF", "float8": "FP8", "bfloat16": "BF16"}
    assert len(known) == 9
    for version, api in snapshots():
        numbers = api["DataType::enum"]
        for number, name in known.items():
            title = titles.get(name, name.upper())
            assert numbers.get(title, number) == number, f"{version}: {title}"


# -- with NVIDIA's headers ---------------------------------------------------------------------


def header_folders() -> list[Path]:
    given = os.environ.get("VAD_TENSORRT_HEADERS", "")
    return [Path(folder) for folder in given.split(os.pathsep) if folder]


def test_the_source_compiles_against_the_headers_that_are_given() -> None:
    folders = header_folders()
    if not folders:
        pytest.skip("no NVIDIA headers; set VAD_TENSORRT_HEADERS=FOLDER[:FOLDER...]")
    done = subprocess.run([CHECK, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": compiles") == len(folders)


def stubs_from_header(header: str) -> str:
    """Return classes whose every function aborts, for fake_nvinfer.cpp."""
    text = re.sub(r"//.*", "", header)
    lines = []
    for base, name in (
        ("VRuntime", "RuntimeStub"),
        ("VCudaEngine", "EngineStub"),
        ("VExecutionContext", "ContextStub"),
    ):
        body = re.search(rf"class {base} : public VRoot\s*\{{(.*?)\n\}};", text, re.S)
        assert body is not None, f"no class {base} in NvInferImpl.h"
        lines.append(f"class {name} : public {base} {{\n public:")
        for function in re.findall(r"virtual (.*?) = 0;", body[1], re.S):
            signature = re.sub(r"TRT_\w+ ", "", " ".join(function.split()))
            lines.append(f"  {signature} override {{ std::abort(); }}")
        lines.append("};")
    return "\n".join(lines) + "\n"


def cuda_headers() -> Path:
    given = os.environ.get("VAD_CUDA_HEADERS", "/usr/local/cuda/include")
    assert (Path(given) / "cuda_runtime_api.h").is_file(), "set VAD_CUDA_HEADERS"
    return Path(given)


class FakeGpu:
    """The program built for one version of TensorRT, with a fake library and a fake driver."""

    def __init__(self, headers: Path, folder: Path, libcuda: Path) -> None:
        include = headers / "include" if (headers / "include").is_dir() else headers
        source = (include / "NvInferVersion.h").read_text()
        numbers = re.findall(r"^#define (?:NV_TENSORRT|TRT)_M\w+ (\d+)", source, re.M)
        self.numbers = [*map(int, numbers[:2])]
        (folder / "fake_nvinfer_stubs.inc").write_text(
            stubs_from_header((include / "NvInferImpl.h").read_text())
        )
        self.folder = folder
        library = folder / f"libnvinfer.so.{self.numbers[0]}"
        warnings = ["-w", "-fPIC", "-shared", f"-I{folder}"]
        systems = ["-isystem", str(include), "-isystem", str(cuda_headers())]
        fake = str(NATIVE / "tests" / "fake_nvinfer.cpp")
        subprocess.run(
            ["c++", "-std=c++17", *warnings, *systems, fake, "-o", str(library), "-ldl"], check=True
        )
        off = [f"-DVAD_{name}=OFF" for name in ("FFMPEG", "GSTREAMER", "OPENCV", "OPENVINO")]
        configure = ["cmake", "-S", str(ROOT), "-B", str(folder / "build"), "-G", "Ninja", *off]
        configure += ["-DVAD_ONNXRUNTIME=OFF", "-DVAD_CUDA=OFF", "-DVAD_TESTS=ON"]
        configure += ["-DVAD_TENSORRT=ON", f"-DTensorRT_INCLUDE_DIR={include}"]
        configure += [f"-DTensorRT_CUDA_INCLUDE_DIR={cuda_headers()}"]
        build = ["cmake", "--build", str(folder / "build"), "--target", "plan_probe"]
        given = os.environ.get("VAD_PLAN_PROBE")
        if given is None:
            for command in (configure, build):
                done = subprocess.run(command, capture_output=True, text=True)
                assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        self.program = Path(given or folder / "build" / "runtime" / "native" / "plan_probe")
        self.environment = environment_with(libcuda)
        paths = [str(folder), self.environment["LD_LIBRARY_PATH"]]
        self.environment["LD_LIBRARY_PATH"] = os.pathsep.join(paths)

    def ask(self, bundle: Bundle, environment: dict[str, str] | None = None, **case: Any) -> Any:
        probe = Probe(self.program, **self.environment, **(environment or {}))
        return probe.ask({"call": "open", "bundle": str(bundle.path), "frames": 10, **case})[0]


@pytest.fixture(scope="module")
def fake_gpu(tmp_path_factory: pytest.TempPathFactory, libcuda: Path) -> FakeGpu:
    folders = header_folders()
    if not folders:
        pytest.skip("no NVIDIA headers; set VAD_TENSORRT_HEADERS=FOLDER[:FOLDER...]")
    return FakeGpu(folders[0], tmp_path_factory.mktemp("nvinfer"), libcuda)


def planned(
    fake: FakeGpu,
    folder: Path,
    graph: Path,
    mode: str = "ok",
    batch: int = 1,
    half: int = 0,
    **changes: Any,
) -> Bundle:
    """Write a bundle with a plan of the fake library: 8 grey frames of 32 x 32, 8 scores."""
    bundle = write_bundle(
        folder / "site.vad", manifest(artefacts={"fp32": artefact(opset=18)}), {"fp32": graph}
    )
    spec = clip_spec()
    major, minor = fake.numbers
    header = classic_plan((major, minor, 0, 0), length=64)
    text = f"{mode} {batch} {spec.frames} {spec.height} {spec.width} 1 8 {half}"
    about = {
        "version": f"{major}.{minor}",
        "architecture": os.uname().machine,
        "l4t": None,
        "precision": "fp32",
        "source_sha256": bundle.manifest.artefacts["fp32"].sha256,
        "batches": [batch, batch + 3],
        **changes,
    }
    write_engine(bundle.path / "engines", "a.engine", header + text.encode(), **about)
    return bundle


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("batch", [1, 4])
def test_scores_are_those_of_the_last_frames(
    fake_gpu: FakeGpu, tmp_path: Path, tiny_graph: Path, graphs: bool, batch: int
) -> None:
    bundle = planned(fake_gpu, tmp_path, tiny_graph, batch=batch)
    answer = fake_gpu.ask(bundle, graphs=graphs)
    assert answer["scores"] == [[float(first + k) for k in range(8)] for first in range(3)]
    assert answer["device"].startswith("TensorRT ")
    kind = "CUDA graph" if graphs else "no CUDA graph (switched off)"
    assert answer["device"].endswith(f"on cuda:0 (Fake GPU, SM 87), fp32, batch {batch}, {kind}")


def test_two_rings_of_one_back_end_keep_their_own_frames(
    fake_gpu: FakeGpu, tmp_path: Path, tiny_graph: Path
) -> None:
    answer = fake_gpu.ask(planned(fake_gpu, tmp_path, tiny_graph), rings=2)
    assert [scores[0] for scores in answer["scores"]] == [0, 10, 1, 11, 2, 12]


def test_scores_of_16_bits_are_read(fake_gpu: FakeGpu, tmp_path: Path, tiny_graph: Path) -> None:
    answer = fake_gpu.ask(planned(fake_gpu, tmp_path, tiny_graph, half=1))
    assert answer["scores"][2] == [2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("place", ["begin", "end", "instantiate"])
def test_a_driver_that_cannot_capture_runs_it_directly(
    fake_gpu: FakeGpu, tmp_path: Path, tiny_graph: Path, place: str
) -> None:
    bundle = planned(fake_gpu, tmp_path, tiny_graph)
    answer = fake_gpu.ask(bundle, {"FAKE_CUDA_NO_CAPTURE": place})
    assert "no CUDA graph (" in answer["device"]
    assert answer["scores"][0] == [0, 1, 2, 3, 4, 5, 6, 7]


def test_a_graph_that_gives_other_numbers_is_not_used(
    fake_gpu: FakeGpu, tmp_path: Path, tiny_graph: Path
) -> None:
    answer = fake_gpu.ask(planned(fake_gpu, tmp_path, tiny_graph, mode="drift"))
    assert "no CUDA graph (replayed, it gave other numbers)" in answer["device"]


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("nan", "a score that is not finite. Try --precision fp32."),
        ("unload", "Version: 213) (the plan was built by another version of TensorRT"),
        ("refuse", "the engine does not run: TensorRT "),
    ],
)
def test_what_the_library_refuses_is_told(
    fake_gpu: FakeGpu, tmp_path: Path, tiny_graph: Path, mode: str, words: str
) -> None:
    answer = fake_gpu.ask(planned(fake_gpu, tmp_path, tiny_graph, mode=mode))
    assert words in answer["error"]


def test_a_runtime_that_only_looks_alive_is_never_touched(
    fake_gpu: FakeGpu, tmp_path: Path, tiny_graph: Path
) -> None:
    bundle = planned(fake_gpu, tmp_path, tiny_graph)
    answer = fake_gpu.ask(bundle, {"FAKE_NVINFER_BOGUS": "1"})
    assert "makes no runtime" in answer["error"]
    assert "no NVIDIA driver here, or it is older than this TensorRT needs" in answer["error"]


def test_without_a_driver_no_library_is_asked(
    fake_gpu: FakeGpu, tmp_path: Path, tiny_graph: Path
) -> None:
    bundle = planned(fake_gpu, tmp_path, tiny_graph)
    answer = fake_gpu.ask(bundle, {"FAKE_CUDA_INIT_ERROR": "999", "FAKE_NVINFER_BOGUS": "1"})
    assert answer["error"].startswith("The NVIDIA driver does not start")


def test_a_library_older_than_the_headers_is_refused(
    fake_gpu: FakeGpu, tmp_path: Path, tiny_graph: Path
) -> None:
    bundle = planned(fake_gpu, tmp_path, tiny_graph)
    old = {8: "8400", 10: "100000", 11: "109900"}[fake_gpu.numbers[0]]
    answer = fake_gpu.ask(bundle, {"FAKE_NVINFER_VERSION": old})
    assert "is older than" in answer["error"]


def test_host_code_is_run_only_when_asked_for(
    fake_gpu: FakeGpu, tmp_path: Path, tiny_graph: Path
) -> None:
    bundle = planned(fake_gpu, tmp_path, tiny_graph, host_code=True)
    assert "add --host-code" in fake_gpu.ask(bundle)["error"]
    answer = fake_gpu.ask(bundle, host_code=True)
    if fake_gpu.numbers < [8, 6]:
        assert "has no switch for host code" in answer["error"]
    else:
        assert "scores" in answer


def test_a_plan_that_holds_another_shape_than_its_sidecar_says_is_refused(
    fake_gpu: FakeGpu, tmp_path: Path, tiny_graph: Path
) -> None:
    bundle = planned(fake_gpu, tmp_path, tiny_graph)
    plan = bundle.path / "engines" / "a.engine"
    sidecar = engine_sidecar(plan.read_bytes(), plan.name)
    text = plan.read_bytes().replace(b" 32 32 1", b" 32 48 1")
    plan.write_bytes(text)
    before = json.loads(sidecar_path(plan).read_bytes())
    changed = engine_sidecar(text, plan.name, **{key: before[key] for key in ("version",)})
    sidecar_path(plan).write_bytes(
        json.dumps(before | {"sha256": changed.sha256, "bytes": changed.bytes}).encode()
    )
    assert json_from_sidecar(sidecar) != sidecar_path(plan).read_bytes()
    answer = fake_gpu.ask(bundle)
    assert (
        "takes a clip of uint8 (N, 8, 32, 48, 1), the manifest says uint8 (N, 8, 32, 32, 1)"
        in (answer["error"])
    )


def test_a_plan_of_trtexec_is_compared_with_the_manifest_when_it_is_loaded(
    fake_gpu: FakeGpu, tmp_path: Path, tiny_graph: Path
) -> None:
    bundle = planned(fake_gpu, tmp_path, tiny_graph)
    plan = bundle.path / "engines" / "a.engine"
    sidecar_path(plan).unlink()
    case: dict[str, Any] = {"engine": str(plan), "no_sidecar": True}
    assert "has no sidecar" in fake_gpu.ask(bundle, engine=str(plan))["error"]
    answer = fake_gpu.ask(bundle, **case)
    assert answer["scores"][0] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert ", a plan without sidecar, in the precision that it was built in," in answer["device"]
    assert answer["artefact"] == "unknown"
    plan.write_bytes(plan.read_bytes().replace(b" 32 32 1", b" 32 48 1"))
    answer = fake_gpu.ask(bundle, **case)
    assert "takes a clip of uint8 (N, 8, 32, 48, 1)" in answer["error"]
    assert "Build it again with: trtexec --onnx=" in answer["error"]
    assert "--optShapes=clip:1x8x32x32x1" in answer["error"]
