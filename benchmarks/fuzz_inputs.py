"""Spoils inputs and looks whether each is read, or refused in one line.

Any other end is a finding: a traceback, a message of several lines, chatter on stderr, a hang, a
crash, a file that is left behind, a thread or a file handle that is not given back.

    python benchmarks/fuzz_inputs.py --cases 2000 --seed 0
    python benchmarks/fuzz_inputs.py --seed 0 --only video:17     # one case again, with traceback

Each case follows from the seed, its target and its number alone. Exit code 1 if anything is found.
"""

import argparse
import contextlib
import gc
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import fuzz_targets  # noqa: E402
from fuzz_seeds import make_seeds  # noqa: E402
from fuzz_targets import Target, require_one_line  # noqa: E402

_MEMORY = 6 << 30
_SLOW_S = 5.0
_OUR_NOTES = (b"these are the newest ",)
"""What a command that went well may say on stderr."""


# -- the worker: one process that runs case after case ---------------------------------------------


def targets() -> dict[str, Target]:
    """Return all targets by name; VAD_FUZZ_PLANTED=1 adds ones that fail, for the test of this."""
    found = {target.name: target for target in fuzz_targets.TARGETS}
    if _planted():
        found |= {f"planted-{name}": Target(f"planted-{name}", 0, run) for name, run in _PLANTED}
    return found


def _planted() -> bool:
    return os.environ.get("VAD_FUZZ_PLANTED") == "1"


def work(seeds: Path, folder: Path, seed: str) -> None:
    """Run the cases that are named on stdin, `TARGET NUMBER` a line; answer each with JSON."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    for number, name in ((1, "stdout"), (2, "stderr")):
        handle = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, number)
        os.close(handle)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("error")
    known = targets()
    if not _planted():
        warm_up = Target("warm-up", 0, lambda sound, case, _: fuzz_targets.warm_up(sound, case))
        for target in (warm_up, *fuzz_targets.TARGETS):
            verdict = _one(target, -1, seeds, folder, seed)
            assert target is not warm_up or verdict["end"] == "read", verdict
    gc.collect()
    gc.freeze()
    print("ready", file=channel)
    for line in sys.stdin:
        name, number = line.split()
        print(json.dumps(_one(known[name], int(number), seeds, folder, seed)), file=channel)


def _one(target: Target, number: int, seeds: Path, folder: Path, seed: str) -> dict[str, Any]:
    case = folder / "case"
    (case / "in").mkdir(parents=True)
    for name in ("stdout", "stderr"):
        os.truncate(folder / name, 0)
    threads, handles = threading.active_count(), _handles()
    random = Random(f"{seed} {target.name} {number}")
    start = time.perf_counter()
    verdict = _verdict(target, seeds, case, random)
    verdict["s"] = time.perf_counter() - start
    if not verdict.get("finding"):
        sys.stderr.flush()
        lines = (folder / "stderr").read_bytes().splitlines()
        chatter = b"\n".join(line for line in lines if not line.startswith(_OUR_NOTES))
        left = _left(case, target, refused=verdict["end"] == "refused")
        if chatter.strip():
            verdict["finding"] = f"chatter on stderr: {chatter[:300].decode(errors='replace')!r}"
        elif left:
            verdict["finding"] = f"left behind: {', '.join(sorted(left)[:5])}"
        else:
            verdict["finding"] = _leak(threads, handles)
    shutil.rmtree(case)
    return verdict


def _verdict(target: Target, seeds: Path, case: Path, random: Random) -> dict[str, Any]:
    import click

    from vad_runtime.contracts.errors import VadError

    try:
        target.run(seeds, case, random)
        return {"end": "read"}
    except VadError as error:
        message = str(error)
    except click.UsageError as error:
        message = error.format_message()
    except BaseException as error:
        return {"end": "finding", "finding": _where(error), "traceback": traceback.format_exc()}
    try:
        require_one_line(message)
    except AssertionError as error:
        return {"end": "finding", "finding": f"no good line: {error}", "traceback": message[:1000]}
    return {"end": "refused", "message": message[:500]}


def _where(error: BaseException) -> str:
    """Return kind and place of an exception: equal for cases with the same cause."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "vad_runtime" in f.filename] or list(frames)
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}"
    return f"{type(error).__name__} at {place}"


