"""`vad-export plan`: what a user types and reads."""

import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from helpers import artefact, clip_spec, manifest

import vad_export.plan as plan_module
from vad_export.cli import cli
from vad_export.commands.plan import command
from vad_export.plan_choice import Candidate, Measured
from vad_export.timing import Times
from vad_export.verified import decision_settings
from vad_runtime.bundle import MANIFEST, Bundle, rewrite_manifest, write_bundle
from vad_runtime.commands import run_command
from vad_runtime.contracts import PlanChoice

Result = tuple[int, str, str]
FAST = {"openvino fp32": 60.0, "openvino bf16": 33.0, "openvino int8": 20.0}


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Result]]:
    """Run the command in this process, with the exit codes and one-line errors of all commands."""
    before = signal.getsignal(signal.SIGTERM)

    def typed(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["plan", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            run_command(command)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    yield typed
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_graph: Path) -> Path:
    """A bundle at 25 frames a second; hop 1 leaves 40 ms. Do not change."""
    int8 = artefact(file="model.int8.onnx", precision="int8", made_from="fp32")
    about = msgspec.structs.replace(
        manifest(clip=clip_spec(fps=25.0), artefacts={"fp32": artefact(), "int8": int8}),
        parity={"bf16_allowed": True},
    )
    path = tmp_path_factory.mktemp("bundle") / "site.vad"
    return write_bundle(path, about, {"fp32": tiny_graph, "int8": tiny_graph}).path


@pytest.fixture
def site(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "site.vad"))


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, float]], None]:
    """Put given medians in the place of what this machine would measure."""

    def use(medians: dict[str, float]) -> None:
        def measure(bundle: Bundle, inputs: object, origin: str, **_: Any) -> Measured:
            candidates = []
            for name, median in medians.items():
                backend, precision = name.split()
                gate, figures = plan_module.gate_of(bundle.manifest, backend, precision)  # type: ignore[arg-type]
                wall = np.linspace(0.95 * median, 1.05 * median, 31)
                candidates.append(
                    Candidate(
                        backend=backend,
                        precision=precision,  # type: ignore[arg-type]
                        times=Times(wall_ms=wall, cpu_ms=1.9 * wall),
                        gate=gate,
                        fidelity=figures,
                        device=f"{name} on a chip",
                    )
                )
            reason = "onnxruntime is not installed. Install it with: pip install 'x'"
            return Measured(
                candidates=candidates,
                not_run={"onnxruntime fp32": reason, "onnxruntime int8": reason},
                cpu="a chip",
                threads=2,
                inputs=origin,
            )

        monkeypatch.setattr(plan_module, "measure", measure)

    return use


def test_the_table_can_be_read_and_the_last_line_says_what_was_chosen(
    run: Any, site: Path, measurements: Any
) -> None:
    measurements(FAST)
    code, out, err = run(site)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines[:-1])) <= 100
    assert lines[0] == "target 40.0 ms a clip (hop 1 at 25 frames a second)"
    assert "decoding and resizing come on top" in lines[1]
    assert "a chip, 2 threads; 4 inputs of seeded noise" in lines[2]
    rows = {line[4:17]: line for line in lines if line[4:].startswith("openvino")}
    assert list(rows) == ["openvino fp32", "openvino bf16", "openvino int8"]
    assert re.fullmatch(
        r"->  openvino bf16 +33\.00 +31\.68-34\.32 +34\.\d\d +62\.7 +1\.82  chosen",
        rows["openvino bf16"],
    )
    assert rows["openvino fp32"].endswith("1.00  yes, but too slow")
    assert rows["openvino int8"].endswith("3.00  not verified")
    # One under the other.
    assert len({line.index(".") for line in rows.values()}) == 1
    assert out.count("onnxruntime is not installed") == 1
    assert "not timed: onnxruntime fp32, onnxruntime int8: onnxruntime is not installed" in out
    place = next(i for i, line in enumerate(lines) if line.startswith("not timed: "))
    assert lines[place + 1].startswith("  ")  # a long reason goes on, indented
    assert "something else" not in out
    assert lines[-1].startswith("openvino bf16 is the most faithful that is allowed and keeps 95 %")
    assert lines[-1].endswith("stored in manifest.json: vad-run --backend auto now takes it")
    kept = Bundle.open(site).manifest
    assert kept.plan is not None
    assert (kept.plan.backend, kept.plan.precision) == ("openvino", "bf16")
    assert (kept.plan.target_ms, kept.plan.median_ms) == (40.0, 33.0)
    assert kept.latency is not None
    assert "onnxruntime int8" in kept.latency["not_run"]


