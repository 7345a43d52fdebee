"""What `vad-run bench` concludes from its figures, on figures that the test has made."""

from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from vad_runtime.bench.answers import Answers
from vad_runtime.bench.energy import Found, Meter
from vad_runtime.bench.html import page
from vad_runtime.bench.inputs import Film
from vad_runtime.bench.lines import lines_of, path_lines, stage_cells, streams_line, verdicts
from vad_runtime.bench.measure import Cold, Measured, Plan, clips_done
from vad_runtime.bench.paths import DECODE, INFERENCE, RESIZED, SCORING, WHOLE, WINDOW, Took, stages
from vad_runtime.bench.report import report_of
from vad_runtime.bundle import Bundle, rewrite_manifest


def measured(service_s: list[float], cpu_s: list[float], every_s: float = 1.0) -> Measured:
    """Return clips of one stream."""
    return Measured(
        cold=Cold(bundle_s=0.1, engine_s=0.2),
        start_s=array("d", [i * every_s for i in range(len(service_s))]),
        latency_s=array("d", service_s),
        service_s=array("d", service_s),
        cpu_s=array("d", cpu_s),
        answers=Answers(1e-4, "fake"),
        inputs=4,
    )


def reported(bundle: Bundle, found: Measured, **plan: Any) -> dict[str, Any]:
    """Return the report on a machine that tells nothing of itself."""
    (artefact,) = bundle.manifest.artefacts
    backend = SimpleNamespace(device="cpu")
    choice: Any = SimpleNamespace(line="fake on cpu", name="fake", artefact=artefact)
    choice.backend = backend
    conditions = dict.fromkeys(
        ("current_mhz", "power_mode", "gpu", "hottest_c", "cgroup_cores", "other_cores_busy")
    )
    watch: Any = SimpleNamespace(report=lambda: conditions | {"governors": [], "warnings": []})
    return report_of(bundle, choice, Plan(**plan), found, watch, Meter(Found()))


# -- streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("streams", "share", "words", "carries"),
    [
        (4, 0.69, "4 streams need 276 % of the engine: they do not keep up", 1),
        (4, 0.25, "4 streams need 100 % of the engine: they keep up", 4),
        (1, 0.05, "one stream needs 5.0 % of the engine: it keeps up", 20),
        (1, 1.5, "one stream needs 150 % of the engine: it does not keep up", 0),
    ],
)
def test_whether_the_streams_keep_up_is_told_in_text_and_on_top_of_the_page(
    bundle_copy: Path, streams: int, share: float, words: str, carries: int
) -> None:
    opened = Bundle.open(bundle_copy)
    clip = msgspec.structs.replace(opened.manifest.clip, fps=24.0)
    rewrite_manifest(opened, msgspec.structs.replace(opened.manifest, clip=clip))
    found = measured([share * 0.5 * 0.9999] * 9, [0.01] * 9)
    report = reported(Bundle.open(bundle_copy), found, streams=streams, hop=12)
    words += f"; this machine carries {carries or 'none'}"
    assert report["period_ms"] == 500
    assert report["streams_by_mean"] == carries
    assert streams_line(report).startswith(f"{words} (of this hop and rate: a clip every 500 ms")
    assert [line for line in lines_of(report) if line.startswith(f"* {words}")]
    kind = "verdict" if carries >= streams else "verdict bad"
    assert f'<p class="{kind}">{words}' in page(report)


def test_streams_of_an_unknown_rate_are_told_to_be_so(tiny_bundle: Bundle) -> None:
    found = measured([0.01] * 9, [0.01] * 9)
    report = reported(tiny_bundle, found, streams=3)
    words = "whether 3 streams keep up is not known: there is no frame rate"
    assert list(verdicts(report)) == [(True, f"{words}. Name a video with --source")]
    features = report | {"input_shape": [1, 4, 16]}
    assert list(verdicts(features)) == [(True, words)]
    assert list(verdicts(report | {"streams": 1})) == []


