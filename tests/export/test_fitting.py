"""The last step of a deployment: INT8 only where it is needed, and a plan that auto follows."""

from pathlib import Path

import msgspec
import pytest
from helpers import artefact, clip_spec, manifest, motion_model, moving_blob, write_video

from vad_export.fitting import fitted
from vad_runtime.backends import open_backend
from vad_runtime.bundle import Bundle, write_bundle
from vad_runtime.contracts import Scoring


@pytest.fixture
def site(tmp_path: Path) -> tuple[Bundle, list[Path]]:
    """Return a bundle without a plan, and normal footage of its site."""
    clip = clip_spec(frames=8, height=32, width=32, fps=15.0)
    file = motion_model(tmp_path / "model.onnx", clip)
    about = manifest(
        clip=clip, artefacts={"fp32": artefact()}, scoring=Scoring(threshold=0.9, scale=1.0)
    )
    footage = [
        write_video(tmp_path / f"{seed}.mp4", moving_blob(40, seed=seed)) for seed in range(2)
    ]
    return write_bundle(tmp_path / "site.vad", about, {"fp32": file}), footage


def test_a_target_that_fp32_meets_needs_no_int8(site: tuple[Bundle, list[Path]]) -> None:
    bundle, footage = site
    said: list[str] = []
    made, plan = fitted(
        bundle, footage, bundle.path.parent / "c", target_ms=10_000, say=said.append
    )
    assert list(made.manifest.artefacts) == ["fp32"]
    assert plan.chosen is not None
    assert made.manifest.plan is not None
    assert made.manifest.plan.precision == "fp32"
    assert not (bundle.path.parent / "c").exists()
    assert said == [plan.line]


def test_a_target_that_nothing_meets_brings_int8_and_the_line_says_what_would(
    site: tuple[Bundle, list[Path]],
) -> None:
    bundle, footage = site
    said: list[str] = []
    made, plan = fitted(bundle, footage, bundle.path.parent / "c", target_ms=1e-6, say=said.append)
    assert plan.chosen is None
    assert made.manifest.plan is None
    assert "int8" in made.manifest.artefacts
    assert "openvino int8" in (made.manifest.parity or {})["verified"]
    assert (bundle.path.parent / "c" / "sheet.png").is_file()
    assert said[-1].startswith("nothing that is allowed meets 0.00 ms a clip (asked for)")
    Bundle.open(bundle.path)


def test_asked_for_int8_stands_beside_a_plan_that_auto_follows(
    site: tuple[Bundle, list[Path]],
) -> None:
    bundle, footage = site
    made, plan = fitted(bundle, footage, bundle.path.parent / "c", target_ms=10_000, int8=True)
    assert set(made.manifest.artefacts) == {"fp32", "int8"}
    assert plan.chosen is not None
    choice = open_backend(Bundle.open(bundle.path))
    choice.backend.close()
    assert "planned" in choice.reason


def test_a_graph_that_cannot_be_quantised_keeps_its_wider_precisions(tmp_path: Path) -> None:
    clip = clip_spec(frames=8, height=32, width=32, fps=15.0)
    file = motion_model(tmp_path / "model.onnx", clip)
    about = manifest(clip=clip, artefacts={"fp32": artefact()})
    bundle = write_bundle(tmp_path / "site.vad", about, {"fp32": file})
    video = write_video(tmp_path / "a.mp4", moving_blob(40))
    said: list[str] = []
    from vad_export.precision_config import PrecisionConfig

    config = PrecisionConfig()
    strict = msgspec.structs.replace(
        config, layers=msgspec.structs.replace(config.layers, ops=("ConvTranspose",))
    )
    made, plan = fitted(
        bundle, [video], tmp_path / "c", target_ms=10_000, int8=True, config=strict, say=said.append
    )
    assert list(made.manifest.artefacts) == ["fp32"]
    assert plan.chosen is not None
    assert any(line.startswith("int8: no layer of the graph") for line in said)
