"""What all parts of the fake TensorRT need: strict classes, settings, logs, plans as bytes.

See helpers_fake_tensorrt.
"""

import json
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

TARGETS = (75, 80, 86, 89, 120, 121)
_HEADER = struct.Struct("<4s4xQQ4B4sQ")


@dataclass(kw_only=True)
class FakeSettings:
    """How a fake behaves. Tests change it on the module: `trt.fake_settings.sm = 86`."""

    sm: int = 87
    """Compute capability of the GPU that it builds on and runs on."""
    dla_cores: int = 0
    refuse_operator: str = ""
    """The parser refuses nodes of this ONNX operator."""
    least_workspace: int = 0
    """Builds with a smaller workspace run out of memory."""
    build_error: str = ""
    """Builds log this and give no plan."""
    load_error: str = ""
    """Plans do not load; this is logged."""
    context_error: str = ""
    """No execution context; this is logged."""
    execute_error: str = ""
    """`execute_async_v3` logs this and returns False."""
    no_builder: bool = False
    no_runtime: bool = False
    bogus: bool = False
    """The driver is too old: builders and runtimes are logged to be unusable, and handed back."""
    step_s: float = 0.0
    """Time that each step of a build takes, seconds."""
    padding: int = 0
    """Bytes that each plan is longer."""


@dataclass(kw_only=True)
class FakeRecords:
    """What a fake was asked to do."""

    builds: list[dict[str, Any]] = field(default_factory=list)
    """Settings of each build, also of those that failed."""
    runs: list[dict[str, tuple[int, ...]]] = field(default_factory=list)
    """Shapes of the inputs of each run that was enqueued."""
    runtimes: list[Any] = field(default_factory=list)
    runtime_caches: list[bytes] = field(default_factory=list)
    """What was loaded into runtime caches."""
    graph_strategies: list[str] = field(default_factory=list)


class FakeModule(ModuleType):
    """A module in which everything but the snapshot's names raises."""

    fake_settings: FakeSettings
    fake_records: FakeRecords
    fake_flavour: str
    fake_numbers: tuple[int, int, int, int]
    fake_logger: Any = None  # the first of the process, as with the real one

    def __getattr__(self, name: str) -> Any:
        version = self.__dict__.get("__version__")
        raise AttributeError(f"module {self.__name__} {version} has no attribute '{name}'")

    @property
    def fake_label(self) -> str:
        return f"{self.__name__} {self.__dict__['__version__']}"

    @property
    def typed(self) -> bool:
        """Whether its networks can be strongly typed."""
        flags = self.__dict__.get("NetworkDefinitionCreationFlag")
        return flags is not None and hasattr(flags, "STRONGLY_TYPED")

    def fake_log(self, severity: str, line: str) -> None:
        """Say something through the first logger."""
        if self.fake_logger is not None:
            self.fake_logger.log(getattr(self.ILogger.Severity, severity), line)

    def fake_step(self) -> None:
        if self.fake_settings.step_s:
            time.sleep(self.fake_settings.step_s)

    def fake_use_logger(self, logger: Any) -> None:
        """Check a logger as pybind11 does, and keep the first."""
        started(self, "ILogger", logger)
        if self.fake_logger is None:
            self.fake_logger = logger


def started(trt: FakeModule, base: str, thing: Any) -> Any:
    """Return `thing`; raises what pybind11 raises for a wrong type or a missing base `__init__`."""
    if not isinstance(thing, getattr(trt, base)):
        raise TypeError(f"incompatible function arguments: {base} wanted, {type(thing)} given")
    if not getattr(thing, "_base_init_done", False):
        raise TypeError(f"{base}.__init__() must be called when overriding __init__")
    return thing


