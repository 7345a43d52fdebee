"""The names that we use are in the real bindings, and the snapshots behind the fakes are true.

Nothing here makes a `Runtime`, so no driver is needed. Versions of TensorRT that package indexes do
not have are known by their snapshots in tests/trt_api only.
"""

import ast
import importlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SNAPSHOTS = ROOT / "tests" / "trt_api"
ENGINES = ROOT / "runtime" / "vad_runtime" / "engines"
CUDA = ROOT / "runtime" / "vad_runtime" / "cuda"
REAL = {
    "tensorrt_rtx_bindings": ("rtx1.7", "1.7."),
    "tensorrt_lean_bindings": ("lean11.4", "11.4."),
    "tensorrt_dispatch_bindings": ("lean11.4", "11.4."),
}
"""Wheels that can be installed without a GPU: their snapshot, and the versions it holds for."""


def real(name: str) -> ModuleType:
    """A module that `dev` brings; skips without it, fails under VAD_REQUIRE_DATA=1."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # bindings without their libraries raise either
        give_up = pytest.fail if os.environ.get("VAD_REQUIRE_DATA") == "1" else pytest.skip
        give_up(f"{name} cannot be imported ({error}); pip install 'vad-edge[dev]'")


def snapshot(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SNAPSHOTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def names_in_snapshots() -> dict[str, set[str]]:
    """For each class the attributes and enum values that any snapshot has; "" = all of them."""
    names: dict[str, set[str]] = {"": set()}
    for file in SNAPSHOTS.glob("*.json"):
        for key, members in snapshot(file.stem).items():
            owner = key.partition("::")[0]
            found = {name: set() for name in members} if owner == "_classes" else {owner: members}
            for name, inside in found.items():
                names.setdefault(name, set()).update(inside)
                names[""] |= {name, *inside}
    return names


def nodes_of(*files: Path) -> Iterator[tuple[str, ast.AST]]:
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            yield f"{file.name}:{getattr(node, 'lineno', '')}", node


def adapters() -> list[Path]:
    found = sorted(ENGINES.glob("adapter*.py"))
    assert found, "the adapter has moved: correct this test"
    return found


@pytest.mark.parametrize("name", REAL)
def test_the_snapshot_says_what_the_real_binding_has(name: str) -> None:
    module, (file, version) = real(name), REAL[name]
    if not module.__version__.startswith(version):
        pytest.skip(f"{name} {module.__version__}: the snapshot is of {version}x")
    for key, members in snapshot(file).items():
        owner, _, kind = key.partition("::")
        if owner == "_classes":
            assert set(members) <= set(dir(module))
        elif kind == "enum":
            values = getattr(module, owner).__members__
            assert {member: int(value) for member, value in values.items()} == members, owner
        else:
            public = {member for member in dir(getattr(module, owner)) if member[0] != "_"}
            assert public == set(members), owner


def asked_names(call: ast.Call) -> list[tuple[str, str]]:
    """The owner ("" = any) and name that a call looks up in a binding by a string."""
    function = getattr(call.func, "id", "") or getattr(call.func, "attr", "")
    words = [getattr(argument, "value", None) for argument in call.args]
    if function in ("getattr", "hasattr") and isinstance(words[1], str):
        return [("", words[1])]
    if function == "set_flag" and len(words) > 1 and isinstance(words[1], str):
        return [("BuilderFlag", words[1])]
    if function == "has" and isinstance(words[0], str):  # the adapter's own
        return [("", words[0]), *((words[0], str(word)) for word in words[1:])]
    return []


def test_every_name_that_is_looked_up_by_a_string_is_known_to_some_version() -> None:
    # getattr(x, "MISSPELT", None) would silently mean that no version can do it.
    known = names_in_snapshots()
    known[""].add("__version__")
    ours, others = adapters(), (ROOT / "export" / "vad_export" / "engine").glob("*.py")
    asked = [
        (where, owner, name)
        for files in (ours, others)
        for where, node in nodes_of(*files)
        if isinstance(node, ast.Call)
        for owner, name in asked_names(node)
        if files is ours or owner  # elsewhere getattr asks objects of our own
    ]
    assert {"BuilderFlag", "IRuntimeConfig"} <= {owner for _, owner, _ in asked}
    assert [found for found in asked if found[2] not in known[found[1]]] == []


def test_only_the_adapter_knows_names_of_tensorrt() -> None:
    # The differences between versions stay in one place. "Logger" and the like are anybody's words.
    words = {
        name
        for file in SNAPSHOTS.glob("*.json")
        for name in snapshot(file.stem)["_classes"]
        if re.fullmatch(r"I[A-Z][a-z]\w+|\w+(Flag|PoolType|Parser|Level)", name)
    }
    assert {"BuilderFlag", "IProgressMonitor", "OnnxParser"} <= words
    places = (ROOT / "runtime" / "vad_runtime", ROOT / "export" / "vad_export")
    others = sorted({file for place in places for file in place.rglob("*.py")} - set(adapters()))
    assert [
        (where, node.attr)
        for where, node in nodes_of(*others)
        if isinstance(node, ast.Attribute) and node.attr in words
    ] == []


def test_the_adapter_imports_tensorrt_and_the_cuda_package_cuda_and_nothing_else_does() -> None:
    package = ROOT / "runtime" / "vad_runtime"
    others = sorted(set(package.rglob("*.py")) - set(adapters()) - set(CUDA.glob("*.py")))
    assert len(others) > 10
    imported = []
    for where, node in nodes_of(*others):
        if isinstance(node, ast.Import):
            imported += [(where, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.append((where, node.module or ""))
    assert [
        (where, name)
        for where, name in imported
        if re.match(r"(cuda|pycuda|tensorrt\w*)(\.|$)", name)
    ] == []


def test_cuda_bindings_has_every_name_that_we_use() -> None:
    cuda: Any = real("cuda.bindings.driver")
    known = set(dir(cuda)) | {
        member for name in dir(cuda) for member in getattr(getattr(cuda, name), "__members__", ())
    }
    used = set()
    for where, node in nodes_of(*set(CUDA.glob("*.py")) - {CUDA / "pycuda.py"}):
        word = node.attr if isinstance(node, ast.Attribute) else None
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            word = node.value
        if word and re.fullmatch(r"cu[A-Z]\w+|CU[a-z]\w+|CU_\w+", word):
            # ctypes needs the versioned name of a function, the binding hides it.
            used.add((where, re.sub(r"(_v\d)$", "", word)))
    assert len(used) > 10
    assert sorted((where, word) for where, word in used if word not in known) == []


def test_the_numbers_that_we_took_from_cuda_h_mean_what_we_say() -> None:
    cuda: Any = real("cuda.bindings.driver")
    driver: Any = importlib.import_module("vad_runtime.cuda.driver")
    attributes, results = cuda.CUdevice_attribute, cuda.CUresult
    assert attributes(driver._INTEGRATED).name == "CU_DEVICE_ATTRIBUTE_INTEGRATED"
    assert attributes(driver._SM_MAJOR).name == "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR"
    assert attributes(driver._SM_MINOR).name == "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR"
    assert results(driver._NO_DEVICE).name == "CUDA_ERROR_NO_DEVICE"
    names = {number: results(number).name.removeprefix("CUDA_ERROR_") for number in driver._CAUSES}
    assert names == {
        34: "STUB_LIBRARY",
        46: "DEVICE_UNAVAILABLE",
        101: "INVALID_DEVICE",
        802: "SYSTEM_NOT_READY",
        803: "SYSTEM_DRIVER_MISMATCH",
        804: "COMPAT_NOT_SUPPORTED_ON_DEVICE",
    }
