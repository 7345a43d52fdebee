"""The compiled module is asked for with each frame: it is looked for once, and may be forbidden."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

import vad_runtime
from vad_runtime import native
from vad_runtime.native import native_module, why_not

NAME = "vad_runtime._native"


class Finder:
    """Counts how often the module is looked for, and has it found nowhere."""

    def __init__(self) -> None:
        self.asked = 0

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Take part in the import."""
        if name == NAME:
            self.asked += 1
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing was looked for before, and what is found here does not outlive the test."""
    monkeypatch.delenv("VAD_NATIVE", raising=False)
    native._is_there.cache_clear()
    yield
    native._is_there.cache_clear()


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Finder:
    """An installation without the compiled module."""
    finder = Finder()
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    return finder


def import_gives(monkeypatch: pytest.MonkeyPatch, module: object) -> None:
    """Have the compiled module imported already."""
    monkeypatch.setitem(sys.modules, NAME, module)
    monkeypatch.setattr(vad_runtime, "_native", module, raising=False)


def test_a_module_that_is_not_there_is_looked_for_once(nowhere: Finder) -> None:
    assert [native_module() for _ in range(3)] == [None] * 3
    assert nowhere.asked == 1
    assert why_not() == "no compiled module"


def test_a_module_that_lacks_something_of_its_own_is_an_error(
    monkeypatch: pytest.MonkeyPatch, nowhere: Finder
) -> None:
    def broken(name: str, path: Any = None, target: Any = None) -> None:
        if name == NAME:
            raise ModuleNotFoundError("No module named 'wings'", name="wings")

    monkeypatch.setattr(nowhere, "find_spec", broken)
    with pytest.raises(ModuleNotFoundError, match="wings"):
        native_module()


def test_the_environment_is_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import_gives(monkeypatch, _Module())
    assert native_module() is sys.modules[NAME]
    monkeypatch.setenv("VAD_NATIVE", "0")
    assert native_module() is None
    assert why_not() == "VAD_NATIVE=0"
    monkeypatch.setenv("VAD_NATIVE", "1")
    assert native_module() is sys.modules[NAME]


class _Module:
    Resizer = object
