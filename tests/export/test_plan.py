"""Choosing back end and precision: the most faithful that is allowed and fast enough."""

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from helpers import artefact, assert_one_line, clip_spec, manifest

import vad_export.plan as plan_module
import vad_export.verified as verified_module
from vad_export.commands.plan import lines_of
from vad_export.plan import measure, plan, with_plan
from vad_export.plan_choice import (
    MARGIN,
    Candidate,
    Fidelity,
    Measured,
    Plan,
    Target,
    by_faithfulness,
    choose,
    gate_of,
    target_of,
)
from vad_export.timing import Times
from vad_export.verified import decision_settings
from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Options
from vad_runtime.backends.registry import runs_on_gpu
from vad_runtime.bundle import Bundle, rewrite_manifest, write_bundle
from vad_runtime.contracts import (
    BackendError,
    BundleError,
    ConfigError,
    FeatureSpec,
    InputError,
    Manifest,
    Precision,
    ScoreSpec,
    Scoring,
)
from vad_runtime.cuda.driver import Gpu
from vad_runtime.machine import cpu_name

AT_25_FPS = Target(ms=40.0, origin="hop 1 at 25 frames a second", fps=25.0, stride=1)


def times(median_ms: float, *, p95_ms: float | None = None) -> Times:
    """Return 100 rounds; the slowest ten of them take `p95_ms`."""
    wall = np.full(100, median_ms)
    wall[90:] = p95_ms or median_ms
    return Times(wall_ms=wall, cpu_ms=2 * wall)


def candidate(name: str, ms: float, *, p95_ms: float | None = None, **changes: Any) -> Candidate:
    backend, precision = name.split()
    plain: dict[str, Any] = {
        "backend": backend,
        "precision": precision,
        "times": times(ms, p95_ms=p95_ms),
        "gate": "passed",
    }
    return Candidate(**(plain | changes))


def measured(*candidates: Candidate) -> Measured:
    return Measured(candidates=candidates, cpu="a chip", threads=2, inputs="drawn")


def chosen(*candidates: Candidate, target: Target = AT_25_FPS, **options: Any) -> str | None:
    """Return the name of what is chosen."""
    found = choose(measured(*candidates), target, **options).chosen
    return None if found is None else found.name


def refusals(*candidates: Candidate, **options: Any) -> dict[str, str]:
    found = choose(measured(*candidates), AT_25_FPS, **options)
    return {j.candidate.name: j.refusal for j in found.judged}


# -- the choice --------------------------------------------------------------------------------


def test_the_most_faithful_that_meets_the_target_is_chosen_even_if_int8_is_faster() -> None:
    both = (candidate("openvino bf16", 33), candidate("openvino int8", 20))
    assert chosen(candidate("openvino fp32", 39), *both) == "openvino fp32"
    assert chosen(candidate("openvino fp32", 60), *both) == "openvino bf16"
    slow = (candidate("openvino fp32", 60), candidate("openvino bf16", 45))
    assert chosen(*slow, candidate("openvino int8", 20)) == "openvino int8"


def test_the_order_of_faithfulness_is_fp32_bf16_fp16_mixed_int8() -> None:
    names = ["int8", "fp16", "mixed", "fp32", "bf16"]
    found = by_faithfulness([candidate(f"openvino {name}", 9) for name in names])
    assert [c.precision for c in found] == ["fp32", "bf16", "fp16", "mixed", "int8"]


def test_of_two_back_ends_with_the_same_precision_the_faster_is_chosen() -> None:
    both = (candidate("onnxruntime fp32", 39), candidate("openvino fp32", 30))
    assert chosen(*both) == "openvino fp32"


def test_the_target_is_met_by_the_95th_percentile_and_not_by_the_median() -> None:
    jumpy = candidate("openvino fp32", 20, p95_ms=41)
    assert chosen(jumpy, candidate("openvino bf16", 30)) == "openvino bf16"
    exact = candidate("openvino fp32", 20, p95_ms=40)
    assert chosen(exact, candidate("openvino bf16", 30)) == "openvino fp32"


