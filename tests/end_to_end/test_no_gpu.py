"""`vad-run --backend tensorrt` where something is missing or wrong: one line, never a crash.

The four libraries are the real ones where they are installed, and there is no driver. Where a
driver is needed for what is shown, libcuda and TensorRT are fakes (helpers_cuda,
helpers_fake_tensorrt): then whole runs work, too.
"""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import moving_blob, write_video
from helpers_cuda import environment_with
from helpers_engines import built_plan
from helpers_fake_tensorrt import (
    hide_installed,
    install_fake,
    use_fake,
    with_driver,
)
from helpers_plans import classic_plan, write_engine

from vad_runtime.bundle import Bundle
from vad_runtime.engines.adapter import found

BIN = Path(sys.executable).parent
REAL = {
    "rtx": "tensorrt_rtx_bindings",
    "lean": "tensorrt_lean_bindings",
    "dispatch": "tensorrt_dispatch_bindings",
}
NO_PICTURES = ("--no-overlay", "--no-plot")
Done = subprocess.CompletedProcess[str]


def command(environment: dict[str, str], *words: str | Path, program: str = "vad-run") -> Done:
    """Run an installed command."""
    return subprocess.run(
        [BIN / program, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        env={"OMP_NUM_THREADS": "1"} | environment,
    )


def assert_refused(done: Done, *words: str) -> None:
    """Assert exit code 1 and one line on stderr with these words."""
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)  # -11: it crashed
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    for word in words:
        assert word in line, line


def without_driver(folder: Path) -> dict[str, str]:
    """Return an environment in which nobody finds a libcuda."""
    plain = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    return plain | {"PYTHONPATH": str(folder)}


def require_no_driver() -> None:
    if importlib.import_module("vad_runtime.cuda.driver").driver_installed():
        pytest.skip("this machine has an NVIDIA driver")


def require_real(flavour: str) -> None:
    if importlib.util.find_spec(REAL[flavour]) is None:
        assert os.environ.get("VAD_REQUIRE_DATA") != "1", f"{REAL[flavour]} is not installed"
        pytest.skip(f"{REAL[flavour]} is not installed")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty frames."""
    return write_video(tmp_path_factory.mktemp("video") / "v.mp4", moving_blob(20))


@pytest.fixture
def watch(bundle_copy: Path, video: Path, tmp_path: Path) -> Callable[..., Done]:
    """Runs `vad-run watch` on the bundle with TensorRT."""

    def run(environment: dict[str, str], *words: str | Path) -> Done:
        out = ("-o", tmp_path / "out", *NO_PICTURES)
        return command(
            environment, "watch", bundle_copy, video, "--backend", "tensorrt", *out, *words
        )

    return run


# -- no driver ---------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", list(REAL))
def test_a_real_library_without_a_driver_is_one_line_and_no_crash(
    watch: Callable[..., Done], bundle_copy: Path, tmp_path: Path, flavour: str
) -> None:
    require_no_driver()
    require_real(flavour)
    write_engine(bundle_copy / "engines", "model.engine", classic_plan(), precision="fp32")
    done = watch(without_driver(hide_installed(tmp_path / "hidden", but=flavour)))
    assert_refused(done, "No NVIDIA driver", "--backend openvino")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flavour", list(REAL))
def test_doctor_and_require_do_not_crash_either(tmp_path: Path, flavour: str) -> None:
    require_no_driver()
    require_real(flavour)
    code = "from vad_runtime.backends import refusal; print(refusal('tensorrt'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=without_driver(hide_installed(tmp_path / "hidden", but=flavour)),
    )
    assert done.returncode == 0, done.stderr
    assert "No NVIDIA driver" in done.stdout


@pytest.mark.parametrize("backend", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_onnxruntime_on_a_gpu_without_a_driver_is_one_line(
    bundle_copy: Path, video: Path, tmp_path: Path, backend: str
) -> None:
    require_no_driver()
    out = ("-o", tmp_path / "out", *NO_PICTURES)
    done = command(
        without_driver(tmp_path), "watch", bundle_copy, video, "--backend", backend, *out
    )
    assert_refused(done, "No NVIDIA driver")


def test_auto_on_cuda_without_a_driver_is_one_line(
    bundle_copy: Path, video: Path, tmp_path: Path
) -> None:
    require_no_driver()
    done = command(
        without_driver(tmp_path), "score", bundle_copy, video, "-o", tmp_path / "o", "--device=cuda"
    )
    assert_refused(done, "No NVIDIA driver", "copy.vad")


def test_a_device_of_no_known_form_is_a_usage_error(
    bundle_copy: Path, video: Path, tmp_path: Path
) -> None:
    done = command(
        dict(os.environ), "score", bundle_copy, video, "-o", tmp_path / "o", "--device=gpu"
    )
    assert_refused(done, "'gpu' is no device", "cuda:1")


# -- a driver, and something else that is missing or wrong -----------------------------------------


def test_a_driver_without_any_library_gives_the_pip_line(
    watch: Callable[..., Done], libcuda: Path, tmp_path: Path
) -> None:
    hidden = hide_installed(tmp_path / "hidden")
    done = watch(environment_with(libcuda, PYTHONPATH=str(hidden)))
    assert_refused(done, "TensorRT is not installed", "pip install 'vad-edge[trt]'")


def test_a_driver_that_finds_no_gpu_is_one_line(
    watch: Callable[..., Done], libcuda: Path, tmp_path: Path
) -> None:
    hidden = hide_installed(tmp_path / "hidden", but="lean")
    done = watch(environment_with(libcuda, PYTHONPATH=str(hidden), FAKE_CUDA_GPUS="0"))
    assert_refused(done, "finds no GPU")


def test_a_real_rtx_plan_for_another_gpu_is_refused_before_rtx_sees_it(
    watch: Callable[..., Done], libcuda: Path, bundle_copy: Path, tmp_path: Path
) -> None:
    require_real("rtx")
    hidden = hide_installed(tmp_path / "hidden", but="rtx")
    environment = environment_with(libcuda, PYTHONPATH=str(hidden), FAKE_CUDA_SM="86")
    built = command(environment, "build-engine", bundle_copy, "--sm", "89", program="vad-export")
    assert built.returncode == 0, built.stderr
    assert_refused(watch(environment), "SM 89", "SM 86", "vad-export build-engine")


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch, bundle_copy: Path) -> Path:
    """The bundle's one plan, for TensorRT 10.3.0 on SM 87."""
    with_driver(monkeypatch)
    use_fake(monkeypatch, "10.3.0")
    return built_plan(found("tensorrt"), Bundle.open(bundle_copy, verify=False))


