"""The building half of the fake TensorRT. See helpers_fake_tensorrt."""

from typing import Any

from fake_trt_core import (
    FakeModule,
    HostMemory,
    handed_back_bogus,
    made,
    plan_bytes,
    require_real,
    setting,
    started,
)
from fake_trt_parser import Dims


class Profile:
    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = [list(min), list(opt), list(max)]  # type: ignore[attr-defined]

    def get_shape(self, input: str) -> list[Any]:
        return [Dims(shape) for shape in self._shapes[input]]  # type: ignore[attr-defined]


class TimingCache:
    def serialize(self) -> Any:
        return HostMemory(self._content)  # type: ignore[attr-defined]

    def reset(self) -> bool:
        self._content = b""
        return True


class Config:
    _trt: FakeModule
    _profiles: list[dict[str, Any]]
    _flags: set[Any]
    _limits: dict[Any, int]
    _targets: list[Any]
    _timing: Any

    builder_optimization_level = setting("level", 3)
    hardware_compatibility_level = setting("hardware")
    default_device_type = setting("device")
    DLA_core = setting("core", -1)
    profiling_verbosity = setting("verbosity")
    num_optimization_profiles = property(lambda self: len(self._profiles))
    flags = property(lambda self: sum(1 << int(flag) for flag in self._flags))

    def set_flag(self, flag: Any) -> None:
        self._flags.add(self._trt.BuilderFlag(flag))

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(self._trt.BuilderFlag(flag))

    def get_flag(self, flag: Any) -> bool:
        return flag in self._flags

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        if not isinstance(pool_size, int) or pool_size < 0:
            raise TypeError("incompatible function arguments: pool_size")
        self._limits[self._trt.MemoryPoolType(pool)] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._limits.get(pool, 1 << 36)

    def add_optimization_profile(self, profile: Any) -> int:
        for name, (low, best, high) in profile._shapes.items():
            if not all(0 <= a <= b <= c for a, b, c in zip(low, best, high, strict=True)):
                self._trt.fake_log(
                    "ERROR",
                    f"Invalid optimization profiles for input tensors {name}, please ensure that "
                    "the optimization profiles satisfy MIN<=OPT<=MAX.",
                )
                return -1
        self._profiles.append(dict(profile._shapes))
        return len(self._profiles) - 1

    @property
    def int8_calibrator(self) -> Any:
        return self.__dict__.get("_calibrator")

    @int8_calibrator.setter
    def int8_calibrator(self, calibrator: Any) -> None:
        self._calibrator = started(self._trt, "IInt8Calibrator", calibrator)

    @property
    def progress_monitor(self) -> Any:
        return self.__dict__.get("_monitor")

    @progress_monitor.setter
    def progress_monitor(self, monitor: Any) -> None:
        self._monitor = started(self._trt, "IProgressMonitor", monitor)

    @property
    def num_compute_capabilities(self) -> int:
        return len(self._targets)

    @num_compute_capabilities.setter
    def num_compute_capabilities(self, count: int) -> None:
        self._targets = [self._trt.ComputeCapability.NONE] * count

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        if not 0 <= index < len(self._targets):
            return False
        self._targets[index] = self._trt.ComputeCapability(compute_capability)
        return True

    def get_compute_capability(self, index: int) -> Any:
        return self._targets[index]

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        content = bytes(serialized_timing_cache)
        if content and not content.startswith(self._mark()):
            self._trt.fake_log("WARNING", "Failed to deserialize timing cache. Returning empty.")
            content = b""
        return made(self._trt, "ITimingCache", content=content)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if not isinstance(cache, self._trt.ITimingCache):
            raise TypeError("incompatible function arguments: ITimingCache wanted")
        self._timing = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._timing

    def _mark(self) -> bytes:
        return f"fake timing cache of {self._trt.fake_label}\n".encode()


class Builder:
    _trt: FakeModule

    def __init__(self, logger: Any) -> None:
        self._trt.fake_use_logger(logger)
        if self._trt.fake_settings.no_builder:
            self._trt.fake_log("ERROR", "Unable to create the builder (cudaError 35)")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        handed_back_bogus(self)

    max_threads = setting("threads", 1)
    num_DLA_cores = property(  # noqa: N815 - its name
        lambda self: self._trt.fake_settings.dla_cores
    )
    platform_has_fast_fp16 = property(lambda self: True)
    platform_has_fast_int8 = property(lambda self: True)

    def create_network(self, flags: int = 0) -> Any:
        require_real(self)
        facts: dict[str, Any] = {"model": None, "inputs": [], "outputs": [], "creation": flags}
        return made(self._trt, "INetworkDefinition", **facts)

    def create_builder_config(self) -> Any:
        tf32 = {self._trt.BuilderFlag.TF32}  # TensorRT's default
        facts: dict[str, Any] = {"profiles": [], "flags": tf32, "limits": {}, "targets": []}
        return made(self._trt, "IBuilderConfig", **facts, timing=None)

    def create_optimization_profile(self) -> Any:
        return made(self._trt, "IOptimizationProfile", shapes={})

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        trt = self._trt
        trt.fake_records.builds.append(_record(network, config))
        trouble = _trouble(trt, network, config) or _calibrated(network, config)
        if trouble:
            trt.fake_log("ERROR", trouble)
            return None
        if not _told(trt, config):
            trt.fake_log("ERROR", "Error Code 7: BuildCanceled (Build canceled by user)")
            return None
        if config._timing is not None and not config._timing._content:
            config._timing._content = config._mark()
        return HostMemory(_plan(trt, network, config))


def _names(flags: Any) -> list[str]:
    return sorted(flag.name for flag in flags)