def test_the_line_says_what_was_chosen_and_why() -> None:
    found = choose(
        measured(candidate("openvino fp32", 60), candidate("openvino bf16", 33)), AT_25_FPS
    )
    assert found.line == (
        "openvino bf16 is the most faithful that is allowed and keeps 95 % of 100 clips within "
        "40.0 ms (hop 1 at 25 frames a second): p95 33.0 ms"
    )


# -- what the gate has measured ----------------------------------------------------------------


def gated(name: str, spearman: float, error: float, on: str = "a", ms: float = 20) -> Candidate:
    figures = Fidelity(spearman=spearman, mean_error=error, measured_on=on)
    return candidate(name, ms, fidelity=figures)


def order(*candidates: Candidate) -> list[str]:
    return [c.name for c in by_faithfulness(candidates)]


def test_figures_of_the_gate_decide_where_both_have_them() -> None:
    int8, mixed = gated("a int8", 0.999, 0.001), gated("a mixed", 0.993, 0.008)
    assert order(mixed, int8) == ["a int8", "a mixed"]
    # The same rank correlation: the mean error decides.
    assert order(gated("a mixed", 0.999, 0.004), int8) == ["a int8", "a mixed"]
    # Differences of less than the third decimal are none.
    assert order(gated("a mixed", 0.9988, 0.0014), int8) == ["a mixed", "a int8"]


def test_figures_from_other_clips_are_not_compared() -> None:
    int8, mixed = gated("a int8", 0.999, 0.001, on="b"), gated("a mixed", 0.993, 0.008, on="a")
    assert order(int8, mixed) == ["a mixed", "a int8"]


def test_without_a_figure_a_candidate_keeps_its_place() -> None:
    bf16, fp16, int8 = (
        gated("a bf16", 0.991, 0.01),
        candidate("a fp16", 20),
        gated("a int8", 0.999, 0.001),
    )
    assert order(int8, fp16, bf16) == ["a int8", "a fp16", "a bf16"]


def test_fp32_comes_first_whatever_the_figures_say() -> None:
    assert order(gated("a bf16", 1.0, 0.0), gated("a fp32", 0.998, 0.002))[0] == "a fp32"


# -- what may not be chosen --------------------------------------------------------------------


def test_int8_without_verification_is_never_chosen_and_the_line_says_how_to_verify() -> None:
    slow = (candidate("openvino fp32", 60), candidate("openvino bf16", 45))
    int8 = candidate("openvino int8", 20, gate="not verified")
    found = choose(measured(*slow, int8), AT_25_FPS, bundle="site.vad")
    assert found.chosen is None
    assert found.judged[-1].refusal == "not verified"
    assert "openvino int8 (20.0 ms), which is not verified yet" in found.line
    assert "vad-export verify site.vad --clips DIR" in found.line


def test_any_precision_takes_what_is_not_verified_and_says_so_but_not_what_failed() -> None:
    slow = candidate("openvino fp32", 60)
    int8 = candidate("openvino int8", 20, gate="not verified")
    found = choose(measured(slow, int8), AT_25_FPS, any_precision=True)
    assert found.chosen is int8
    assert "not verified" in found.line
    failed = candidate("openvino int8", 20, gate="failed")
    assert chosen(slow, failed, any_precision=True) is None


def test_what_the_gate_failed_is_never_chosen_not_even_fp32() -> None:
    names = ("fp32", "bf16", "fp16", "mixed", "int8")
    failed = [candidate(f"openvino {name}", 9 - i, gate="failed") for i, name in enumerate(names)]
    assert set(refusals(*failed).values()) == {"failed vad-export verify"}
    found = choose(measured(*failed), AT_25_FPS)
    assert found.chosen is None
    assert_one_line(Exception(found.line), "nothing that was timed is allowed")
    assert "vad-export verify" not in found.line  # it would fail again


