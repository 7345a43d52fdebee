"""The engines of overlap_study.py: with settings that `vad-run` does not give them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vad_runtime.backends.base import Backend, Options
from vad_runtime.backends.onnxruntime import OnnxRuntimeBackend
from vad_runtime.backends.openvino import OpenVinoBackend, _core
from vad_runtime.bundle import Bundle
from vad_runtime.contracts.manifest import Manifest


def openvino(bundle: Bundle, settings: dict[str, Any], threads: int) -> Backend:
    """Return the bundle's int8 in OpenVINO, compiled with further settings."""
    import openvino as ov

    plain = ov.Core.compile_model

    def with_settings(core: Any, model: Any, device: str, config: dict[str, Any]) -> Any:
        return plain(core, model, device, config | settings)

    ov.Core.compile_model = with_settings
    try:
        return _opened(OpenVinoBackend, bundle, threads)
    finally:
        ov.Core.compile_model = plain


def pinned(backend: Any) -> bool:
    """Return whether an engine of OpenVINO holds its threads on processors."""
    compiled = backend._request.get_compiled_model()
    return bool(compiled.get_property("ENABLE_CPU_PINNING"))


def onnxruntime(bundle: Bundle, settings: dict[str, str], threads: int) -> Backend:
    """Return the bundle's int8 in ONNX Runtime, opened with further settings."""
    import onnxruntime as ort

    plain = ort.InferenceSession

    def with_settings(file: str, options: Any, **others: Any) -> Any:
        for key, value in settings.items():
            options.add_session_config_entry(key, value)
        return plain(file, options, **others)

    ort.InferenceSession = with_settings
    try:
        return _opened(OnnxRuntimeBackend, bundle, threads)
    finally:
        ort.InferenceSession = plain


def _opened(kind: Any, bundle: Bundle, threads: int) -> Any:
    file = bundle.file(bundle.manifest.artefacts["int8"])
    return kind(file, bundle.manifest, Options(precision="int8", threads=threads))


def first_layer(bundle: Bundle, threads: int) -> Callable[[Any], None]:
    """Return what computes a clip's first convolution, up to its quantised answer."""
    import openvino as ov

    manifest = bundle.manifest
    model = _core().read_model(str(bundle.file(manifest.artefacts["int8"])))
    model.reshape({manifest.input_name: [1, *manifest.input_shape]})
    node = next(op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution")
    while node.get_output_element_type(0) not in (ov.Type.i8, ov.Type.u8):
        node = next(iter(node.output(0).get_target_inputs())).get_node()
    part = ov.Model([node.output(0)], model.get_parameters(), "first layer")
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    settings["ENABLE_CPU_PINNING"] = False  # as the back end
    request = _core().compile_model(part, "CPU", settings).create_infer_request()

    def run(clip: Any) -> None:
        request.set_input_tensor(ov.Tensor(clip, shared_memory=True))
        request.infer()

    return run


def pixel_graph(file: Path, manifest: Manifest) -> None:
    """Write a graph with the model's inputs and outputs that reads the first bytes alone."""
    import onnx
    from onnx import TensorProto, helper

    sizes = {"score": [] if manifest.score.per == "clip" else [manifest.score.count]}
    sizes |= {output.name: [int(n) for n in output.shape[1:]] for output in manifest.outputs}
    nodes, constants, results = [], [], []

    def constant(name: str, values: list[int]) -> str:
        constants.append(helper.make_tensor(f"{name}_v", TensorProto.INT64, [len(values)], values))
        return f"{name}_v"

    flat = constant("flat", [1, -1])
    nodes.append(helper.make_node("Reshape", [manifest.input_name, flat], ["all"]))
    for name, size in sizes.items():
        count = int(np.prod(size)) if size else 1
        ends = [constant(f"{name}_{part}", [n]) for part, n in (("a", 0), ("b", count), ("x", 1))]
        nodes.append(helper.make_node("Slice", ["all", *ends], [f"{name}_u"]))
        nodes.append(helper.make_node("Cast", [f"{name}_u"], [f"{name}_f"], to=TensorProto.FLOAT))
        shape = constant(f"{name}_s", [1, *size])
        nodes.append(helper.make_node("Reshape", [f"{name}_f", shape], [name]))
        results.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, *size]))
    clip = helper.make_tensor_value_info(
        manifest.input_name, TensorProto.UINT8, [1, *manifest.input_shape]
    )
    graph = helper.make_graph(nodes, "pixel", [clip], results, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, file)
