"""Compiled kernels on disk: found again, whole or not at all, one process at a time."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vad_runtime.engines.runtime_cache import runtime_cache

FACTS = ("sha256 of the plan", "GPU-1", "580.65")


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the caches lie; it does not exist yet."""
    monkeypatch.setenv("VAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rtx"


def kept(*facts: str) -> bytes | None:
    with runtime_cache(*facts) as cache:
        return cache.data


def keep(data: bytes, *facts: str) -> None:
    with runtime_cache(*facts) as cache:
        cache.keep(data)


def test_what_was_kept_is_found_for_the_same_facts_only(folder: Path) -> None:
    assert kept(*FACTS) is None
    keep(b"kernels", *FACTS)
    assert kept(*FACTS) == b"kernels"
    assert kept(*FACTS[:2], "590.00") is None
    keep(b"more kernels", *FACTS)
    assert kept(*FACTS) == b"more kernels"
    assert not list(folder.glob("*.part"))
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_is_no_news_is_not_written(folder: Path) -> None:
    keep(b"kernels", *FACTS)
    (file,) = folder.glob("*.cache")
    before = file.stat().st_mtime_ns
    with runtime_cache(*FACTS) as cache:
        cache.keep(b"kernels")
        cache.keep(None)
        cache.keep(b"")
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize("spoilt", [b"", b"short", bytes(40)], ids=["empty", "cut", "other bytes"])
def test_a_damaged_file_is_left_aside(folder: Path, spoilt: bytes) -> None:
    keep(b"kernels", *FACTS)
    (file,) = folder.glob("*.cache")
    file.write_bytes(spoilt)
    assert kept(*FACTS) is None


def test_no_place_for_a_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    monkeypatch.setenv("VAD_CACHE", str(in_the_way))
    keep(b"kernels", *FACTS)
    assert kept(*FACTS) is None


def test_a_second_process_waits_for_the_first_and_finds_its_kernels(folder: Path) -> None:
    code = (
        "import sys, time; from vad_runtime.engines.runtime_cache import runtime_cache\n"
        f"with runtime_cache(*{FACTS!r}) as cache:\n"
        "    print('in', flush=True); sys.stdin.readline(); cache.keep(b'of the first')\n"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdin is not None
    assert first.stdout is not None
    with first:
        assert first.stdout.readline() == "in\n"
        found: list[bytes | None] = []
        second = threading.Thread(target=lambda: found.append(kept(*FACTS)))
        second.start()
        time.sleep(0.3)
        assert found == []
        first.stdin.write("go\n")
        first.stdin.close()
        second.join(10)
    assert found == [b"of the first"]


def test_it_does_not_wait_for_ever(folder: Path) -> None:
    with runtime_cache(*FACTS) as first:
        start_s = time.monotonic()
        with runtime_cache(*FACTS, wait_s=0.2) as second:
            second.keep(b"second")
        assert 0.2 <= time.monotonic() - start_s < 5
        first.keep(b"first")
    assert kept(*FACTS) == b"first"


def test_the_oldest_caches_make_room(folder: Path) -> None:
    keep(b"kernels", "0")
    (oldest,) = folder.glob("*.cache")
    os.utime(oldest, (1, 1))  # two files of one moment have the same time
    for i in range(1, 40):
        keep(b"kernels", str(i))
    assert len(list(folder.glob("*.cache"))) == 32
    assert kept("39") == b"kernels"
    assert kept("0") is None
