"""Fake TensorRT modules, made from the names that the real bindings of each version offer.

A class of a fake has exactly the attributes of the snapshot in `trt_api/`; any other that is read
or written raises AttributeError. What is there works: the parser reads the ONNX file, a build gives
a plan with the header of a real one and the graph in it, and an engine runs that graph in ONNX
Runtime on the addresses it was given (host memory: see helpers_cuda).

    trt = fake_tensorrt("10.3.0")                 a module, for this process
    use_fake(monkeypatch, "10.3.0")               the same, found by `import tensorrt`
    install_fake(folder, "10.3.0")                for a subprocess with PYTHONPATH=folder
    with_driver(monkeypatch)                      an NVIDIA driver, for this process
    without_driver(monkeypatch)                   none, also on a machine that has one
"""

import enum
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fake_trt_build as build
import fake_trt_parser as parser
import fake_trt_run as run
import pytest
from fake_trt_core import FakeModule, FakeRecords, FakeSettings, HostMemory, strict_class

_FOLDER = Path(__file__).parent / "trt_api"

SNAPSHOTS = ("8.6.1", "10.3.0", "10.13.3.9", "11.4.0", "rtx1.7", "lean11.4")
"""Versions whose names are known."""

BUILDERS = tuple(name for name in SNAPSHOTS if name != "lean11.4")
"""Those that build plans."""

_NAMES = {
    "tensorrt": ("tensorrt", "tensorrt_bindings"),
    "rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    "lean": ("tensorrt_lean", "tensorrt_lean_bindings"),
    "dispatch": ("tensorrt_dispatch", "tensorrt_dispatch_bindings"),
}

_VERSIONS: dict[str, tuple[str, tuple[int, int, int, int]]] = {
    # `__version__`, and the four numbers in a plan; the last one stands in NVIDIA's release notes.
    "8.6.1": ("8.6.1", (8, 6, 1, 6)),
    "10.3.0": ("10.3.0", (10, 3, 0, 26)),
    "10.13.3.9": ("10.13.3.9", (10, 13, 3, 9)),
    "11.4.0": ("11.4.0.106", (11, 4, 0, 106)),
    "lean11.4": ("11.4.0.106", (11, 4, 0, 106)),
    "rtx1.7": ("1.7.1.116", (1, 7, 1, 116)),
}

_BEHAVIOURS: dict[str, type] = {
    "Builder": build.Builder,
    "IBuilderConfig": build.Config,
    "INetworkDefinition": parser.Network,
    "IOptimizationProfile": build.Profile,
    "ITimingCache": build.TimingCache,
    "OnnxParser": parser.Parser,
    "Runtime": run.Runtime,
    "ICudaEngine": run.Engine,
    "IExecutionContext": run.ExecutionContext,
    "IRuntimeConfig": run.RuntimeConfig,
    "IRuntimeCache": run.RuntimeCache,
}

_CALIBRATORS = (
    "IInt8EntropyCalibrator",
    "IInt8EntropyCalibrator2",
    "IInt8LegacyCalibrator",
    "IInt8MinMaxCalibrator",
)


def flavour_of(snapshot: str) -> str:
    """Return which library a snapshot shows: `tensorrt`, `rtx` or `lean`."""
    return next((name for name in ("rtx", "lean") if snapshot.startswith(name)), "tensorrt")


def fake_tensorrt(
    snapshot: str, *, flavour: str = "", without: Sequence[str] = (), **settings: Any
) -> Any:
    """Return a fake module.

    Args:
        snapshot: One of `SNAPSHOTS`.
        flavour: `dispatch` to show the lean snapshot as the dispatch runtime.
        without: Names to leave out, `IExecutionContext.execute_async_v3` or `Builder`.
        settings: See `FakeSettings`; they can be changed later, as `fake_settings`.

    Returns:
        The module, with `fake_settings` and `fake_records` beside TensorRT's names.
    """
    api = _api(snapshot, without)
    kind = flavour or flavour_of(snapshot)
    version, numbers = _VERSIONS[snapshot]
    trt = FakeModule(_NAMES[kind][0])
    trt.__version__ = version  # type: ignore[attr-defined]
    trt.fake_flavour, trt.fake_numbers = kind, numbers
    sm = int(os.environ.get("FAKE_CUDA_SM", "87"))
    trt.fake_settings = FakeSettings(**{"sm": sm} | settings)
    trt.fake_records = FakeRecords()
    for name in api["_classes"]:
        if f"{name}::enum" in api:
            continue
        vars(trt)[name] = strict_class(trt, name, api.get(name, ()), _BEHAVIOURS.get(name))
    for name, members in api.items():
        if name.endswith("::enum"):
            plain = name.removesuffix("::enum")
            vars(trt)[plain] = enum.IntEnum(plain, members)
    _add_without_snapshot(trt, newer=snapshot != "8.6.1")
    return trt


def _api(snapshot: str, without: Sequence[str]) -> dict[str, Any]:
    api: dict[str, Any] = json.loads((_FOLDER / f"{snapshot}.json").read_text())
    for name in without:
        owner, _, attribute = name.partition(".")
        if not attribute:
            api["_classes"].remove(owner)
            api.pop(f"{owner}::enum", None)
        elif f"{owner}::enum" in api:
            del api[f"{owner}::enum"][attribute]
        else:
            api[owner].remove(attribute)
    return api