def test_times_that_vary_much_are_pointed_out(
    run: Any, site: Path, measurements: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurements(FAST)
    fake = plan_module.measure

    def busy(*args: Any, **options: Any) -> Measured:
        found = fake(*args, **options)
        wall = np.linspace(20.0, 39.0, 31)
        shaky = replace(found.candidates[0], times=Times(wall_ms=wall, cpu_ms=wall))
        return replace(found, candidates=[shaky, *found.candidates[1:]])

    monkeypatch.setattr(plan_module, "measure", busy)
    out = run(site, "--dry-run")[1]
    assert "the times vary by half and more, as if something else ran here too" in out


def test_a_dry_run_only_prints(run: Any, site: Path, measurements: Any) -> None:
    measurements(FAST)
    before = (site / MANIFEST).read_bytes()
    code, out, err = run(site, "--dry-run")
    assert (code, err) == (0, "")
    assert out.endswith("site.vad is left as it was (--dry-run)\n")
    assert (site / MANIFEST).read_bytes() == before


def test_where_nothing_meets_the_target_the_exit_code_is_1_and_the_line_says_what_would(
    run: Any, site: Path, measurements: Any
) -> None:
    measurements(FAST)
    before = (site / MANIFEST).read_bytes()
    code, out, err = run(site, "--target-ms", "25")
    assert code == 1
    assert err.startswith("Error: nothing that is allowed meets 25.0 ms a clip (asked for)")
    assert err.count("\n") == 1
    for part in (
        "the fastest, openvino bf16, takes 34.5 ms",
        f"openvino int8 (20.9 ms), which is not verified yet: vad-export verify {site} --clips DIR",
    ):
        assert part in err
    assert "--hop" not in err  # the target was asked for
    assert "openvino int8" in out
    assert "->" not in out
    assert (site / MANIFEST).read_bytes() == before


def test_int8_is_chosen_once_the_gate_has_passed(run: Any, site: Path, measurements: Any) -> None:
    measurements(FAST)
    content = msgspec.json.decode((site / MANIFEST).read_bytes())
    about = Bundle.open(site).manifest
    content["parity"]["verified"] = {
        "openvino int8": {
            "passed": True,
            "artefact_sha256": about.artefacts["int8"].sha256,
            "scoring": decision_settings(about.scoring),
        }
    }
    (site / MANIFEST).write_bytes(msgspec.json.encode(content))
    code, out, _ = run(site, "--target-ms", "25")
    assert code == 0
    assert "->  openvino int8" in out
    kept = Bundle.open(site).manifest.plan
    assert kept is not None
    assert kept.precision == "int8"


def test_any_precision_says_that_it_is_not_verified(
    run: Any, site: Path, measurements: Any
) -> None:
    measurements(FAST)
    assert run(site, "--target-ms", "25", "--any-precision")[0] == 0
    kept = Bundle.open(site).manifest.plan
    assert kept is not None
    assert kept.precision == "int8"
    assert "not verified" in kept.why


def test_the_options_reach_the_measurement(
    run: Any, site: Path, measurements: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurements(FAST)
    fake, seen = plan_module.measure, {}

    def spy(bundle: Bundle, inputs: Any, origin: str, **options: Any) -> Measured:
        seen.update(options)
        return replace(fake(bundle, inputs, origin), inputs=origin)

    monkeypatch.setattr(plan_module, "measure", spy)
    words = ("--backend", "openvino", "--backend", "onnxruntime", "--threads", "1", "--rounds", "7")
    assert run(site, *words, "--dry-run")[0] == 0
    assert seen["backends"] == ("openvino", "onnxruntime")
    assert (seen["threads"], seen["rounds"]) == (1, 7)


@pytest.mark.parametrize("target", ["0", "-3", "nan", "inf", "soon"])
def test_a_target_that_is_no_positive_finite_number_is_refused(
    run: Any, site: Path, target: str
) -> None:
    code, out, err = run(site, "--target-ms", target)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "--target-ms" in err


def test_without_a_frame_rate_and_without_a_target_one_line_says_so(
    run: Any, bundle_copy: Path
) -> None:
    code, out, err = run(bundle_copy)
    assert (code, out) == (1, "")
    assert err == (
        "Error: motion does not say its frame rate (clip.fps), so there is no target. "
        "Give one: --target-ms MS\n"
    )


def test_a_real_bundle_is_measured_and_planned_on_this_machine(run: Any, site: Path) -> None:
    code, out, err = run(site, "--target-ms", "5000", "--rounds", "5", "--threads", "1")
    assert (code, err) == (0, "")
    assert re.search(r"->  (openvino|onnxruntime) fp32 ", out)
    kept = Bundle.open(site).manifest.plan
    assert kept is not None
    assert (kept.precision, kept.threads) == ("fp32", 1)


@pytest.mark.parametrize(("precision", "warns"), [("int8", True), ("bf16", False)])
def test_a_changed_threshold_says_that_a_verified_plan_must_be_made_again(
    site: Path, precision: str, warns: bool
) -> None:
    bundle = Bundle.open(site)
    plan = PlanChoice(
        backend="openvino",
        precision=precision,  # type: ignore[arg-type]
        target_ms=40.0,
        median_ms=20.0,
        p95_ms=22.0,
        cpu="a CPU",
        threads=1,
        why="by hand",
    )
    rewrite_manifest(bundle, msgspec.structs.replace(bundle.manifest, plan=plan))
    result = CliRunner().invoke(cli, ["set", str(site), "threshold=2"])
    assert result.exit_code == 0
    assert ("Run vad-export verify and plan again" in result.output) is warns
