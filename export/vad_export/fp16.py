"""FP16 graphs: half-precision tensors in the ONNX file, sensitive nodes in FP32 by named rules.

TensorRT 11 and TensorRT-RTX take the arithmetic from the tensors' types, and TensorRT 10 can, so
FP16 must stand in the graph. `onnxruntime.transformers.float16` does the same job but not well
enough with nodes that stay in FP32: it rounds between two neighbours that both stay (the sum with
an epsilon of 1e-12 is flushed on its way to the square root), rounds a constant that both kinds of
nodes share, replaces small numbers by 6e-8, and writes its casts behind the nodes that need them,
which `onnx.checker` refuses.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from vad_export.fp16_graph import GraphView, tidied, with_graph
from vad_export.fp16_rules import QUANTISATION, RULES, kept_nodes
from vad_runtime.backends.checks import first_line
from vad_runtime.contracts import ExportError

__all__ = ["RULES", "Fp16Result", "fp16_from_model"]

QDQ_OPSET = 19
"""From here on QuantizeLinear and DequantizeLinear take FP16."""

_SUFFIX: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}


@dataclass(frozen=True, kw_only=True)
class Fp16Result:
    """An FP16 graph and what it leaves in FP32."""

    model: onnx.ModelProto
    """Inputs and outputs as before: uint8 or float32 in, float32 out."""

    kept: dict[str, str]
    """Node that stays in FP32 -> name of the rule, a key of `RULES`."""


def fp16_from_model(model: onnx.ModelProto, *, keep: Collection[str] = ()) -> Fp16Result:
    """Return a model with FP16 tensors. Also for Q/DQ graphs: int8 weights stay, scales are FP16.

    Args:
        model: With its weights inside, below 2 GB; not changed.
        keep: Names of nodes that shall stay in FP32 beside those of the rules.

    Returns:
        The new model. Tensors keep their names; a tensor that both kinds of nodes read has a
        second one with `_fp32` or `_fp16` at its end.

    Raises:
        ExportError: `keep` names a node that is not there, or the graph breaks ONNX's own rules.
    """
    absent = sorted(frozenset(keep) - {node.name for node in model.graph.node})
    if absent:
        raise ExportError(
            f"the graph has no node {absent[0]!r} to keep in FP32. Take a name from the graph."
        )
    source = _with_opset(tidied(model))
    view = GraphView(source)
    kept = kept_nodes(view, keep)
    made = _Converter(source, view, kept).model()
    try:
        onnx.checker.check_model(made, full_check=True)
    except Exception as error:  # ValidationError, InferenceError, and ValueError above 2 GB
        raise ExportError(
            f"the FP16 graph breaks ONNX's rules: {first_line(error)} Use fp32 for this model."
        ) from error
    return Fp16Result(model=made, kept=kept)


def _with_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Raise the opset of a Q/DQ graph where it has no FP16 scales yet."""
    entry = next((e for e in model.opset_import if e.domain in ("", "ai.onnx")), None)
    has_qdq = any(node.op_type in QUANTISATION for node in model.graph.node)
    if entry is None or not has_qdq or entry.version >= QDQ_OPSET:
        return model
    if entry.version == QDQ_OPSET - 1:
        # 19 only adds to 18: types, and attributes whose defaults are the former behaviour. So
        # the number is all, and the converter, which takes the graph apart, is not needed.
        entry.version = QDQ_OPSET
        return model
    try:
        return version_converter.convert_version(model, QDQ_OPSET)
    except Exception as error:  # the converter raises RuntimeError and its own classes
        raise ExportError(
            f"the graph cannot be raised from opset {entry.version} to {QDQ_OPSET}: "
            f"{first_line(error)} Export it with opset 18 or newer."
        ) from error


