"""`auto` says what it took and why; a missing or broken engine names the way out."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
from helpers import artefact, assert_one_line, manifest
from helpers_plans import engine_sidecar

from vad_runtime.backends import backend_names, open_backend, registry
from vad_runtime.backends.base import Options
from vad_runtime.bundle import Bundle, add_artefacts, rewrite_manifest, write_bundle
from vad_runtime.contracts import (
    BackendError,
    NoDriverError,
    PlanChoice,
)
from vad_runtime.contracts.engine import json_from_sidecar

FP32 = Options(precision="fp32", threads=1)
driver_module: Any = importlib.import_module("vad_runtime.cuda.driver")


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are of a machine without a driver, whatever machine runs them."""
    monkeypatch.setattr(driver_module, "_LIBRARY", "libcuda-of-nobody.so.1")
    monkeypatch.setattr(driver_module, "_library", None)
    monkeypatch.setattr(driver_module, "_driver", None)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> "Uninstall":
    """Makes libraries look as if they were not installed."""
    return Uninstall(monkeypatch)


class Uninstall:
    """Hides a library from `import` for the time of a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, library: str) -> None:
        # None in sys.modules is Python's own way to forbid an import.
        self._monkeypatch.delitem(sys.modules, f"vad_runtime.backends.{library}", raising=False)
        self._monkeypatch.setitem(sys.modules, library, None)


@pytest.fixture
def corrupt_bundle(tmp_path: Path) -> Bundle:
    """A bundle whose graph is noise, under a true hash."""
    noise = tmp_path / "noise.onnx"
    noise.write_bytes(b"this was never a graph")
    return write_bundle(tmp_path / "noise.vad", manifest(), {"fp32": noise})


@pytest.fixture
def many(bundle_copy: Path, tiny_graph: Path) -> Bundle:
    """A bundle that has an artefact of each precision; only their labels differ."""
    entries = {
        f"the {name}": (
            artefact(file=f"model.{name}.onnx", precision=name, made_from="fp32"),
            tiny_graph,
        )
        for name in ("mixed", "int8", "fp16")
    }
    return add_artefacts(Bundle.open(bundle_copy), entries)


def with_plan(bundle: Bundle, **changes: Any) -> Bundle:
    """Return the bundle with a plan for int8 on ONNX Runtime, changed as asked."""
    plain: dict[str, Any] = {
        "backend": "onnxruntime",
        "precision": "int8",
        "target_ms": 40.0,
        "median_ms": 12.345,
        "p95_ms": 14.5,
        "cpu": "Xeon 1",
        "threads": 2,
        "why": "the most faithful one under 40 ms",
    }
    plan = PlanChoice(**(plain | changes))
    return rewrite_manifest(bundle, msgspec.structs.replace(bundle.manifest, plan=plan))


def test_auto_takes_openvino_and_says_why(tiny_bundle: Bundle) -> None:
    choice = open_backend(tiny_bundle, "auto", FP32)
    assert choice.name == "openvino"
    assert choice.artefact == "fp32"
    assert choice.reason == "the fastest installed engine on this CPU"
    assert choice.line.startswith("openvino 20")
    assert choice.line.endswith("artefact fp32 (the fastest installed engine on this CPU)")
    assert "\n" not in choice.line


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "fake"])
def test_an_engine_that_was_asked_for_runs_and_says_so(tiny_bundle: Bundle, name: str) -> None:
    choice = open_backend(tiny_bundle, name, FP32)
    assert choice.name == name
    assert choice.reason == "asked for"
    assert name in choice.line


def test_auto_without_openvino_takes_onnxruntime_and_names_the_reason(
    tiny_bundle: Bundle, without: Uninstall
) -> None:
    without("openvino")
    choice = open_backend(tiny_bundle, "auto", FP32)
    assert choice.name == "onnxruntime"
    assert "openvino is not installed" in choice.line
    assert "pip install 'vad-edge[openvino]'" in choice.line
    assert "\n" not in choice.line


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_an_engine_that_is_not_installed_gives_the_pip_line(
    tiny_bundle: Bundle, without: Uninstall, name: str
) -> None:
    without(name)
    with pytest.raises(BackendError) as caught:
        open_backend(tiny_bundle, name, FP32)
    assert_one_line(caught.value, f"{name} is not installed", f"pip install 'vad-edge[{name}]'")


def test_auto_never_takes_the_fake_even_if_nothing_else_is_there(
    tiny_bundle: Bundle, without: Uninstall
) -> None:
    without("openvino")
    without("onnxruntime")
    with pytest.raises(BackendError) as caught:
        open_backend(tiny_bundle, "auto", FP32)
    assert_one_line(caught.value, "vad-edge[openvino]", "vad-edge[onnxruntime]", "tiny.vad")
    assert "fake" not in str(caught.value)


def test_a_library_whose_shared_objects_do_not_load_is_not_called_uninstalled(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def broken(name: str, package: str | None = None) -> object:
        if name == "vad_runtime.backends.openvino":
            raise ImportError("libopenvino.so.2640: cannot open shared object file\nmore")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(BackendError, match="is installed but does not load") as caught:
        open_backend(tiny_bundle, "openvino", FP32)
    assert_one_line(caught.value, "libopenvino.so.2640")
    choice = open_backend(tiny_bundle, "auto", FP32)
    assert choice.name == "onnxruntime"
    assert "libopenvino.so.2640" in choice.reason


def test_a_bug_of_ours_in_a_back_end_is_not_taken_for_a_missing_library(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "vad_runtime.backends.openvino", raising=False)
    monkeypatch.setitem(sys.modules, "vad_runtime.backends.checks", None)
    with pytest.raises(ModuleNotFoundError, match="vad_runtime"):
        open_backend(tiny_bundle, "auto", FP32)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_corrupt_graph_is_one_line(corrupt_bundle: Bundle, name: str) -> None:
    with pytest.raises(BackendError) as caught:
        open_backend(corrupt_bundle, name, FP32)
    assert_one_line(caught.value, name, "model.onnx")


def test_auto_lists_why_each_engine_refused_a_corrupt_graph(corrupt_bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r"no back end can run noise\.vad") as caught:
        open_backend(corrupt_bundle, "auto", FP32)
    assert_one_line(caught.value, "openvino cannot load", "onnxruntime cannot load")


def test_a_bundle_without_an_fp32_graph_says_what_it_has(tmp_path: Path, tiny_graph: Path) -> None:
    about = manifest(artefacts={"half": artefact(precision="fp16")})
    bundle = write_bundle(tmp_path / "half.vad", about, {"half": tiny_graph})
    with pytest.raises(BackendError, match="Export an fp32 graph") as caught:
        open_backend(bundle, "onnxruntime", FP32)
    assert_one_line(caught.value, "half.vad", "(it has: half)")


def test_the_first_fp32_graph_is_taken_whatever_stands_before_it(
    tmp_path: Path, tiny_graph: Path
) -> None:
    about = manifest(
        artefacts={
            "half": artefact(file="half.onnx", precision="fp16"),
            "whole": artefact(file="whole.onnx"),
        }
    )
    bundle = write_bundle(tmp_path / "two.vad", about, {"half": tiny_graph, "whole": tiny_graph})
    assert open_backend(bundle, "onnxruntime", FP32).artefact == "whole"


# -- precision ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["auto", "openvino", "onnxruntime", "fake"])
@pytest.mark.parametrize("precision", ["fp16", "int8", "mixed"])
def test_a_precision_that_is_asked_for_runs_its_artefact(
    many: Bundle, name: str, precision: Any
) -> None:
    choice = open_backend(many, name, Options(precision=precision, threads=1))
    assert choice.artefact == f"the {precision}"
    if name != "fake":
        assert precision in choice.backend.device
    assert choice.backend.infer(np.zeros((1, 8, 32, 32, 1), np.uint8))["score"].shape == (1, 8)
    choice.backend.close()


@pytest.mark.parametrize("name", ["auto", "openvino", "fake"])
@pytest.mark.parametrize("precision", ["fp16", "int8", "mixed"])
def test_a_precision_that_the_bundle_lacks_is_refused_with_the_next_step(
    tiny_bundle: Bundle, name: str, precision: Any
) -> None:
    with pytest.raises(BackendError, match=f"has no {precision} artefact") as caught:
        open_backend(tiny_bundle, name, Options(precision=precision))
    assert_one_line(
        caught.value,
        "tiny.vad",
        "(it has: fp32)",
        f"vad-export quantise {tiny_bundle.path} --precision {precision}",
    )


def test_auto_never_takes_another_graph_than_fp32_without_a_plan(many: Bundle) -> None:
    for name in ("auto", "openvino", "onnxruntime"):
        choice = open_backend(many, name, Options(threads=1))
        assert choice.artefact == "fp32"
        assert ", fp32" in choice.backend.device
        assert "plan" not in choice.reason
        choice.backend.close()


def test_auto_follows_the_plan_and_says_where_it_was_made(many: Bundle) -> None:
    choice = open_backend(with_plan(many), "auto", Options(threads=1))
    assert (choice.name, choice.artefact) == ("onnxruntime", "the int8")
    assert "int8" in choice.backend.device
    assert choice.reason == "planned on Xeon 1 for 40 ms a clip: 12.3 ms with 2 threads"
    choice = open_backend(with_plan(many, target_ms=None), "auto", Options(threads=1))
    assert choice.reason == "planned on Xeon 1: 12.3 ms with 2 threads"


def test_a_plan_for_bf16_runs_the_fp32_graph_or_says_why_not(many: Bundle) -> None:
    planned = with_plan(many, backend="openvino", precision="bf16")
    choice = open_backend(planned, "auto", Options(threads=1))
    assert choice.artefact == "fp32"
    if "no bf16" in choice.reason:
        assert "is not followed" in choice.reason
    else:
        assert ", bf16, " in choice.backend.device


def test_a_precision_or_an_engine_that_is_named_goes_before_the_plan(many: Bundle) -> None:
    planned = with_plan(many)
    assert open_backend(planned, "auto", FP32).artefact == "fp32"
    assert open_backend(planned, "onnxruntime", Options(threads=1)).artefact == "fp32"
    half = open_backend(planned, "auto", Options(precision="fp16", threads=1))
    assert (half.name, half.artefact) == ("openvino", "the fp16")


def test_a_plan_whose_engine_is_not_installed_is_left_visibly(
    many: Bundle, without: Uninstall
) -> None:
    without("onnxruntime")
    choice = open_backend(with_plan(many), "auto", Options(threads=1))
    assert (choice.name, choice.artefact) == ("openvino", "fp32")
    assert choice.reason.startswith("the fastest installed engine on this CPU; the plan")
    assert "(onnxruntime, int8) is not followed: onnxruntime is not installed" in choice.line
    assert "\n" not in choice.line


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "its int8 artefact is gone"),
        ({"backend": "hailo"}, "no back end is called 'hailo' here"),
        ({"backend": "tensorrt", "precision": "fp32"}, "No NVIDIA driver here"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_left_visibly(
    bundle_copy: Path, changes: dict[str, str], reason: str
) -> None:
    planned = with_plan(Bundle.open(bundle_copy), **changes)
    choice = open_backend(planned, "auto", Options(threads=1))
    assert (choice.name, choice.artefact) == ("openvino", "fp32")
    assert f"is not followed: {reason}" in choice.reason


def test_a_planned_graph_that_does_not_load_is_left_visibly(
    bundle_copy: Path, tmp_path: Path
) -> None:
    noise = tmp_path / "noise.onnx"
    noise.write_bytes(b"this was never a graph")
    entry = artefact(file="model.int8.onnx", precision="int8")
    planned = with_plan(add_artefacts(Bundle.open(bundle_copy), {"int8": (entry, noise)}))
    choice = open_backend(planned, "auto", Options(threads=1))
    assert choice.artefact == "fp32"
    assert "is not followed: onnxruntime cannot load model.int8.onnx" in choice.reason


# -- names and options -------------------------------------------------------------------------


def test_an_unknown_name_lists_the_names(tiny_bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="no back end is called 'tensorflow'") as caught:
        open_backend(tiny_bundle, "tensorflow")
    assert_one_line(caught.value, "auto", *backend_names())


def test_auto_passes_options_on_and_never_bends_them(tiny_bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="no bf16 arithmetic"):
        open_backend(tiny_bundle, "onnxruntime", Options(precision="bf16"))
    with pytest.raises(BackendError, match="not on cuda:0"):
        open_backend(tiny_bundle, "openvino", Options(device="cuda:0"))


# -- GPUs --------------------------------------------------------------------------------------


class Stub:
    """A back end that opens, or refuses, and remembers its options."""

    tried: ClassVar[list[str]] = []
    refuses: ClassVar[dict[str, BackendError]] = {}

    def __init__(self, name: str) -> None:
        self._name = name
        self.device = name

    def __call__(self, file: Path, about: Any, options: Options) -> "Stub":
        self.tried.append(self._name)
        if self._name in self.refuses:
            raise self.refuses[self._name]
        self.options = options
        return self


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> type[Stub]:
    """Every back end becomes a stub; a driver seems to be installed."""
    Stub.tried, Stub.refuses = [], {}
    monkeypatch.setattr(registry, "_import", lambda name, entry: Stub(name))
    monkeypatch.setattr(registry, "driver_installed", lambda: True)
    return Stub


def test_auto_prefers_a_gpu_where_there_is_a_driver(tiny_bundle: Bundle, stubs: type[Stub]) -> None:
    choice = open_backend(tiny_bundle)
    assert choice.name == "tensorrt"
    assert choice.reason == "the first installed engine that runs it on this GPU"
    assert stubs.tried == ["tensorrt"]


def test_auto_says_why_no_engine_on_the_gpu_was_taken(
    tiny_bundle: Bundle, stubs: type[Stub]
) -> None:
    for name in ("tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt"):
        stubs.refuses[name] = BackendError(f"{name} is not there.")
    choice = open_backend(tiny_bundle)
    assert choice.name == "openvino"
    assert choice.reason == (
        "next best, since tensorrt is not there; onnxruntime-cuda is not there; "
        "onnxruntime-tensorrt is not there"
    )


def test_a_driver_that_does_not_start_is_said_once(tiny_bundle: Bundle, stubs: type[Stub]) -> None:
    stubs.refuses["tensorrt"] = NoDriverError("The driver does not start.")
    choice = open_backend(tiny_bundle)
    assert choice.reason == "next best, since The driver does not start"
    assert stubs.tried == ["tensorrt", "openvino"]


def test_auto_looks_for_no_gpu_without_a_driver_or_for_cpu(
    tiny_bundle: Bundle, stubs: type[Stub], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_backend(tiny_bundle, "auto", Options(device="cpu")).name == "openvino"
    monkeypatch.setattr(registry, "driver_installed", lambda: False)
    choice = open_backend(tiny_bundle)
    assert choice.reason == "the fastest installed engine on this CPU"
    assert stubs.tried == ["openvino", "openvino"]


def test_asked_for_cuda_auto_takes_no_processor(tiny_bundle: Bundle, stubs: type[Stub]) -> None:
    for name in ("tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt"):
        stubs.refuses[name] = BackendError(f"{name} is not there.")
    with pytest.raises(BackendError, match=r"no back end can run tiny\.vad") as caught:
        open_backend(tiny_bundle, "auto", Options(device="cuda:1"))
    assert_one_line(caught.value, "tensorrt is not there; onnxruntime-cuda is not there")
    assert "openvino" not in stubs.tried


def test_cuda_without_a_driver_is_one_line_with_the_reason_once(tiny_bundle: Bundle) -> None:
    with pytest.raises(BackendError) as caught:
        open_backend(tiny_bundle, "auto", Options(device="cuda"))
    assert_one_line(caught.value, "tiny.vad", "No NVIDIA driver")
    assert str(caught.value).count("No NVIDIA driver") == 1


def test_an_engine_that_is_named_never_falls_back(tiny_bundle: Bundle, stubs: type[Stub]) -> None:
    stubs.refuses["tensorrt"] = BackendError("tensorrt is not there.")
    with pytest.raises(BackendError, match="tensorrt is not there"):
        open_backend(tiny_bundle, "tensorrt")
    assert stubs.tried == ["tensorrt"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": Path("some.engine")}, "--engine"),
        ({"rebuild": True}, "--rebuild"),
        ({"host_code": True}, "--host-code"),
    ],
)
def test_options_for_plans_lead_to_tensorrt_and_to_nothing_else(
    tiny_bundle: Bundle, stubs: type[Stub], options: dict[str, Any], said: str
) -> None:
    assert open_backend(tiny_bundle, "auto", Options(**options)).name == "tensorrt"
    stubs.refuses["tensorrt"] = BackendError("no plan fits.")
    with pytest.raises(BackendError, match="no plan fits"):
        open_backend(tiny_bundle, "auto", Options(**options))
    for name in ("openvino", "onnxruntime-cuda"):
        with pytest.raises(BackendError, match="runs no TensorRT plans") as caught:
            open_backend(tiny_bundle, name, Options(**options))
        assert_one_line(caught.value, name, said, "--backend tensorrt")


def test_a_plan_that_is_named_runs_in_its_own_precision(
    many: Bundle, stubs: type[Stub], tmp_path: Path
) -> None:
    plan = tmp_path / "m.engine"
    plan.write_bytes(b"plan")
    assert open_backend(many, "tensorrt", Options(engine=plan)).artefact == "fp32"
    (tmp_path / "m.engine.json").write_bytes(
        json_from_sidecar(engine_sidecar(b"plan", precision="int8"))
    )
    assert open_backend(many, "tensorrt", Options(engine=plan)).artefact == "the int8"
    asked = Options(engine=plan, precision="fp16")
    assert open_backend(many, "auto", asked).artefact == "the fp16"


def test_the_plans_of_a_bundle_run_in_their_precision_where_all_are_of_one(
    many: Bundle, stubs: type[Stub]
) -> None:
    folder = many.path / "engines"
    folder.mkdir()
    for name, precisions, taken in (
        ("a", [], "fp32"),
        ("b", ["fp16"], "the fp16"),
        ("c", ["fp16", "int8"], None),
        ("d", ["fp16", "int8", "fp32"], "fp32"),
    ):
        for number, precision in enumerate(precisions):
            plan = folder / f"{number}.engine"
            plan.write_bytes(b"plan")
            beside = json_from_sidecar(engine_sidecar(b"plan", precision=precision))
            plan.with_name(f"{plan.name}.json").write_bytes(beside)
        if taken is not None:
            assert open_backend(many, "tensorrt").artefact == taken, name
            continue
        with pytest.raises(BackendError) as caught:
            open_backend(many, "tensorrt")
        assert_one_line(caught.value, "fp16 and int8", "--precision")
        assert open_backend(many, "openvino").artefact == "fp32"


def test_a_plan_for_a_gpu_is_followed_there_and_left_visibly_elsewhere(
    many: Bundle, stubs: type[Stub]
) -> None:
    planned = with_plan(many, backend="tensorrt", precision="fp16", cpu="NVIDIA Orin")
    choice = open_backend(planned)
    assert (choice.name, choice.artefact) == ("tensorrt", "the fp16")
    assert choice.reason == "planned on NVIDIA Orin for 40 ms a clip: 12.3 ms"
    stubs.refuses["tensorrt"] = NoDriverError("No NVIDIA driver here.")
    choice = open_backend(planned, "auto", Options(device="cpu"))
    assert (choice.name, choice.artefact) == ("openvino", "fp32")
    assert "is not followed: No NVIDIA driver here" in choice.reason


def test_refusal_says_why_a_back_end_cannot_run_here(
    monkeypatch: pytest.MonkeyPatch, without: Uninstall
) -> None:
    assert registry.refusal("openvino") is None
    assert registry.refusal("fake") is None
    without("openvino")
    assert "pip install 'vad-edge[openvino]'" in str(registry.refusal("openvino"))

    def no_gpu(device: str) -> None:
        raise NoDriverError(f"no GPU for {device}. Buy one.")

    monkeypatch.setattr(registry, "gpu_of", no_gpu)
    for name in backend_names():
        reason = registry.refusal(name, "cuda:3")
        assert registry.runs_on_gpu(name) == (reason == "no GPU for cuda:3. Buy one.")


# -- the rest ----------------------------------------------------------------------------------


def test_a_graph_that_contradicts_the_manifest_is_refused_at_the_start(
    tmp_path: Path, tiny_graph: Path
) -> None:
    about = manifest()
    wider = msgspec.structs.replace(about, clip=msgspec.structs.replace(about.clip, width=64))
    bundle = write_bundle(tmp_path / "wide.vad", wider, {"fp32": tiny_graph})
    for name in ("openvino", "onnxruntime"):
        with pytest.raises(BackendError, match="the manifest says") as caught:
            open_backend(bundle, name, FP32)
        assert_one_line(caught.value, "(N, 8, 32, 32, 1)", "(N, 8, 32, 64, 1)")


def test_importing_the_package_loads_no_engine_and_no_decoder() -> None:
    code = (
        "import sys, vad_runtime, vad_runtime.backends, vad_runtime.sources, vad_runtime.detector;"
        "print([m for m in ('openvino', 'onnxruntime', 'av', 'cv2', 'torch', 'onnx', 'matplotlib')"
        " if m in sys.modules])"
    )
    runtime = Path(__file__).parents[2] / "runtime"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(runtime)},
    )
    assert answer.stdout.strip() == "[]"
