"""The parser of the fake TensorRT: networks from ONNX files. See helpers_fake_tensorrt."""

from typing import Any

from fake_trt_core import FakeModule, made, setting

_TYPES = {
    1: "FLOAT",
    2: "UINT8",
    3: "INT8",
    6: "INT32",
    7: "INT64",
    9: "BOOL",
    10: "HALF",
    16: "BF16",
}
"""ONNX's numbers of types, and TensorRT's names."""


class Dims(tuple[int, ...]):
    """A shape: iterable, with a length, no more."""


class Tensor:
    name = property(lambda self: self._name)
    dtype = property(lambda self: self._dtype)
    shape = property(lambda self: self._shape)


class ParserError:
    def node_name(self) -> str:
        return str(self._name)  # type: ignore[attr-defined]

    def node_operator(self) -> str:
        return str(self._operator)  # type: ignore[attr-defined]

    def node(self) -> int:
        return int(self._node)  # type: ignore[attr-defined]

    def desc(self) -> str:
        return str(self._desc)  # type: ignore[attr-defined]

    def __str__(self) -> str:
        return f"In node {self.node()} (parseNode): UNSUPPORTED_NODE: {self.desc()}"


class Network:
    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))
    num_layers = property(lambda self: 0 if self._model is None else len(self._model.graph.node))
    name = setting("name", "")

    def get_input(self, index: int) -> Any:
        return self._inputs[index]  # type: ignore[attr-defined]

    def unmark_output(self, tensor: Any) -> None:
        self._outputs = [one for one in self._outputs if one is not tensor]

    def get_output(self, index: int) -> Any:
        return self._outputs[index]  # type: ignore[attr-defined]


class Parser:
    _trt: FakeModule

    def __init__(self, network: Any, logger: Any) -> None:
        if not isinstance(network, self._trt.INetworkDefinition):
            raise TypeError("incompatible constructor arguments: INetworkDefinition wanted")
        self._trt.fake_use_logger(logger)
        self._network = network
        self._errors: list[Any] = []

    num_errors = property(lambda self: len(self._errors))
    num_subgraphs = property(lambda self: 1)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def clear_errors(self) -> None:
        self._errors.clear()

    def is_subgraph_supported(self, index: int) -> bool:
        return not self._errors

    def get_subgraph_nodes(self, index: int) -> list[int]:
        return [error._node for error in self._errors]

    def parse_from_file(self, path: str) -> bool:
        import onnx

        try:
            model = onnx.load(path)
        except OSError:
            self._refuse(-1, "", "", f"Input file cannot be found: {path}")
            return False
        except Exception:  # protobuf takes a text for an empty message, so to say
            return True
        return self._read(model)

    def supports_model_v2(self, model: bytes, path: str | None = None) -> bool:
        return self._supports(model)

    def supports_model(self, model: bytes, path: str | None = None) -> tuple[bool, list[Any]]:
        fine = self._supports(model)
        return fine, [([error._node], False) for error in self._errors] if not fine else []

    def _supports(self, model: bytes) -> bool:
        import onnx

        return self._find_refusals(onnx.load_from_string(bytes(model)))

    def _read(self, model: Any) -> bool:
        if not self._find_refusals(model):
            return False
        held = {one.name for one in model.graph.initializer}
        network = self._network
        network._model = model
        network._inputs = [self._tensor(one) for one in model.graph.input if one.name not in held]
        network._outputs = [self._tensor(one) for one in model.graph.output]
        return True

    def _tensor(self, value: Any) -> Any:
        kind = value.type.tensor_type
        sizes = [one.dim_value if one.HasField("dim_value") else -1 for one in kind.shape.dim]
        dtype = getattr(self._trt.DataType, _TYPES[kind.elem_type])
        return made(self._trt, "ITensor", name=value.name, dtype=dtype, shape=Dims(sizes))

    def _find_refusals(self, model: Any) -> bool:
        refused = self._trt.fake_settings.refuse_operator
        for i, node in enumerate(model.graph.node):
            if node.op_type == refused:
                self._refuse(i, node.name, refused, f"No importer registered for op: {refused}")
        return not self._errors

    def _refuse(self, node: int, name: str, operator: str, desc: str) -> None:
        facts = {"node": node, "name": name, "operator": operator, "desc": desc}
        self._errors.append(made(self._trt, "ParserError", **facts))
        self._trt.fake_log("ERROR", f"While parsing node number {node} [{operator}]:\n{desc}")
