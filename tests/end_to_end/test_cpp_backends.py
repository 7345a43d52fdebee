"""The C++ back ends give Python's scores, device lines and refusals, to the last bit and letter."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import artefact, manifest
from helpers_native import ROOT, native_program
from helpers_precision import SPEC, network
from helpers_qdq import quantised
from onnx import numpy_helper

from vad_export.fp16 import fp16_from_model
from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Clips, Options, PrecisionChoice
from vad_runtime.backends.openvino import _core
from vad_runtime.backends.openvino_unsigned import read_unsigned, unsigned_is_safe
from vad_runtime.bundle import Bundle, write_bundle
from vad_runtime.contracts import VadError
from vad_runtime.contracts.manifest import PlanChoice

PRECISIONS: list[PrecisionChoice] = ["auto", "fp32", "bf16", "fp16", "int8", "mixed"]


def clips_of(count: int = 4) -> Clips:
    """Return clips of different brightness and noise."""
    rng = np.random.default_rng(2)
    strength = rng.integers(2, 256, (count, 1, 1, 1, 1))
    return rng.integers(0, strength, (count, *SPEC.clip_shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One network in each precision that an artefact can have."""
    folder = tmp_path_factory.mktemp("graphs")
    model = network()
    in_int8 = quantised(model, clips_of())
    models = {
        "fp32": model,
        "fp16": fp16_from_model(model).model,
        "int8": in_int8,
        "mixed": fp16_from_model(in_int8).model,
    }
    for name, each in models.items():
        onnx.save(each, folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in models}


def bundle_of(folder: Path, graphs: dict[str, Path], plan: PlanChoice | None = None) -> Bundle:
    """Write a bundle of these graphs."""
    artefacts = {
        name: artefact(file=file.name, precision=name, opset=18) for name, file in graphs.items()
    }
    about = manifest(clip=SPEC, artefacts=artefacts)
    about = type(about)(**{k: getattr(about, k) for k in about.__struct_fields__} | {"plan": plan})
    return write_bundle(folder / "site.vad", about, graphs)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, graphs: dict[str, Path]) -> Bundle:
    """A bundle with all precisions. Do not change."""
    return bundle_of(tmp_path_factory.mktemp("bundle"), graphs)


def from_python(
    bundle: Bundle, backend: str, precision: PrecisionChoice, clips: Clips
) -> tuple[str, np.ndarray]:
    """Return the first line and the scores; for a refusal the message and none."""
    try:
        choice = open_backend(bundle, backend, Options(precision=precision, threads=2))
    except VadError as error:
        return f"Error: {error}", np.empty((0,), np.float32)
    scores = choice.backend.infer(clips)["score"]
    choice.backend.close()
    return choice.line, scores.reshape(len(clips), -1)


def from_cpp(
    bundle: Bundle, backend: str, precision: PrecisionChoice, clips: Clips, folder: Path
) -> tuple[str, np.ndarray]:
    """Return the same of the C++ library. Skips where it was built without this back end."""
    clips.tofile(folder / "clips")
    words = [bundle.path, backend, precision, "2", folder / "clips"]
    program = native_program("backend_probe")
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True)
    line, *rows = done.stdout.splitlines()
    if f"{backend} is not in this build" in line:
        pytest.skip(line)
    scores = [[float.fromhex(word) for word in row.split()] for row in rows]
    return line, np.array(scores, np.float32)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "fake"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_scores_and_device_line_are_those_of_python(
    bundle: Bundle, tmp_path: Path, backend: str, precision: PrecisionChoice
) -> None:
    clips = clips_of()
    line, scores = from_python(bundle, backend, precision, clips)
    found, same = from_cpp(bundle, backend, precision, clips, tmp_path)
    assert found == line
    np.testing.assert_array_equal(same, scores)


def test_the_int8_graph_of_these_tests_has_activations_to_read_unsigned(
    graphs: dict[str, Path],
) -> None:
    if not unsigned_is_safe():
        pytest.skip("this processor has no dot product of bytes")
    assert read_unsigned(_core().read_model(str(graphs["int8"]))) > 1


def test_activations_that_can_be_negative_stay_signed(tmp_path: Path) -> None:
    model = network()
    for weight in model.graph.initializer:
        if weight.name == "scale":  # negative numbers by a constant
            weight.CopyFrom(numpy_helper.from_array(np.array(-1 / 255, np.float32), "scale"))
    for node in model.graph.node:
        if node.name == "relu2":  # and by an operator
            node.op_type = "Neg"
    onnx.save(quantised(model, clips_of()), tmp_path / "int8.onnx")
    bundle = bundle_of(tmp_path, {"int8": tmp_path / "int8.onnx"})
    line, scores = from_python(bundle, "openvino", "int8", clips_of())
    found, same = from_cpp(bundle, "openvino", "int8", clips_of(), tmp_path)
    assert found == line
    np.testing.assert_array_equal(same, scores)


def test_a_precision_that_the_bundle_lacks_is_refused_in_the_same_words(
    graphs: dict[str, Path], tmp_path: Path
) -> None:
    bundle = bundle_of(tmp_path, {"fp32": graphs["fp32"]})
    for backend in ("auto", "openvino"):
        line, _ = from_python(bundle, backend, "int8", clips_of(1))
        assert line.startswith("Error: site.vad has no int8 artefact")
        assert from_cpp(bundle, backend, "int8", clips_of(1), tmp_path)[0] == line


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_auto_follows_a_plan_as_python_does(
    graphs: dict[str, Path], tmp_path: Path, precision: PrecisionChoice
) -> None:
    plan = PlanChoice(
        backend="openvino",
        precision=precision,
        target_ms=33.3333333,
        median_ms=1234.5,
        p95_ms=1300.0,
        cpu="A CPU",
        threads=2,
        why="for this test",
    )
    bundle = bundle_of(tmp_path, graphs, plan)
    # The probe's `openvino` run skips this where the build lacks it; `auto` would take another.
    from_cpp(bundle, "openvino", "fp32", clips_of(1), tmp_path)
    line, scores = from_python(bundle, "auto", "auto", clips_of())
    assert "the plan" in line or "planned on A CPU for 33.3333 ms a clip: 1.23e+03 ms" in line
    found, same = from_cpp(bundle, "auto", "auto", clips_of(), tmp_path)
    assert found == line
    np.testing.assert_array_equal(same, scores)


def test_an_onnx_runtime_of_a_wheel_is_installed_under_the_name_that_programs_look_for(
    tmp_path: Path,
) -> None:
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        pytest.skip("needs CMake and ninja")
    wheel = tmp_path / "wheel" / "capi" / "libonnxruntime.so.1.99.0"
    header = tmp_path / "wheel" / "include" / "onnxruntime_c_api.h"
    for file, content in ((wheel, ""), (header, "#define ORT_API_VERSION 99\n")):
        file.parent.mkdir(parents=True)
        file.write_text(content)
    others = ("FFMPEG", "GSTREAMER", "OPENCV", "OPENVINO", "TENSORRT", "CUDA")
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path / "build"), "-G", "Ninja"]
    command += [f"-DVAD_{name}=OFF" for name in others]
    command += ["-DVAD_ONNXRUNTIME=ON", f"-DONNXRuntime_ROOT={tmp_path / 'wheel'}"]
    for _ in range(2):  # the second time it comes from the cache
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        rules = (tmp_path / "build" / "runtime" / "native" / "cmake_install.cmake").read_text()
        assert f'RENAME "libonnxruntime.so.1" FILES "{wheel}"' in rules