def _flipped(plan: Path) -> None:
    data = bytearray(plan.read_bytes())
    data[-100] ^= 1
    plan.write_bytes(bytes(data))


def _cut(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-1000])


def _version(plan: Path) -> None:
    sidecar = Path(f"{plan}.json")
    about = json.loads(sidecar.read_text())
    data = bytearray(plan.read_bytes())
    data[24:28] = bytes((10, 7, 0, 23))
    plan.write_bytes(bytes(data))
    from hashlib import sha256

    about |= {"version": "10.7.0", "sha256": sha256(data).hexdigest()}
    sidecar.write_text(json.dumps(about))


def _stale(plan: Path) -> None:
    sidecar = Path(f"{plan}.json")
    about = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(about | {"source_sha256": "00" * 32}))


SPOILT: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "flipped byte": (_flipped, ("was changed or damaged", "sha256")),
    "truncated": (_cut, ("was cut off",)),
    "no sidecar": (lambda plan: Path(f"{plan}.json").unlink(), ("has no sidecar",)),
    "text": (lambda plan: plan.write_text("an engine\n"), ("is a text file",)),
    "empty": (lambda plan: plan.write_bytes(b""), ("is empty",)),
    "onnx": (
        lambda plan: plan.write_bytes((plan.parents[1] / "model.onnx").read_bytes()),
        ("is an ONNX graph",),
    ),
    "version": (_version, ("10.7.0", "10.3.0", "version")),
    "stale": (_stale, ("built from another",)),
    "none": (lambda plan: plan.unlink(), ("holds no engine",)),
}


@pytest.mark.parametrize("kind", list(SPOILT))
@pytest.mark.parametrize("named", [False, True], ids=["found", "named"])
def test_each_kind_of_wrong_plan_has_its_own_line(
    watch: Callable[..., Done], room: Path, libcuda: Path, tmp_path: Path, kind: str, named: bool
) -> None:
    spoil, words = SPOILT[kind]
    spoil(room)
    if kind == "none" and named:
        words = ("does not exist",)
    fakes = install_fake(tmp_path / "fake", "10.3.0")
    # Whatever TensorRT would say: it is not asked.
    environment = environment_with(
        libcuda, PYTHONPATH=str(fakes), FAKE_TENSORRT='{"load_error": "TensorRT saw the plan"}'
    )
    done = watch(environment, *(("--engine", room) if named else ()))
    assert_refused(done, "model.engine" if kind != "none" else "engines", *words, "build")
    assert "TensorRT saw" not in done.stderr


def test_a_plan_for_another_gpu_names_both(
    watch: Callable[..., Done], room: Path, libcuda: Path, tmp_path: Path
) -> None:
    fakes = install_fake(tmp_path / "fake", "10.3.0")
    done = watch(environment_with(libcuda, PYTHONPATH=str(fakes), FAKE_CUDA_SM="86"))
    assert_refused(done, "model.engine", "SM 87", "SM 86", "vad-export build-engine")


