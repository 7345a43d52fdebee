"""The running half of the fake TensorRT: plans run in ONNX Runtime. See helpers_fake_tensorrt."""

import ctypes
import json
from typing import Any

import numpy as np
from fake_trt_core import (
    FakeModule,
    HostMemory,
    handed_back_bogus,
    made,
    plan_parts,
    require_real,
    setting,
)
from fake_trt_parser import Dims
from helpers_cuda import put_on_stream, require_allocated

_NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


class Runtime:
    _trt: FakeModule

    def __init__(self, logger: Any) -> None:
        self._trt.fake_use_logger(logger)
        if self._trt.fake_settings.no_runtime:
            self._trt.fake_log("ERROR", "CUDA initialization failure with error: 35 (cudaError 35)")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        if not handed_back_bogus(self):
            self._trt.fake_records.runtimes.append(self)

    @property
    def engine_host_code_allowed(self) -> bool:
        require_real(self)
        return bool(self.__dict__.get("_value_host_code", False))

    @engine_host_code_allowed.setter
    def engine_host_code_allowed(self, allowed: bool) -> None:
        require_real(self)
        self.__dict__["_value_host_code"] = allowed

    logger = property(lambda self: self._trt.fake_logger)

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        trt = self._trt
        require_real(self)
        plan = bytes(memoryview(serialized_engine))
        try:
            magic, numbers, facts, graph = plan_parts(plan)
        except (ValueError, KeyError) as error:
            trt.fake_log(
                "ERROR", f"Error Code 1: Serialization (Magic tag does not match: {error})"
            )
            return None
        trouble = (
            trt.fake_settings.load_error
            or self._version_trouble(magic, numbers, facts)
            or _device_trouble(trt, facts)
        )
        if trouble:
            trt.fake_log("ERROR", trouble)
            return None
        return made(trt, "ICudaEngine", facts=facts, graph=graph, session=None)

    def _version_trouble(self, magic: bytes, numbers: Any, facts: dict[str, Any]) -> str:
        trt = self._trt
        if magic != (b"vtrt" if trt.fake_flavour == "rtx" else b"ftrt"):
            return "Error Code 1: Serialization (Magic tag does not match)"
        here = trt.fake_numbers
        compatible = "VERSION_COMPATIBLE" in facts["flags"]
        carries = compatible and "EXCLUDE_LEAN_RUNTIME" not in facts["flags"]
        if trt.fake_flavour in ("lean", "dispatch") and not compatible:
            return "The lean runtime loads version compatible engines: Version tag does not match"
        if carries and not self.__dict__.get("_value_host_code"):
            return "API Usage Error (getEngineHostCodeAllowed() is false)"
        if numbers[:3] == here[:3]:
            return ""
        if compatible and numbers[0] == here[0] and numbers <= here:
            return ""
        there, mine = (".".join(map(str, one)) for one in (numbers, here))
        return f"expecting library version {there} got {mine}, please rebuild."


def _device_trouble(trt: FakeModule, facts: dict[str, Any]) -> str:
    sm = trt.fake_settings.sm
    newer = sm >= 80 and (facts["hardware"] or facts["later"])
    if sm in facts["sms"] or newer:
        return ""
    there = facts["sms"][0]
    return (
        "The engine plan file is generated on an incompatible device, expecting compute "
        f"{there // 10}.{there % 10} got compute {sm // 10}.{sm % 10}, please rebuild."
    )


class Engine:
    _trt: FakeModule
    _facts: dict[str, Any]
    _graph: bytes
    _session: Any

    num_io_tensors = property(lambda self: len(self._tensors()))
    num_layers = property(lambda self: self._facts["layers"])
    num_optimization_profiles = property(lambda self: len(self._facts["profiles"]))
    device_memory_size_v2 = property(lambda self: 0)
    device_memory_size = property(lambda self: 0)
    name = property(lambda self: "fake")

    def _tensors(self) -> list[Any]:
        return [*self._facts["inputs"], *self._facts["outputs"]]

    def _tensor(self, name: str) -> list[Any] | None:
        return next((one for one in self._tensors() if one[0] == name), None)

    def get_tensor_name(self, index: int) -> str:
        return str(self._tensors()[index][0])

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode
        if self._tensor(name) is None:
            return modes.NONE
        return modes.INPUT if self._is_input(name) else modes.OUTPUT

    def _is_input(self, name: str) -> bool:
        return any(name == one[0] for one in self._facts["inputs"])

    def get_tensor_dtype(self, name: str) -> Any:
        found = self._tensor(name)
        assert found is not None
        return getattr(self._trt.DataType, found[1])

    def get_tensor_shape(self, name: str) -> Any:
        found = self._tensor(name)
        assert found is not None
        return Dims(found[2])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
        return [Dims(shape) for shape in self._facts["profiles"][profile_index][name]]

    def create_runtime_config(self) -> Any:
        return made(self._trt, "IRuntimeConfig", cache=None)

    def create_execution_context(self, runtime_config: Any = None) -> Any:
        trouble = self._trt.fake_settings.context_error
        if trouble:
            self._trt.fake_log("ERROR", trouble)
            return None
        if runtime_config is not None:
            self._note(runtime_config)
        return made(self._trt, "IExecutionContext", engine=self, profile=0, shapes={}, addresses={})

    def _note(self, config: Any) -> None:
        if not isinstance(config, self._trt.IRuntimeConfig):
            raise TypeError("incompatible function arguments: IRuntimeConfig wanted")
        strategy = vars(config).get("_value_graphs")
        self._trt.fake_records.graph_strategies.append("" if strategy is None else strategy.name)
        if config._cache is not None:
            config._cache._content |= {"kernels": "compiled"}

    def _run(self, feeds: dict[str, Any], names: list[str]) -> list[Any]:
        if self._session is None:
            self._session = _session(self._graph)
        found: list[Any] = self._session.run(names, feeds)
        return found