def _add_without_snapshot(trt: Any, *, newer: bool) -> None:
    """Replace the classes whose attributes are in no snapshot, by what every version has."""
    names = vars(trt)
    names["ILogger"] = _base("ILogger")
    levels = ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"]
    names["ILogger"].Severity = enum.IntEnum("Severity", levels, start=0)
    names["IHostMemory"] = HostMemory
    names["Dims"] = parser.Dims
    for name in ("IProgressMonitor", "IInt8Calibrator"):
        if name in names:
            names[name] = _base(name)
    for name in _CALIBRATORS:
        if name in names:
            names[name] = _base(name, names["IInt8Calibrator"])
    if "ITensor" in names:
        names["ITensor"] = strict_class(trt, "ITensor", ["name", "dtype", "shape"], parser.Tensor)
    if "ParserError" in names:
        asked = ["code", "desc", "file", "func", "line", "node"]
        asked += ["node_name", "node_operator"] if newer else []
        names["ParserError"] = strict_class(trt, "ParserError", asked, parser.ParserError)


def _base(name: str, parent: type = object) -> type:
    """Return a class to inherit from, which notices when its `__init__` was not called."""

    def start(self: Any) -> None:
        self._base_init_done = True

    return type(name, (parent,), {"__init__": start})


def use_fake(monkeypatch: pytest.MonkeyPatch, snapshot: str, **settings: Any) -> Any:
    """Make a fake the only TensorRT that this process can import, and return it."""
    trt = fake_tensorrt(snapshot, **settings)
    hide_tensorrt(monkeypatch)
    for name in _NAMES[trt.fake_flavour]:
        monkeypatch.setitem(sys.modules, name, trt)
    return trt


def hide_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every TensorRT library look as if it was not installed."""
    for names in _NAMES.values():
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)


def install_fake(folder: Path, snapshot: str, *, flavour: str = "", hide: bool = True) -> Path:
    """Write packages for a subprocess: give it PYTHONPATH=folder.

    Its settings come from the environment: FAKE_TENSORRT='{"sm": 86}', FAKE_CUDA_SM=86.

    Args:
        folder: Where to; made.
        snapshot: One of `SNAPSHOTS`.
        flavour: As for `fake_tensorrt`.
        hide: Make the other libraries look as if they were not installed.

    Returns:
        The folder.
    """
    kind = flavour or flavour_of(snapshot)
    here = str(Path(__file__).parent)
    text = (
        "import json, os, sys\n"
        f"sys.path.append({here!r})\n"
        "from helpers_fake_tensorrt import fake_tensorrt\n"
        "settings = json.loads(os.environ.get('FAKE_TENSORRT', '{}'))\n"
        f"fake = fake_tensorrt({snapshot!r}, flavour={kind!r}, **settings)\n"
        f"for name in {_NAMES[kind]!r}:\n"
        "    sys.modules[name] = fake\n"
    )
    for name in _NAMES[kind]:
        _write_package(folder, name, text)
    if hide:
        for other in _NAMES.keys() - {kind}:
            _hide_package(folder, other)
    return folder


def hide_installed(folder: Path, *, but: str = "") -> Path:
    """Write packages that hide the real TensorRT libraries from a subprocess, but one flavour."""
    for kind in _NAMES.keys() - {but}:
        _hide_package(folder, kind)
    return folder


def _hide_package(folder: Path, flavour: str) -> None:
    for name in _NAMES[flavour]:
        text = f"raise ModuleNotFoundError(\"No module named '{name}'\", name={name!r})\n"
        _write_package(folder, name, text)


def _write_package(folder: Path, name: str, text: str) -> None:
    package = folder / name
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(text)


def with_driver(
    monkeypatch: pytest.MonkeyPatch,
    *,
    sm: int = 87,
    integrated: bool = False,
    memory_bytes: int = 8 << 30,
    name: str = "Fake GPU",
    cuda: str = "13.0",
) -> Any:
    """Make this process find an NVIDIA driver with one GPU, and return that `Driver`."""
    # By name: the package also offers a function called `driver`.
    module: Any = importlib.import_module("vad_runtime.cuda.driver")
    gpu = module.Gpu(
        index=0,
        name=name,
        sm=sm,
        memory_bytes=memory_bytes,
        integrated=integrated,
        uuid="GPU-00000000-0000-0000-0000-000000000000",
    )
    found = module.Driver(cuda=cuda, kernel=None, gpus=(gpu,))
    monkeypatch.setattr(module, "_driver", found)
    monkeypatch.setattr(module, "_library", object())
    return found


def without_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process find no NVIDIA driver."""
    from vad_runtime.contracts import NoDriverError

    def refused(*_: Any) -> Any:
        raise NoDriverError("No NVIDIA driver here (a test). Install it.")

    module = importlib.import_module("vad_runtime.cuda.driver")
    for name in ("driver", "gpu_of", "library"):
        monkeypatch.setattr(module, name, refused)