# -- the target ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clips", "interrupted", "verdict"),
    [
        (8, False, "met so far (8 clips); 0 of 8 clips over it (0.00%), max"),
        (150, True, "met so far (150 clips); 0 of 150 clips over it (0.00%), p99"),
        (150, False, "met; 0 of 150 clips over it (0.00%), p99"),
    ],
)
def test_a_verdict_on_few_clips_or_on_a_part_of_them_is_one_so_far(
    tiny_bundle: Bundle, clips: int, interrupted: bool, verdict: str
) -> None:
    found = measured([0.01] * clips, [0.01] * clips)
    found.interrupted = interrupted
    report = reported(tiny_bundle, found, target_ms=40.0)
    words = f"target 40 ms, one clip's inference: {verdict}"
    assert next(line for _, line in verdicts(report)).startswith(words)
    assert report["target_whole_path"] is None


# -- drift ---------------------------------------------------------------------------------------


def test_the_processor_time_is_judged_apart_from_the_clips_times(tiny_bundle: Bundle) -> None:
    report = reported(tiny_bundle, measured([0.01] * 5 + [0.02] * 5 + [0.03] * 5, [0.01] * 15))
    assert report["drift"]["ratio"] == pytest.approx(3)
    assert report["cpu_drift"]["ratio"] == pytest.approx(1)
    assert any("had to wait for other processes" in line for line in lines_of(report))


# -- the whole path ------------------------------------------------------------------------------


def round_of(whole: float, inference: float, resized: float) -> dict[str, Took]:
    cpu = {DECODE: 0.1, RESIZED: resized, WINDOW: 0.0, SCORING: 0.0}
    cpu |= {INFERENCE: inference, WHOLE: whole}
    return {name: Took(2 * value, value) for name, value in cpu.items()}


def film() -> Film:
    stretch: Any = SimpleNamespace(clips=[None] * 2, frames=20)
    return stretch  # type: ignore[no-any-return]


def test_what_the_whole_path_takes_beyond_its_parts_is_compared_within_rounds() -> None:
    # In each round 0.2 s of two clips, though the medians are 5, 1 and 1 s.
    rounds = [round_of(2.2, 1.0, 1.0), round_of(9.2, 8.0, 1.0), round_of(5.2, 1.0, 4.0)]
    found = stages(rounds, film())
    assert found["own_cpu_ms_a_clip"]["p50"] == pytest.approx(100)
    assert next(path_lines(found)).endswith("; +100.00 ms a clip beyond that")


def test_one_round_has_no_percentiles() -> None:
    one, several = (stages([round_of(2.2, 1.0, 1.0)] * count, film()) for count in (1, 2))
    assert {spread for _, _, spread, _ in stage_cells(one)} == {""}
    assert "" not in {spread for _, _, spread, _ in stage_cells(several)}
    assert "10-90 %" not in next(path_lines(one))
    assert "10-90 %" in next(path_lines(several))


def test_a_whole_path_that_was_cut_short_has_no_energy_a_clip() -> None:
    found = measured([0.01] * 4, [0.01] * 4)
    found.frame_to_score_s = [0.02] * 3
    assert clips_done(found) == {INFERENCE: 4, WHOLE: 3}
    found.interrupted = True
    assert clips_done(found) == {INFERENCE: 4, WHOLE: 0}


def test_a_page_of_several_rounds_has_the_table_of_the_text_and_says_what_its_lines_mean(
    tiny_bundle: Bundle,
) -> None:
    report = reported(tiny_bundle, measured([0.01] * 4, [0.01] * 4))
    report["path"] = stages([round_of(2.2, 1.0, 1.0), round_of(2.4, 1.0, 1.0)], film())
    text = page(report)
    assert text.count('class="whisker"') == 6
    assert "from their 10th to their 90th percentile" in text
    for name, *cells in stage_cells(report["path"]):
        row = "".join(f"<td>{cell}</td>" for cell in cells)
        assert f'<th scope="row">{name}</th>{row}' in text