class _Converter:
    """Writes the nodes again, one after another, with a cast where the type changes."""

    def __init__(self, source: onnx.ModelProto, view: GraphView, kept: dict[str, str]) -> None:
        self._source = source
        self._view = view
        self._kept = kept
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[TensorProto] = []
        # Name of a tensor's form in a type. A form is made when the first node asks for it.
        self._forms: dict[tuple[str, int], str] = {
            (name, TensorProto.FLOAT): name for name in view.inputs
        }
        self._taken = set(view.types)
        self._in_single = self._constants_in_single()

    def model(self) -> onnx.ModelProto:
        """Return the new model."""
        old = self._source.graph
        for node in old.node:
            self._write(node)
        graph = onnx.GraphProto()
        for field, value in old.ListFields():
            # Inferred types are of the old graph; a constant is no input since IR version 4.
            if field.name not in ("node", "initializer", "value_info", "input"):
                if field.is_repeated:
                    getattr(graph, field.name).extend(value)
                else:
                    setattr(graph, field.name, value)
        graph.input.extend(v for v in old.input if v.name not in self._view.constants)
        graph.node.extend(self._nodes)
        graph.initializer.extend(
            t for t in old.initializer if not self._view.is_float(t.name) or self._is_plain(t.name)
        )
        graph.initializer.extend(self._constants)
        made = with_graph(self._source, graph)
        made.ir_version = max(made.ir_version, 4)
        return made

    def _is_plain(self, name: str) -> bool:
        """Say whether a float constant is needed as it was."""
        return name in self._in_single or name in self._view.outputs

    def _constants_in_single(self) -> frozenset[str]:
        found = set(self._view.captured)
        for node in self._view.nodes:
            halves = self._halves(node)
            found.update(name for i, name in enumerate(node.input) if i not in halves)
            again = node.op_type == "DequantizeLinear"  # see `_dequantise_again`
            if again and any(user.name in self._kept for user in self._view.users(node)):
                found.add(node.input[1])
        return frozenset(found & self._view.constants.keys())

    def _halves(self, node: onnx.NodeProto) -> frozenset[int]:
        """Return the positions of a node's FP16 inputs."""
        ports = None if node.name in self._kept else self._view.ports(node)
        return frozenset() if ports is None else ports.inputs

    def _write(self, node: onnx.NodeProto) -> None:
        new = onnx.NodeProto()
        new.CopyFrom(node)
        halves = self._halves(node)
        for i, name in enumerate(node.input):
            if self._view.is_float(name):
                kind = TensorProto.FLOAT16 if i in halves else TensorProto.FLOAT
                new.input[i] = self._form(name, kind)
        ports = None if node.name in self._kept else self._view.ports(node)
        single = []
        for i, name in enumerate(node.output):
            if not self._view.is_float(name):
                continue
            if ports is None or i not in ports.outputs:
                self._forms[name, TensorProto.FLOAT] = name
                continue
            if node.op_type == "Cast":
                del new.attribute[:]
                new.attribute.append(helper.make_attribute("to", TensorProto.FLOAT16))
            if name in self._view.outputs:  # its name belongs to the FP32 form
                new.output[i] = self._new_name(name, TensorProto.FLOAT16)
                single.append(name)
            self._forms[name, TensorProto.FLOAT16] = new.output[i]
        self._nodes.append(new)
        for name in single:
            self._cast(name, TensorProto.FLOAT, name)

    def _form(self, name: str, kind: int) -> str:
        """Return the name of a tensor in a type, made now if nobody has asked for it before."""
        known = self._forms.get((name, kind))
        if known is not None:
            return known
        if name in self._view.constants:
            return self._constant(name, kind)
        producer = self._view.producer.get(name)
        made = self._new_name(name, kind)
        if producer is not None and producer.op_type == "DequantizeLinear":
            # A cast would stand between it and the layer that shall fuse with it.
            self._dequantise_again(producer, kind, made)
        else:
            self._cast(name, kind, made)
        return made

    def _constant(self, name: str, kind: int) -> str:
        made = name
        if kind == TensorProto.FLOAT16:
            if self._is_plain(name):
                made = self._new_name(name, kind)
            # Only terms and values of no weight are flushed here: see the rules.
            half = self._view.array(name).astype(np.float16)
            self._constants.append(numpy_helper.from_array(half, made))
        self._forms[name, kind] = made
        return made

    def _cast(self, name: str, kind: int, made: str) -> None:
        other = TensorProto.FLOAT if kind == TensorProto.FLOAT16 else TensorProto.FLOAT16
        origin = self._forms[name, other]
        self._nodes.append(helper.make_node("Cast", [origin], [made], name=f"{made}/cast", to=kind))
        self._forms[name, kind] = made

    def _dequantise_again(self, node: onnx.NodeProto, kind: int, made: str) -> None:
        new = onnx.NodeProto()
        new.CopyFrom(node)
        new.name, new.output[0] = f"{made}/dequantise", made
        new.input[1] = self._form(node.input[1], kind)
        self._nodes.append(new)
        self._forms[node.output[0], kind] = made

    def _new_name(self, name: str, kind: int) -> str:
        made = f"{name}_{_SUFFIX[kind]}"
        while made in self._taken:
            made += "_"
        self._taken.add(made)
        return made