def test_int8_that_is_not_faster_than_bf16_is_refused() -> None:
    fp32, bf16 = candidate("openvino fp32", 60), candidate("openvino bf16", 30, p95_ms=50)
    limit = 30 * (1 - MARGIN)
    for precision in ("int8", "mixed"):
        slower = candidate(f"openvino {precision}", limit + 0.01)
        assert refusals(fp32, bf16, slower)[slower.name] == "not 5 % faster than bf16"
        assert chosen(fp32, bf16, slower) is None
        faster = candidate(f"openvino {precision}", limit)
        assert chosen(fp32, bf16, faster) == faster.name


@pytest.mark.parametrize("gate", ["failed", "not verified"])
def test_int8_is_not_measured_against_a_bf16_that_is_itself_refused(gate: Any) -> None:
    fp32, bf16 = candidate("openvino fp32", 60), candidate("openvino bf16", 30, gate=gate)
    int8 = candidate("openvino int8", 35)
    assert refusals(fp32, bf16, int8)["openvino int8"] == ""
    assert chosen(fp32, bf16, int8) == "openvino int8"
    slow = candidate("openvino int8", 59)
    assert refusals(fp32, bf16, slow)["openvino int8"] == "not 5 % faster than fp32"
    # --any-precision allows what was not looked at, and that bf16 can then be had.
    found = refusals(fp32, bf16, int8, any_precision=True)["openvino int8"]
    assert found == ("" if gate == "failed" else "not 5 % faster than bf16")


def test_int8_is_compared_with_fp32_of_the_same_back_end_where_there_is_no_bf16() -> None:
    openvino = (candidate("openvino fp32", 90), candidate("openvino bf16", 45))
    fp32, int8 = candidate("onnxruntime fp32", 38, p95_ms=80), candidate("onnxruntime int8", 39)
    assert refusals(*openvino, fp32, int8)["onnxruntime int8"] == "not 5 % faster than fp32"
    quick = candidate("onnxruntime int8", 30)
    assert chosen(*openvino, fp32, quick) == "onnxruntime int8"


def test_verifying_an_int8_that_is_no_faster_is_not_suggested() -> None:
    fp32 = candidate("openvino fp32", 39, p95_ms=50)
    int8 = candidate("openvino int8", 39, gate="not verified")
    assert "vad-export verify" not in choose(measured(fp32, int8), AT_25_FPS).line


# -- nothing meets the target ------------------------------------------------------------------


def test_the_line_names_the_fastest_and_the_hop_that_would_do() -> None:
    target = Target(ms=40.0, origin="hop 2 at 50 frames a second", fps=50.0, stride=2)
    slow = (candidate("openvino fp32", 90), candidate("openvino bf16", 70, p95_ms=81))
    found = choose(measured(*slow), target, bundle="site.vad")
    assert found.chosen is None
    # 81 ms are 4.05 frames; a hop is a multiple of the stride.
    assert_one_line(
        Exception(found.line),
        "nothing that is allowed meets 40.0 ms a clip (hop 2 at 50 frames a second)",
        "the fastest, openvino bf16, takes 81.0 ms (p95, inference alone)",
        "vad-run watch --hop 6, which leaves 120.0 ms",
        "vad-export quantise site.vad --precision int8",
        "a smaller model or input",
    )


@pytest.mark.parametrize(
    ("ms", "stride", "hop"),
    [(40.0, 1, 1), (40.1, 1, 2), (80.0, 2, 2), (81.0, 2, 4), (0.1, 4, 4), (120.0, 1, 3)],
)
def test_the_hop_is_the_smallest_that_leaves_the_time(ms: float, stride: int, hop: int) -> None:
    assert Target(ms=1, origin="", fps=25.0, stride=stride).hop_for(ms, 25.0) == hop
    assert 1000 * hop / 25 >= ms