def _record(network: Any, config: Any) -> dict[str, Any]:
    return {
        "creation": network._creation,
        "flags": _names(config._flags),
        "limits": {pool.name: size for pool, size in config._limits.items()},
        "profiles": config._profiles,
        "targets": [target.name for target in config._targets],
        "values": {key: value for key, value in vars(config).items() if "_value_" in key},
        "calibrator": vars(config).get("_calibrator"),
        "timing": None if config._timing is None else config._timing._content,
    }


def _trouble(trt: FakeModule, network: Any, config: Any) -> str:
    """Return what TensorRT would log for settings that do not fit, or nothing."""
    if trt.fake_settings.build_error:
        return trt.fake_settings.build_error
    if not network._outputs:
        return "API Usage Error (Network must have at least one output.)"
    return (
        _shape_trouble(network, config)
        or _type_trouble(trt, network, config)
        or _memory_trouble(trt, config)
    )


def _memory_trouble(trt: FakeModule, config: Any) -> str:
    least = trt.fake_settings.least_workspace
    if config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) < least:
        return f"Error Code 2: OutOfMemory (Requested size was {least} bytes.)"
    if trt.fake_flavour == "rtx" and "VERSION_COMPATIBLE" in _names(config._flags):
        return "VERSION_COMPATIBLE is not supported in this build"
    return ""


def _shape_trouble(network: Any, config: Any) -> str:
    open_inputs = {one.name for one in network._inputs if -1 in one.shape}
    if open_inputs and not config._profiles:
        return "Network has dynamic or shape inputs, but no optimization profile has been defined."
    for profile in config._profiles:
        if not open_inputs <= set(profile):
            return f"Optimization profile is missing values for input {open_inputs}"
        if set(profile) - {one.name for one in network._inputs}:
            return f"Invalid optimization profiles for input tensors {sorted(profile)}"
    return ""


def _type_trouble(trt: FakeModule, network: Any, config: Any) -> str:
    flags = set(_names(config._flags))
    typed = _is_typed(trt, network)
    if typed and flags & {"FP16", "INT8", "BF16"}:
        return "Strongly typed network: precision flags must not be set"
    graph = network._model.graph
    if typed:
        return ""
    if not network._creation & 1:
        return "Network was created without EXPLICIT_BATCH, which the ONNX parser needs"
    quantised = any(node.op_type == "QuantizeLinear" for node in graph.node)
    half = any(one.data_type == 10 for one in graph.initializer)
    if half and "FP16" not in flags:
        return "fp16 precision has been set for a layer, but fp16 is not configured in the builder"
    if quantised and "INT8" not in flags:
        return "int8 precision has been set for a layer, but int8 is not configured in the builder"
    if "INT8" in flags and not quantised and vars(config).get("_calibrator") is None:
        return "Calibration failure occurred: int8 calibrator is not specified"
    return ""


def _is_typed(trt: FakeModule, network: Any) -> bool:
    flags = trt.NetworkDefinitionCreationFlag
    if not hasattr(flags, "EXPLICIT_BATCH"):
        return True
    return trt.typed and bool(network._creation & (1 << int(flags.STRONGLY_TYPED)))


def _calibrated(network: Any, config: Any) -> str:
    calibrator = vars(config).get("_calibrator")
    if calibrator is None or "INT8" not in _names(config._flags):
        return ""
    if calibrator.read_calibration_cache() is None:
        names = [one.name for one in network._inputs]
        calibrator.get_batch_size()
        batches = 0
        while calibrator.get_batch(names) is not None:
            batches += 1
        if not batches:
            return "Calibration failure occurred with no scaling factors detected"
        calibrator.write_calibration_cache(memoryview(b"TRT-8601-EntropyCalibration2\n"))
    return ""


def _told(trt: FakeModule, config: Any) -> bool:
    """Tell a monitor of a build like a real one: nested phases, names that come again."""
    monitor = vars(config).get("_monitor")
    if monitor is None:
        trt.fake_step()
        return True

    def phase(name: str, parent: str | None, steps: int, inside: Any = None) -> bool:
        monitor.phase_start(name, parent, steps)
        try:
            for i in range(steps):
                trt.fake_step()
                if inside is not None and not inside(i):
                    return False
                if not monitor.step_complete(name, i):
                    return False
            return True
        finally:
            monitor.phase_finish(name)

    def inside(step: int) -> bool:
        if step == 2:
            return phase("Optimizing", "Building engine", 2, tactics)
        return True

    def tactics(_: int) -> bool:
        return phase("Timing graph nodes", "Optimizing", 4)

    return phase("Building engine", None, 6, inside)


def _plan(trt: FakeModule, network: Any, config: Any) -> bytes:
    graph = network._model.SerializeToString(deterministic=True)
    flags = _names(config._flags)
    named = [int(target.name[2:]) for target in config._targets if target.name[2:].isdigit()]
    rtx = trt.fake_flavour == "rtx"
    level = vars(config).get("_value_hardware")
    facts = {
        "graph_bytes": len(graph),
        "flags": flags,
        "profiles": config._profiles or [{}],
        "sms": named or ([80, 86, 89, 120, 121] if rtx else [trt.fake_settings.sm]),
        "later": int(rtx and not named),
        "hardware": level is not None and level.name == "AMPERE_PLUS",
        "layers": len(network._model.graph.node),
        "inputs": [_facts(one) for one in network._inputs],
        "outputs": [_facts(one) for one in network._outputs],
    }
    return plan_bytes(trt, facts, graph)


def _facts(tensor: Any) -> list[Any]:
    return [tensor.name, tensor.dtype.name, list(tensor.shape)]