def strict_class(
    trt: FakeModule, name: str, allowed: Iterable[str], behaviour: type | None
) -> type:
    """Make a class that has exactly the names of the snapshot.

    Args:
        trt: The module it is for; objects find it as `_trt`.
        name: Of the class.
        allowed: Its public names.
        behaviour: A class whose methods and properties of these names are taken, and its private
            ones. A name that it lacks raises NotImplementedError when it is used.
    """
    names = frozenset(allowed)
    label = f"{trt.fake_label}: {name}"
    body: dict[str, Any] = {key: _not_faked(label, key) for key in names}
    for key, value in {} if behaviour is None else vars(behaviour).items():
        if key in names or (key.startswith("_") and key not in ("__dict__", "__weakref__")):
            body[key] = value

    def get(self: Any, key: str) -> Any:
        raise AttributeError(f"{label} has no attribute '{key}'")

    def put(self: Any, key: str, value: Any) -> None:
        if not key.startswith("_") and key not in names:
            raise AttributeError(f"{label} has no attribute '{key}'")
        object.__setattr__(self, key, value)

    body |= {"__getattr__": get, "__setattr__": put, "_trt": trt, "__module__": trt.__name__}
    return type(name, (), body)


def _not_faked(label: str, key: str) -> property:
    def missing(self: Any, *_: Any) -> Any:
        raise NotImplementedError(f"{label}.{key} is real, but the fake does not do it")

    return property(missing, missing)


def made(trt: FakeModule, kind_name: str, /, **state: Any) -> Any:
    """Make an object of a class that users cannot make; `state` becomes its private attributes."""
    kind = getattr(trt, kind_name)
    thing = kind.__new__(kind)
    for key, value in state.items():
        object.__setattr__(thing, f"_{key}", value)
    return thing


def setting(name: str, default: Any = None) -> Any:
    """Return a property that holds a value, for behaviours."""
    key = f"_value_{name}"

    def get(self: Any) -> Any:
        return self.__dict__.get(key, default)

    def put(self: Any, value: Any) -> None:
        self.__dict__[key] = value

    return property(get, put)


def handed_back_bogus(thing: Any) -> bool:
    """Do as lean and dispatch 11.4 do where CUDA does not start: log it, and make the object."""
    if thing._trt.fake_settings.bogus:
        thing._trt.fake_log("ERROR", "CUDA initialization failure with error: 35 (cudaError 35)")
    return bool(thing._trt.fake_settings.bogus)


def require_real(thing: Any) -> None:
    """Fail where the real object would end the process."""
    assert not thing._trt.fake_settings.bogus, "a call on a bogus object: the process would crash"


class HostMemory(bytes):
    """`IHostMemory`: a buffer with `nbytes`, and no other method of bytes."""

    def __getattribute__(self, name: str) -> Any:
        if name == "nbytes":
            return bytes.__len__(self)
        if not name.startswith("_"):
            raise AttributeError(f"IHostMemory has no attribute '{name}'")
        return super().__getattribute__(name)


def plan_bytes(trt: FakeModule, facts: dict[str, Any], graph: bytes) -> bytes:
    """Return a plan: the header of a real one, `facts` as JSON, and the graph."""
    rtx = trt.fake_flavour == "rtx"
    magic = b"vtrt" if rtx else b"ftrt"
    text = json.dumps(facts, sort_keys=True).encode()
    size = _HEADER.size + 4 + len(text) + len(graph) + trt.fake_settings.padding
    # What stands at 16 and 32 in plans of classic TensorRT is not known, so nothing there.
    mask = sum(1 << TARGETS.index(sm) for sm in facts["sms"]) | 64 * facts["later"] if rtx else 0
    head = _HEADER.pack(magic, 2, size if rtx else 0, *trt.fake_numbers, magic, mask)
    return head + struct.pack("<I", len(text)) + text + graph + bytes(trt.fake_settings.padding)


def plan_parts(plan: bytes) -> tuple[bytes, tuple[int, int, int, int], dict[str, Any], bytes]:
    """Return magic, version, facts and graph of what `plan_bytes` made.

    Raises:
        ValueError: It is no such plan, or is damaged.
    """
    try:
        magic, _, _, *rest = _HEADER.unpack_from(plan)
        (length,) = struct.unpack_from("<I", plan, _HEADER.size)
        begin = _HEADER.size + 4
        facts = json.loads(plan[begin : begin + length])
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    numbers = (rest[0], rest[1], rest[2], rest[3])
    end = begin + length + facts["graph_bytes"]
    return magic, numbers, facts, plan[begin + length : end]