@pytest.mark.parametrize("fps", [15.0, 25.0, 29.97, 30.0])
def test_the_time_that_a_hop_leaves_asks_for_that_hop_and_no_larger_one(fps: float) -> None:
    target = Target(ms=1, origin="", fps=fps, stride=1)
    hops = list(range(1, 200))
    assert [target.hop_for(1000 * hop / fps, fps) for hop in hops] == hops


def test_without_a_frame_rate_no_hop_is_named() -> None:
    target = Target(ms=10.0, origin="asked for", fps=None, stride=1)
    assert "hop" not in choose(measured(candidate("openvino fp32", 60)), target).line


def test_another_hop_is_named_only_where_the_target_comes_from_one_and_only_a_larger_one() -> None:
    about = manifest(clip=clip_spec(hop=2, fps=50.0))

    def line(ms: float, target_ms: float | None = None) -> str:
        slow = measured(candidate("openvino fp32", ms))
        return choose(slow, target_of(about, target_ms)).line

    assert "vad-run watch --hop 3, which leaves 60.0 ms" in line(55)
    assert "--hop" not in line(55, 40.0)  # the hop leaves 40 ms, but that is not why
    assert "--hop" not in line(55, 10.0)
    assert "--hop" not in line(40 + 1e-11)


# -- the target --------------------------------------------------------------------------------


def test_the_target_is_the_time_from_clip_to_clip_unless_another_is_given() -> None:
    about = manifest(clip=clip_spec(hop=8, fps=25.0))
    assert target_of(about).ms == 320.0
    assert target_of(about).origin == "hop 8 at 25 frames a second"
    assert target_of(about, 50.0) == Target(ms=50.0, origin="asked for", fps=None, stride=1)


def test_without_a_frame_rate_and_without_a_target_there_is_a_one_line_error() -> None:
    with pytest.raises(ConfigError) as error:
        target_of(manifest())
    assert_one_line(error.value, "motion", "clip.fps", "--target-ms")
    with pytest.raises(ConfigError) as error:
        target_of(features_manifest())
    assert_one_line(error.value, "features of whole videos", "--target-ms")


@pytest.mark.parametrize("ms", [0.0, -1.0, math.nan, math.inf])
def test_a_target_that_is_no_positive_finite_number_is_refused(ms: float) -> None:
    with pytest.raises(ConfigError) as error:
        target_of(manifest(clip=clip_spec(fps=25.0)), ms)
    assert_one_line(error.value, "--target-ms", f"{ms:g}")


# -- what the manifest says of the gate --------------------------------------------------------


def with_parity(parity: dict[str, Any] | None, **artefacts: str) -> Manifest:
    """Return a manifest with these artefacts: precision = sha256."""
    held = {
        p: artefact(file=f"{p}.onnx", precision=p, sha256=sha)
        for p, sha in ({"fp32": "f"} | artefacts).items()
    }
    return msgspec.structs.replace(manifest(artefacts=held), parity=parity)


def verified_entry(sha256: str, *, passed: bool = True, scoring: Scoring | None = None) -> Any:
    """Return what the gate writes for a graph, at these settings or a manifest's default."""
    return {
        "passed": passed,
        "spearman": 0.998,
        "mean_of_spread": 0.004,
        "artefact_sha256": sha256,
        "reference": "torch",
        "clips_key": "abc",
        "scoring": decision_settings(scoring or manifest().scoring),
    }


def test_bf16_needs_no_more_than_the_check_of_the_export() -> None:
    assert gate_of(with_parity(None), "openvino", "bf16") == ("not verified", None)
    assert gate_of(with_parity({"bf16_allowed": True}), "openvino", "bf16") == ("passed", None)
    assert gate_of(with_parity(None), "openvino", "fp32") == ("passed", None)