def _session(graph: bytes) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class RuntimeConfig:
    cuda_graph_strategy = setting("graphs")

    def create_runtime_cache(self) -> Any:
        return made(self._trt, "IRuntimeCache", content={})  # type: ignore[attr-defined]

    def set_runtime_cache(self, cache: Any = None) -> bool:
        self._cache = cache
        return True

    def get_runtime_cache(self) -> Any:
        return self._cache


class RuntimeCache:
    _trt: FakeModule
    _content: dict[str, str]

    def serialize(self) -> Any:
        return HostMemory(json.dumps(self._content).encode())

    def deserialize(self, blob: Any) -> bool:
        content = bytes(memoryview(blob))
        try:
            self._content = json.loads(content)
        except ValueError:
            self._trt.fake_log("ERROR", "Cannot deserialize the runtime cache")
            return False
        self._trt.fake_records.runtime_caches.append(content)
        return True

    def reset(self) -> bool:
        self._content = {}
        return True


class ExecutionContext:
    _trt: FakeModule
    _engine: Any
    _profile: int
    _shapes: dict[str, tuple[int, ...]]
    _addresses: dict[str, int]

    active_optimization_profile = property(lambda self: self._profile)
    engine = property(lambda self: self._engine)

    def is_stream_capturable(self, stream_handle: int) -> bool:
        return True

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            return self._refused(f"Profile index {profile_index} is out of range")
        self._profile = profile_index
        self._shapes.clear()
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        sizes = tuple(shape)
        if not self._engine._is_input(name):
            return self._refused(f"Given invalid tensor name: {name}")
        ranges = self._engine._facts["profiles"][self._profile].get(name)
        if ranges is None:
            low = high = self._engine._tensor(name)[2]
        else:
            low, _, high = ranges
        fits = len(low) == len(sizes) and all(
            a <= b <= c for a, b, c in zip(low, sizes, high, strict=True)
        )
        if not fits:
            return self._refused(
                f"Set dimensions {sizes} for {name} does not satisfy any optimization profiles."
            )
        self._shapes[name] = sizes
        return True

    def get_tensor_shape(self, name: str) -> Any:
        if self._engine._is_input(name):
            return Dims(self._shapes.get(name, self._engine._tensor(name)[2]))
        feeds = {}
        for one in self._engine._facts["inputs"]:
            if self._shape(one) is None:
                return Dims(self._engine._tensor(name)[2])
            feeds[one[0]] = np.zeros(self._shape(one) or (), _NUMPY[one[1]])
        return Dims(self._engine._run(feeds, [name])[0].shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self._engine._tensor(name) is None:
            return self._refused(f"Given invalid tensor name: {name}")
        self._addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def infer_shapes(self) -> list[str]:
        return [one[0] for one in self._engine._facts["inputs"] if self._shape(one) is None]

    def execute_async_v3(self, stream_handle: int) -> bool:
        trouble = self._trt.fake_settings.execute_error
        if trouble:
            return self._refused(trouble)
        for one in self._engine._tensors():
            if not self._addresses.get(one[0]):
                return self._refused(f"Address is not set for input tensor {one[0]}.")
        inputs = {}
        for one in self._engine._facts["inputs"]:
            shape = self._shape(one)
            if shape is None:
                return self._refused(f"input dimensions of {one[0]} not satisfied: set them")
            inputs[one[0]] = shape
        self._trt.fake_records.runs.append(inputs)
        addresses = dict(self._addresses)  # what counts is what is set now, also in a graph
        put_on_stream(stream_handle, lambda: _work(self._engine, inputs, addresses, stream_handle))
        return True

    def _shape(self, tensor: list[Any]) -> tuple[int, ...] | None:
        if -1 not in tensor[2]:
            return tuple(tensor[2])
        return self._shapes.get(tensor[0])

    def _refused(self, line: str) -> bool:
        self._trt.fake_log("ERROR", f"IExecutionContext: Error Code 3: API Usage Error ({line})")
        return False


def _at(address: int, dtype: str, shape: Any, stream: int) -> Any:
    kind = np.dtype(_NUMPY[dtype])
    size = int(np.prod(shape)) * kind.itemsize
    require_allocated(stream, address, size)
    block = (ctypes.c_char * size).from_address(address)
    return np.frombuffer(block, kind).reshape(tuple(shape))


def _work(
    engine: Any, inputs: dict[str, tuple[int, ...]], addresses: dict[str, int], stream: int
) -> None:
    types = {one[0]: one[1] for one in engine._tensors()}
    feeds = {
        name: _at(addresses[name], types[name], shape, stream) for name, shape in inputs.items()
    }
    names = [one[0] for one in engine._facts["outputs"]]
    for name, value in zip(names, engine._run(feeds, names), strict=True):
        _at(addresses[name], types[name], value.shape, stream)[...] = value
