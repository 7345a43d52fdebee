"""What a clip costs: every engine and every peer, in the same rounds of one process a model."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from perf_latency import Found, measured
from perf_models import MODELS, Made
from perf_peak import highest
from perf_peers import BF16, COMPILED, EAGER, INT8, NNCF
from perf_ratios import Times, interval_kind, ratio
from perf_targets import NNCF_LEAST, Target, target_of
from pytest_benchmark.fixture import BenchmarkFixture

from vad_runtime.backends.base import Options
from vad_runtime.backends.onnxruntime import OnnxRuntimeBackend


def test_a_clip_on_every_engine(
    benchmark: BenchmarkFixture,
    board: Any,
    made_of: Callable[[str], Made],
    model: str,
    peak: Callable[[], dict[str, float]],
    full: bool,
) -> None:
    """The row of pytest-benchmark is a round of all of them; the board has the table."""
    benchmark.group = "one clip, all engines in turn"
    made = made_of(model)
    seen: list[Found] = []
    before = peak()
    benchmark.pedantic(lambda: seen.append(measured(model, full=full)), rounds=1)
    most = highest(before, peak())
    (found,) = seen
    held = found.times
    eager = held[EAGER].wall_ms
    rows = []
    for name, times in held.items():
        wall, faster = times.summary()["wall_ms"], ratio(eager, times.wall_ms)
        share = share_of_peak(made.model.gop, float(np.median(times.wall_ms)), most)
        gap = found.differences[name]["difference"]
        rows.append([name, wall, float(np.percentile(times.wall_ms, 90)), share, str(faster), gap])
    rows.sort(key=lambda row: row[1])
    for row in rows:
        row[-1] = f"{row[-1]:.1e}"
    kind = interval_kind(len(eager))
    head = ["engine", "wall ms", "p90", "int8 peak", f"x eager ({kind})", "difference"]
    board.table(f"{MODELS[model].name}, one clip, {len(eager)} rounds", head, rows)
    if COMPILED in found.notes:
        board.note(f"{MODELS[model].name}: {COMPILED}: {found.notes[COMPILED]}")
    for name, why in found.missing.items():
        board.note(f"{MODELS[model].name}: no {name}: {why}")
    times = {name: one.summary() for name, one in held.items()}
    board.data(model=model, times=times, peak=most, gop=made.model.gop, devices=found.notes)
    if full:
        for target in targets(made, held):
            board.target(target)


def share_of_peak(gop: float | None, wall_ms: float, peak: dict[str, float]) -> str:
    """Return the share of the int8 peak that a clip's work comes to."""
    if gop is None or "int8" not in peak:
        return "-"
    return f"{gop / wall_ms * 1e3 / peak['int8']:.0%}"


def targets(made: Made, held: dict[str, Times]) -> Iterator[Target]:
    """Yield the model's targets."""
    name = made.model.name
    wanted = made.model.eager
    assert wanted is not None
    for peer, least in ((EAGER, wanted), (NNCF, NNCF_LEAST)):
        yield faster(f"{name}: int8, x {peer}", held, peer, INT8, least)
    if made.key == "timesformer":
        yield faster(f"{name}: bf16, x {EAGER}", held, EAGER, BF16, 4)


def faster(name: str, held: dict[str, Times], peer: str, ours: str, least: float) -> Target:
    """Return the target of a peer's time / ours; not measured where one of them is not there."""
    if peer not in held or ours not in held:
        return Target(name=name, value=math.nan, wanted=least, sense="least")
    found = ratio(held[peer].wall_ms, held[ours].wall_ms)
    return target_of(name, found, wanted=least, sense="least")


def test_a_target_without_its_peer_is_not_measured() -> None:
    times = Times(wall_ms=np.full(8, 2.0), cpu_ms=np.full(8, 2.0))
    held = {INT8: times, EAGER: times}
    there, gone = (faster("a", held, peer, INT8, 0.9) for peer in (EAGER, NNCF))
    assert (there.verdict, there.met) == ("met", True)
    assert (gone.verdict, gone.met) == ("not measured", False)
    assert "not measured" in gone.line()
    assert json.loads(json.dumps(gone.as_dict(), allow_nan=False))["value"] is None


def test_an_interval_of_few_rounds_is_named_as_what_it_is() -> None:
    few, many = (ratio(np.array([2.0, 3, 4] * n), np.ones(3 * n)) for n in (1, 2))
    assert (few.low, few.high, few.kind) == (2, 4, "least to most")
    assert many.kind == "95 %"
    verdicts = [target_of("a", r, wanted=1, sense="least").verdict for r in (few, many)]
    assert verdicts == ["met, few rounds", "met"]


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_batches_of_clips(
    benchmark: BenchmarkFixture,
    made_of: Callable[[str], Made],
    full: bool,
    batch: int,
    precision: str,
) -> None:
    """OpenVINO's back end runs clip by clip, since a processor gains nothing; ONNX Runtime can."""
    benchmark.group = f"STAE in ONNX Runtime {precision}, time for the whole batch"
    made = made_of("stae" if full else "stae_twin")
    options = Options(precision=precision)  # type: ignore[arg-type]
    file = made.bundle.file(made.bundle.manifest.artefacts[precision])
    backend = OnnxRuntimeBackend(file, made.bundle.manifest, options)
    clips = np.ascontiguousarray(np.tile(made.clips()[:1], (batch, 1, 1, 1, 1)))
    benchmark.extra_info["device"] = backend.device
    answer = benchmark.pedantic(backend.infer, args=(clips,), rounds=5, warmup_rounds=1)
    alone = backend.infer(clips[:1])
    backend.close()
    want = np.repeat(alone["score"], batch, axis=0)
    np.testing.assert_allclose(answer["score"], want, rtol=1e-4)