def test_what_the_gate_found_counts_before_the_check_of_the_export() -> None:
    verified = {"openvino bf16": verified_entry("f", passed=False)}
    about = with_parity({"bf16_allowed": True, "verified": verified})
    assert gate_of(about, "openvino", "bf16")[0] == "failed"


def test_the_gate_is_of_one_back_end_and_one_file() -> None:
    found = verified_entry("i")
    about = with_parity({"verified": {"openvino int8": found}}, int8="i")
    figures = Fidelity(spearman=0.998, mean_error=0.004, measured_on="torch, abc")
    assert gate_of(about, "openvino", "int8") == ("passed", figures)
    assert gate_of(about, "onnxruntime", "int8") == ("not verified", None)
    # Quantised anew since.
    newer = with_parity({"verified": {"openvino int8": found}}, int8="j")
    assert gate_of(newer, "openvino", "int8") == ("not verified", None)


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 0.6},
        {"threshold": None},
        {"smoothing": "median"},
        {"window": 4},
        {"offset": 0.1},
        {"scale": 2.0},
        {"release": 0.8},
        {"min_duration_s": 1.0},
    ],
)
def test_a_pass_counts_only_at_the_settings_that_it_was_found_at(changes: dict[str, Any]) -> None:
    scoring = Scoring(threshold=0.5, smoothing="mean", window=3)
    entry = verified_entry("i", scoring=scoring)
    about = with_parity({"verified": {"openvino int8": entry}}, int8="i")
    same = msgspec.structs.replace(scoring, method="in other words")
    assert gate_of(msgspec.structs.replace(about, scoring=same), "openvino", "int8")[0] == "passed"
    other = msgspec.structs.replace(about, scoring=msgspec.structs.replace(scoring, **changes))
    assert gate_of(other, "openvino", "int8") == ("not verified", None)


@pytest.mark.parametrize("key", ["scoring", "artefact_sha256"])
def test_an_entry_that_does_not_say_what_it_was_found_with_is_none(key: str) -> None:
    entry = verified_entry("i")
    del entry[key]
    about = with_parity({"verified": {"openvino int8": entry}}, int8="i")
    assert gate_of(about, "openvino", "int8") == ("not verified", None)


@pytest.mark.parametrize(
    "entry",
    [None, "passed", {}, *({"passed": p} for p in ("yes", 1, None))],
)
def test_an_entry_that_does_not_say_passed_is_none(entry: object) -> None:
    if isinstance(entry, dict):
        entry = verified_entry("i") | {"passed": None} | entry
    about = with_parity({"verified": {"openvino int8": entry}}, int8="i")
    assert gate_of(about, "openvino", "int8") == ("not verified", None)


def test_figures_that_are_no_numbers_are_none() -> None:
    found = verified_entry("i") | {"spearman": None}
    about = with_parity({"verified": {"openvino int8": found}}, int8="i")
    assert gate_of(about, "openvino", "int8") == ("passed", None)


# -- measuring ---------------------------------------------------------------------------------


def features_manifest(**changes: Any) -> Manifest:
    spec = FeatureSpec(segments=4, size=16, normalise=True)
    score = ScoreSpec(per="segment", form="probability", count=4)
    return msgspec.structs.replace(manifest(), features=spec, score=score, **changes)


def quantised_bundle(path: Path, graph: Path, **changes: Any) -> Bundle:
    """Write a bundle whose int8 artefact is, in truth, the fp32 graph."""
    about = manifest(
        clip=clip_spec(fps=25.0, hop=4),
        artefacts={
            "fp32": artefact(),
            "int8": artefact(file="model.int8.onnx", precision="int8", made_from="fp32"),
        },
    )
    about = msgspec.structs.replace(about, **changes)
    return write_bundle(path, about, {"fp32": graph, "int8": graph})