def test_code_for_the_host_is_refused_unless_asked(
    watch: Callable[..., Done],
    libcuda: Path,
    bundle_copy: Path,
    tmp_path: Path,
) -> None:
    fakes = install_fake(tmp_path / "fake", "10.3.0")
    environment = environment_with(libcuda, PYTHONPATH=str(fakes), FAKE_CUDA_SM="87")
    words = ("build-engine", bundle_copy, "--version-compatible", "--host-code")
    built = command(environment, *words, program="vad-export")
    assert built.returncode == 0, built.stderr
    assert_refused(watch(environment), "code that runs on the host", "--host-code")
    assert watch(environment, "--host-code").returncode == 0


# -- whole runs on fakes ---------------------------------------------------------------------------


def scores(folder: Path) -> list[float]:
    with (folder / "scores.csv").open() as stream:
        return [float(row["raw"]) for row in csv.DictReader(stream) if row["raw"]]


@pytest.mark.parametrize(("snapshot", "sm"), [("8.6.1", "87"), ("11.4.0", "87"), ("rtx1.7", "89")])
def test_a_built_engine_scores_like_onnxruntime(
    bundle_copy: Path, video: Path, libcuda: Path, tmp_path: Path, snapshot: str, sm: str
) -> None:
    fakes = install_fake(tmp_path / "fake", snapshot)
    cache = str(tmp_path / "cache")
    environment = environment_with(libcuda, PYTHONPATH=str(fakes), FAKE_CUDA_SM=sm, VAD_CACHE=cache)
    built = command(
        environment, "build-engine", bundle_copy, "--batch", "1,4", program="vad-export"
    )
    assert built.returncode == 0, built.stderr
    for backend in ("tensorrt", "onnxruntime"):
        out = ("-o", tmp_path / backend, *NO_PICTURES)
        done = command(environment, "score", bundle_copy, video, "--backend", backend, *out)
        assert done.returncode == 0, done.stderr
        if backend == "tensorrt":
            assert f"on cuda:0 (Fake GPU, SM {sm}), fp32, batch 1+4, CUDA graph" in done.stdout
    ours, theirs = scores(tmp_path / "tensorrt"), scores(tmp_path / "onnxruntime")
    assert len(ours) == 20
    assert ours == pytest.approx(theirs, abs=1e-6)
    report = json.loads((tmp_path / "tensorrt" / "report.json").read_text())
    assert "cuda:0" in json.dumps(report)


def test_rebuild_makes_the_plan_that_was_missing(
    watch: Callable[..., Done],
    room: Path,
    libcuda: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if sys.version_info >= (3, 11):  # Python 3.10 cannot leave the working folder out
        (tmp_path / "click.py").write_text("raise SystemExit('the wrong one')")
    fakes = install_fake(tmp_path / "fake", "10.3.0")
    environment = environment_with(libcuda, PYTHONPATH=str(fakes), FAKE_CUDA_SM="86")
    done = watch(environment, "--rebuild")
    assert done.returncode == 0, done.stderr
    assert "SM 86), fp32" in done.stdout
    assert "SM 87" in done.stderr  # why it was built
    assert [plan.name for plan in room.parent.glob("*sm86.engine")]
    assert room.exists()  # the other machine's


def test_a_rebuild_that_fails_is_one_error_line_with_the_builders_reason(
    watch: Callable[..., Done], room: Path, libcuda: Path, tmp_path: Path
) -> None:
    fakes = install_fake(tmp_path / "fake", "10.3.0")
    environment = environment_with(
        libcuda,
        PYTHONPATH=str(fakes),
        FAKE_CUDA_SM="86",
        FAKE_TENSORRT='{"build_error": "Could not find any implementation for node conv1"}',
    )
    done = watch(environment, "--rebuild")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    (line,) = errors
    assert "no engine was built" in line
    assert "any implementation for node conv1" in line
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("whole_group", [True, False], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_rebuild_ends_the_builder_and_leaves_no_plan(
    room: Path, video: Path, libcuda: Path, tmp_path: Path, whole_group: bool
) -> None:
    fakes = install_fake(tmp_path / "fake", "10.3.0")
    environment = environment_with(
        libcuda, PYTHONPATH=str(fakes), FAKE_CUDA_SM="86", FAKE_TENSORRT='{"step_s": 0.3}'
    )
    bundle = room.parents[1]
    words = ["watch", bundle, video, "--backend", "tensorrt", "-o", tmp_path / "out", "--rebuild"]
    process = subprocess.Popen(
        [BIN / "vad-run", *map(str, words)],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("building"):  # the builder's own first line
                break
        time.sleep(0.3)
        if whole_group:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        rest = process.stderr.read()  # ends when the builder has ended, too
        assert process.wait(30) == 130, rest
    assert "Traceback" not in rest
    assert sorted(file.name for file in room.parent.iterdir()) == [
        "model.engine",
        "model.engine.json",
    ]