def _left(case: Path, target: Target, *, refused: bool) -> list[str]:
    found = []
    for path in case.rglob("*"):
        name = path.relative_to(case)
        if name.parts[0] == "in" and not path.name.endswith((".part", ".tmp")):
            continue  # what the case was given, and what belongs beside it
        if any(name.match(pattern) for pattern in target.may_leave):
            continue
        if name.parts[0] == "out" and not refused:
            continue
        found.append(str(name))
    return found


def _leak(threads: int, handles: int) -> str:
    for _ in range(50):
        if threading.active_count() <= threads and _handles() <= handles:
            return ""
        gc.collect()
        time.sleep(0.02)
    if threading.active_count() > threads:
        names = ", ".join(thread.name for thread in threading.enumerate())
        return f"a thread goes on: {names}"
    names = Counter(_target(entry) for entry in Path("/proc/self/fd").iterdir())
    which = ", ".join(name for name, _ in names.most_common()[:8])
    return f"{_handles() - handles} file handles are not given back (there are {which})"


def _target(entry: Path) -> str:
    try:
        return entry.readlink().name
    except OSError:
        return "?"


def _handles() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count, many times a second


# -- the parent: keeps a worker alive and judges what it cannot say itself -------------------------


@dataclass
class Tally:
    """What became of one target's cases."""

    read: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    findings: dict[str, list[int]] = field(default_factory=dict)
    """Numbers of the cases by what was found."""


class Worker:
    """A worker process; made anew after each hang or crash."""

    def __init__(self, seeds: Path, seed: str, timeout_s: float) -> None:
        self._seeds, self._seed, self._timeout_s = seeds, seed, timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._folder: Path | None = None

    def run(self, target: str, number: int) -> dict[str, Any]:
        """Run one case and return its verdict."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{target} {number}\n")
            process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], self._timeout_s)
        line = process.stdout.readline() if ready else ""
        if line:
            return dict(json.loads(line))
        end = f"hangs for more than {self._timeout_s:g} s"
        if ready:
            code = process.wait()
            end = f"the process crashed ({signal.Signals(-code).name if code < 0 else code})"
        assert self._folder is not None
        said = (self._folder / "stderr").read_bytes()[-2000:].decode(errors="replace")
        self.close()
        return {"end": "finding", "finding": end, "traceback": said, "s": self._timeout_s}

    def _start(self) -> "subprocess.Popen[str]":
        self._folder = Path(tempfile.mkdtemp(prefix="vad-fuzz-", dir=self._seeds.parent))
        command = [sys.executable, "-X", "faulthandler", __file__, "--seed", self._seed]
        self._process = subprocess.Popen(
            [*command, "--worker", str(self._seeds), str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(self._folder), "TZ": "UTC"},
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            said = (self._folder / "stderr").read_text(errors="replace")
            raise SystemExit(f"the worker does not start: {said[-2000:]}")
        return self._process

    def close(self) -> None:
        """End the process, however it is."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._process = self._folder = None


def plan(cases: int, chosen: list[str] | None) -> list[tuple[str, int]]:
    """Return target and number of each case: each target its share, mixed."""
    known = targets()
    names = chosen or [name for name, target in known.items() if target.share]
    shares = {name: max(known[name].share, 1) for name in names}
    out: list[tuple[str, int]] = []
    given: Counter[str] = Counter()
    for i in range(1, cases + 1):
        total = sum(shares.values())
        name = max(names, key=lambda n: shares[n] / total * i - given[n])
        out.append((name, given[name]))
        given[name] += 1
    return out