@pytest.fixture
def quantised(tmp_path: Path, tiny_graph: Path) -> Bundle:
    return quantised_bundle(tmp_path / "tiny.vad", tiny_graph)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_every_precision_that_a_back_end_can_run_is_timed(quantised: Bundle, backend: str) -> None:
    clips = np.zeros((2, 8, 32, 32, 1), np.uint8)
    found = measure(quantised, clips, "zeros", backends=[backend], threads=1, rounds=5)
    ran = {c.name: c for c in found.candidates}
    assert {f"{backend} fp32", f"{backend} int8"} <= set(ran)
    assert set(ran) | set(found.not_run) == {f"{backend} {p}" for p in ("fp32", "bf16", "int8")}
    assert found.threads == 1
    for one in ran.values():
        assert one.times.rounds == 5
        assert one.times.median_ms > 0
        assert one.device.startswith(backend)
    assert ran[f"{backend} int8"].gate == "not verified"


def test_a_back_end_that_cannot_run_a_precision_is_listed_with_its_reason(
    quantised: Bundle,
) -> None:
    clips = np.zeros((1, 8, 32, 32, 1), np.uint8)
    found = measure(quantised, clips, "zeros", backends=["onnxruntime"], rounds=5)
    assert "no bf16 arithmetic" in found.not_run["onnxruntime bf16"]


