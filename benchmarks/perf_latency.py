"""One model's engines and peers in turn, in a process of its own.

What a process did before changes what the next model costs: memory that an earlier model gave back
spares PyTorch's page faults (the STAE: 100,000 a clip in a fresh process, and 310 ms instead of
190). So every model begins in a fresh one.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from perf_models import made
from perf_peers import EAGER, Engines, engines_of, require_same
from perf_ratios import Times, rounds


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the engines of a model came to."""

    times: dict[str, Times]
    differences: dict[str, dict[str, Any]]
    missing: dict[str, str]
    notes: dict[str, str]


def measured(key: str, *, full: bool) -> Found:
    """Require the same answers of all engines of a model, and time them.

    Args:
        key: Of `MODELS`.
        full: In a new process and many rounds; else one round, here.
    """
    if not full:
        return _measured(key, False)
    # Spawned: a fork would inherit the memory that this is to be free of.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measured, key, True).result()


def _measured(key: str, full: bool) -> Found:
    one = made(key)
    engines = engines_of(one, compiled=full)
    try:
        # A clip of the largest takes all engines a quarter of a minute.
        large = one.model.gop is not None and one.model.gop > 300
        clips = one.clips()[: 1 if large else None]
        differences = answers(clips, engines)
        clip = clips[:1]
        calls = {name: (lambda s=score: s(clip)) for name, score in engines.scores.items()}
        warm_up = (1 if large else 2) if full else 0
        times = rounds(calls, count=15 if full else 1, max_s=30.0, warm_up=warm_up)
    finally:
        engines.close()
    return Found(times=times, differences=differences, missing=engines.missing, notes=engines.notes)


def answers(clips: Any, engines: Engines) -> dict[str, dict[str, Any]]:
    """Require that every engine gives PyTorch's answer; return the differences."""
    found: dict[str, dict[str, Any]] = {}
    for clip in clips[:, None]:
        want = engines.scores[EAGER](clip)
        for name, score in engines.scores.items():
            found[name] = require_same(name, score(clip), want, engines.precisions[name])
    return found