def main() -> int:
    """Run the cases and print a table; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--target", action="append", help="only this one; may be given again")
    parser.add_argument("--only", metavar="TARGET:NUMBER", help="one case, with its traceback")
    parser.add_argument("--show", action="store_true", help="print the end of each case")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds a case")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        work(Path(asked.worker[0]), Path(asked.worker[1]), asked.seed)
        return 0
    unknown = set(asked.target or []) - set(targets())
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(targets())}")
    cases = plan(asked.cases, asked.target)
    if asked.only:
        name, _, number = asked.only.partition(":")
        cases = [(name, int(number))]
    with tempfile.TemporaryDirectory(prefix="vad-fuzz-") as name:
        seeds = Path(name) / "seeds"
        seeds.mkdir()
        make_seeds(seeds)
        worker = Worker(seeds, asked.seed, asked.timeout)
        start = time.monotonic()
        try:
            tallies = _run_all(worker, cases, show=asked.show or bool(asked.only))
        finally:
            worker.close()
    return _report(tallies, asked.seed, time.monotonic() - start)


def _run_all(worker: Worker, cases: list[tuple[str, int]], *, show: bool) -> dict[str, Tally]:
    tallies: dict[str, Tally] = {}
    for name, number in cases:
        verdict = worker.run(name, number)
        tally = tallies.setdefault(name, Tally())
        tally.slowest_s = max(tally.slowest_s, verdict["s"])
        finding = verdict.get("finding")
        if not finding and verdict["s"] > _SLOW_S:
            print(f"slow: {name}:{number} took {verdict['s']:.1f} s")
        if finding:
            if finding not in tally.findings:
                print(f"FOUND  {name}:{number}  {finding}", flush=True)
            tally.findings.setdefault(finding, []).append(number)
        else:
            tally.read += verdict["end"] == "read"
            tally.refused += verdict["end"] == "refused"
        if show:
            end = verdict.get("traceback") or verdict.get("message") or verdict["end"]
            print(f"{name}:{number}  {end}")
    return tallies


def _report(tallies: dict[str, Tally], seed: str, wall_s: float) -> int:
    print(f"\n{'target':<20}{'cases':>7}{'read':>7}{'refused':>9}{'found':>7}{'slowest':>10}")
    found = 0
    for name, tally in sorted(tallies.items()):
        bad = sum(map(len, tally.findings.values()))
        found += bad
        cases = tally.read + tally.refused + bad
        counts = f"{cases:>7}{tally.read:>7}{tally.refused:>9}{bad:>7}"
        print(f"{name:<20}{counts}{tally.slowest_s:>8.2f} s")
    for name, tally in sorted(tallies.items()):
        for finding, numbers in tally.findings.items():
            again = f"--seed {seed} --only {name}:{numbers[0]}"
            print(f"\n{len(numbers)} x {finding}\n    python benchmarks/fuzz_inputs.py {again}")
    total = sum(t.read + t.refused + sum(map(len, t.findings.values())) for t in tallies.values())
    print(f"\n{total} cases in {wall_s:.0f} s: {found} findings")
    return 1 if found else 0


# -- what must be found, for the test of this script -----------------------------------------------


def _raise(*_: object) -> None:
    raise KeyError("planted")


def _wordless(*_: object) -> None:
    from vad_runtime.contracts.errors import InputError

    raise InputError("")


def _hang(*_: object) -> None:
    time.sleep(1000)


def _crash(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _leave(_seeds: Path, case: Path, _random: Random) -> None:
    (case / "debris").touch()


def _chatter(*_: object) -> None:
    os.write(2, b"libfoo: warning\n")


def _thread(*_: object) -> None:
    threading.Thread(target=time.sleep, args=(5,), daemon=True).start()


_PLANTED = (
    *(("traceback", _raise), ("wordless", _wordless), ("hang", _hang), ("crash", _crash)),
    *(("debris", _leave), ("chatter", _chatter), ("thread", _thread)),
)

if __name__ == "__main__":
    sys.exit(main())