def test_a_precision_that_fails_on_one_clip_is_not_timed(
    quantised: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Overflows:
        device = "a device"

        def __init__(self, precision: str) -> None:
            self._precision = precision

        def infer(self, clips: np.ndarray[Any, Any]) -> dict[str, Any]:
            if self._precision == "int8" and clips[1:].size:
                raise BackendError("the graph gave a score that is not finite.")
            return {}

        def close(self) -> None:
            closed.append(self._precision)

    class Opened:
        def __init__(self, options: Options) -> None:
            self.backend = Overflows(options.precision)

    closed: list[str] = []
    monkeypatch.setattr(plan_module, "open_backend", lambda b, name, options: Opened(options))
    clips = np.zeros((2, 8, 32, 32, 1), np.uint8)
    found = measure(quantised, clips, "zeros", backends=["openvino"], rounds=5)
    assert [c.precision for c in found.candidates] == ["fp32", "bf16"]
    assert found.not_run == {"openvino int8": "the graph gave a score that is not finite."}
    assert sorted(closed) == ["bf16", "fp32", "int8"]


def test_where_nothing_runs_the_reasons_are_said_once(
    quantised: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise BackendError("openvino is not installed. Install it.")

    monkeypatch.setattr(plan_module, "open_backend", missing)
    with pytest.raises(BackendError) as error:
        plan(quantised, 10.0)
    assert_one_line(error.value, "nothing can run tiny.vad here: openvino is not installed")
    assert str(error.value).count("installed") == 1


def test_an_unknown_back_end_is_refused(quantised: Bundle) -> None:
    with pytest.raises(BackendError) as error:
        plan(quantised, 10.0, backends=["tensorflow"])
    assert_one_line(error.value, "tensorflow", "openvino")


def test_real_clips_and_noise_are_both_taken(
    quantised: Bundle, tiny_video: Path, tmp_path: Path
) -> None:
    engines = {"backends": ["onnxruntime"], "threads": 1, "rounds": 5}
    assert plan(quantised, 1e4, clips=tiny_video, **engines).measured.inputs == (  # type: ignore[arg-type]
        "4 clips of tiny.mp4"
    )
    assert "seeded noise" in plan(quantised, 1e4, **engines).measured.inputs  # type: ignore[arg-type]
    # What calibrate and verify take: a list, too.
    listed = tmp_path / "clips.txt"
    listed.write_text(f"# a day\n{tiny_video}\n")
    assert plan(quantised, 1e4, clips=listed, **engines).measured.inputs == (  # type: ignore[arg-type]
        "4 clips of clips.txt"
    )
    with pytest.raises(InputError) as error:
        plan(quantised, 1e4, clips=Path("nowhere"))
    assert_one_line(error.value, "nowhere")


def test_a_bundle_of_features_is_timed_on_features(tmp_path: Path, tiny_graph: Path) -> None:
    head = write_bundle(tmp_path / "head.vad", features_manifest(), {"fp32": tiny_graph})
    # `fake` reads no artefact, so the graph does not matter here.
    found = plan(head, 1e4, backends=["fake"], rounds=5)
    assert found.chosen is not None
    folder = tmp_path / "features"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        np.save(folder / f"{name}.npy", rng.random((6, 16), np.float32))
    found = plan(head, 1e4, clips=folder, backends=["fake"], rounds=5)
    assert found.measured.inputs == "features of 2 videos of features"
    listed = tmp_path / "list.txt"
    listed.write_text("features/b.npy\n")
    found = plan(head, 1e4, clips=listed, backends=["fake"], rounds=5)
    assert found.measured.inputs == "features of 1 videos of list.txt"
    np.save(folder / "a.npy", rng.random((6, 15), np.float32))
    with pytest.raises(InputError) as error:
        plan(head, 1e4, clips=folder, backends=["fake"], rounds=5)
    assert_one_line(error.value, "15", "16")


# -- on a GPU ----------------------------------------------------------------------------------


class OnGpu:
    """A back end that answers at once and says where it ran."""

    def __init__(self, name: str) -> None:
        self.device = f"{name} on cuda:0"

    def infer(self, clips: np.ndarray[Any, Any]) -> dict[str, Any]:
        return {"score": np.zeros((len(clips), 8), np.float32)}

    def close(self) -> None:
        """Nothing to free."""


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """A driver and a GPU, on which every back end for one opens."""
    gpu = Gpu(index=0, name="Test GPU", sm=87, memory_bytes=1, integrated=True, uuid="GPU-1")
    really = open_backend

    def opened(bundle: Bundle, name: str, options: Options) -> Any:
        if runs_on_gpu(name):
            return SimpleNamespace(backend=OnGpu(name))
        return really(bundle, name, options)

    monkeypatch.setattr(plan_module, "open_backend", opened)
    monkeypatch.setattr(plan_module, "gpu_of", lambda _device: gpu)
    monkeypatch.setattr(verified_module, "driver_installed", lambda: True)
    return gpu


def test_without_a_driver_only_back_ends_for_the_processor_are_timed_unless_named(
    quantised: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified_module, "driver_installed", lambda: False)
    clips = np.zeros((1, 8, 32, 32, 1), np.uint8)
    found = measure(quantised, clips, "zeros", rounds=5, threads=1)
    tried = {name.split()[0] for name in (*found.not_run, *(c.name for c in found.candidates))}
    assert tried == {"openvino", "onnxruntime"}
    assert found.gpu is None
    named = ["onnxruntime", "onnxruntime-cuda"]
    monkeypatch.setattr(plan_module, "open_backend", refused_on_gpu(open_backend))
    found = measure(quantised, clips, "zeros", backends=named, rounds=5, threads=1)
    assert found.not_run["onnxruntime-cuda fp32"] == "No NVIDIA driver here."


def refused_on_gpu(really: Any) -> Any:
    def opened(bundle: Bundle, name: str, options: Options) -> Any:
        if runs_on_gpu(name):
            raise BackendError("No NVIDIA driver here.")
        return really(bundle, name, options)

    return opened


@pytest.mark.usefixtures("with_gpu")
def test_with_a_driver_back_ends_for_a_gpu_are_timed_too(quantised: Bundle) -> None:
    clips = np.zeros((1, 8, 32, 32, 1), np.uint8)
    found = measure(quantised, clips, "zeros", rounds=5, threads=1)
    ran = {c.name: c.device for c in found.candidates}
    assert ran["tensorrt int8"] == "tensorrt on cuda:0"
    assert {"onnxruntime-cuda fp32", "onnxruntime-tensorrt fp32", "openvino fp32"} <= set(ran)
    assert found.gpu == "Test GPU"


@pytest.mark.parametrize(
    ("backend", "where"), [("onnxruntime-cuda", "Test GPU"), ("onnxruntime", cpu_name())]
)
def test_the_plan_names_what_it_was_measured_on(
    quantised: Bundle, with_gpu: Gpu, backend: str, where: str
) -> None:
    found = plan(quantised, 1e4, backends=[backend], threads=1, rounds=5)
    kept = with_plan(quantised, found).manifest.plan
    assert kept is not None
    assert (kept.backend, kept.cpu) == (backend, where)
    assert any(with_gpu.name in line for line in lines_of(found)) == (backend != "onnxruntime")


# -- what is kept ------------------------------------------------------------------------------


def planned(bundle: Bundle, precision: Precision = "int8") -> Plan:
    """Return a plan that chose this precision on openvino."""
    fp32, int8 = candidate("openvino fp32", 60), candidate("openvino int8", 20)
    target = Target(ms=30.0 if precision == "int8" else 90.0, origin="test", fps=None, stride=1)
    found = choose(measured(fp32, int8), target, bundle=bundle.name)
    assert found.chosen is not None
    assert found.chosen.precision == precision
    return found


@pytest.mark.parametrize(("precision", "short"), [("int8", "int8"), ("fp32", "fp32")])
def test_the_plan_is_in_the_manifest_and_auto_follows_it(
    quantised: Bundle, precision: Precision, short: str
) -> None:
    with_plan(quantised, planned(quantised, precision))
    kept = Bundle.open(quantised.path)
    choice = kept.manifest.plan
    assert choice is not None
    assert (choice.backend, choice.precision, choice.threads) == ("openvino", precision, 2)
    assert (choice.cpu, choice.median_ms) == ("a chip", 20.0 if precision == "int8" else 60.0)
    assert "most faithful" in choice.why
    opened = open_backend(kept)
    opened.backend.close()
    assert (opened.name, opened.artefact) == ("openvino", short)
    assert "planned" in opened.reason


def test_all_measurements_are_in_the_manifest(quantised: Bundle) -> None:
    with_plan(quantised, planned(quantised))
    found = Bundle.open(quantised.path).manifest.latency
    assert found is not None
    assert set(found["candidates"]) == {"openvino fp32", "openvino int8"}
    assert found["candidates"]["openvino fp32"]["median_ms"] == 60.0
    assert found["candidates"]["openvino fp32"]["cpu_median_ms"] == 120.0
    assert found["candidates"]["openvino fp32"]["meets"] is False
    assert (found["target_ms"], found["threads"]) == (30.0, 2)
    assert {"cpu", "cores"} <= set(found["machine"])
    assert "openvino" in found["versions"]
    assert re.search("inference alone.*decoding", found["what"])


def test_settings_that_were_changed_while_it_was_timed_are_kept(quantised: Bundle) -> None:
    about = quantised.manifest
    scoring = msgspec.structs.replace(about.scoring, threshold=0.75)
    rewrite_manifest(quantised, msgspec.structs.replace(about, scoring=scoring))
    with_plan(quantised, planned(quantised))
    kept = Bundle.open(quantised.path).manifest
    assert kept.scoring.threshold == 0.75
    assert kept.plan is not None


def test_a_bundle_whose_artefacts_changed_while_it_was_timed_is_not_planned(
    quantised: Bundle,
) -> None:
    about = quantised.manifest
    fp32 = {"fp32": about.artefacts["fp32"]}
    rewrite_manifest(quantised, msgspec.structs.replace(about, artefacts=fp32))
    with pytest.raises(BundleError) as error:
        with_plan(quantised, planned(quantised))
    assert_one_line(error.value, "tiny.vad", "has changed while it was timed")
    assert Bundle.open(quantised.path).manifest.plan is None
