"""Bundles from checkpoints, and changes to what stands outside the graph."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_one_line, clip_spec, motion_model, moving_blob, write_video

import vad_export.bundles as module
from vad_export.bundles import bundle_from_graph, scoring_from_footage
from vad_export.settings import set_values
from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Options
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import ClipSpec, ConfigError, FeatureSpec, InputError, Scoring
from vad_training.checkpoint import Checkpoint
from vad_training.config import StaeConfig
from vad_training.config.mil import HeadConfig
from vad_training.graphs import ScoreGraph, graph_from_checkpoint
from vad_training.graphs.mil import mil_head_graph
from vad_training.models.mil import mil_head
from vad_training.models.stae import STAE


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture
def checkpoint() -> Checkpoint:
    config = StaeConfig(clip=clip_spec(hop=4))
    return Checkpoint(model=STAE().eval(), config=config, published=False, summary={"frames": 5})


@pytest.fixture
def graph(checkpoint: Checkpoint) -> ScoreGraph:
    return graph_from_checkpoint(checkpoint)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Put a small real graph in the place of the exported one; its parity is not looked at.

    The list receives the clips of the parity check.
    """
    seen: list[Any] = []

    def export(graph: ScoreGraph, file: Path) -> None:
        motion_model(file, graph.clip)

    def report(
        _bundle: Bundle, _reference: object, clips: Any, origins: Any, **_: Any
    ) -> dict[str, Any]:
        seen.append((clips, origins))
        return {"clips": len(clips), "bf16_allowed": False}

    monkeypatch.setattr(module, "onnx_from_graph", export)
    monkeypatch.setattr(ScoreGraph, "run", lambda *a: {})
    monkeypatch.setattr(module, "parity_report", report)
    return seen


@pytest.fixture
def forbidden_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*_args: object, **_kwargs: object) -> None:
        pytest.fail("work was begun")

    for name in ("onnx_from_graph", "clips_from_footage"):
        monkeypatch.setattr(module, name, no)
    monkeypatch.setattr(ScoreGraph, "run", no)


# -- bundle_from_graph ----- --------------------------------------------------------------------


def test_the_manifest_says_what_was_asked_for(
    checkpoint: Checkpoint, stand_in: list[Any], tmp_path: Path, tiny_video: Path
) -> None:
    clip = clip_spec(hop=2, fps=15.0)
    bundle = bundle_from_graph(
        replace(graph_from_checkpoint(checkpoint, outputs=["latent"]), clip=clip),
        tmp_path / "x.vad",
        footage=[tiny_video],
        scoring=Scoring(threshold=2.0),
        name="gate",
        licence="CC0",
    )
    about = Bundle.open(tmp_path / "x.vad").manifest
    assert about == bundle.manifest
    assert (about.family, about.name, about.licence) == ("stae", "gate", "CC0")
    assert about.clip == clip
    assert (about.score.form, about.score.first, about.score.count) == ("reconstruction", 0, 8)
    assert [(o.name, o.shape) for o in about.outputs] == [("latent", ["N", 64, 1, 4, 4])]
    assert about.scoring.threshold == 2.0
    assert about.training == {"frames": 5}
    assert about.parity == {"clips": 8, "bf16_allowed": False}
    artefact = about.artefacts["fp32"]
    assert (artefact.file, artefact.precision) == ("model.fp32.onnx", "fp32")
    assert artefact.opset == 18
    assert artefact.tools["torch"] == str(torch.__version__)
    ((clips, origins),) = stand_in
    assert clips.shape == (8, *clip.clip_shape)
    assert {name for name, _ in origins} == {str(tiny_video)}


@pytest.mark.usefixtures("forbidden_work")
def test_a_target_that_cannot_be_is_refused_before_any_work(
    graph: ScoreGraph, bundle_copy: Path, tmp_path: Path
) -> None:
    def refused(target: Path, *parts: str, overwrite: bool = False) -> None:
        with pytest.raises(InputError) as caught:
            bundle_from_graph(graph, target, overwrite=overwrite)
        assert_one_line(caught.value, str(target), *parts)

    before = contents(tmp_path)
    refused(tmp_path / "x", "must end with .vad")
    refused(tmp_path / "x.onnx", "must end with .vad")
    refused(bundle_copy, "exists already", "--overwrite")
    (tmp_path / "folder.vad").mkdir()
    refused(tmp_path / "folder.vad", "not a bundle", overwrite=True)
    assert contents(tmp_path) == before


def test_overwrite_replaces_a_bundle(
    graph: ScoreGraph, stand_in: list[Any], bundle_copy: Path
) -> None:
    bundle_from_graph(graph, bundle_copy, name="new", overwrite=True)
    assert Bundle.open(bundle_copy).manifest.name == "new"
    assert not (bundle_copy / "model.onnx").exists()  # of the bundle that stood there


def test_an_ensemble_of_heads_keeps_its_mean_in_every_engine(tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = mil_head(HeadConfig(hidden=(8, 4), members=3), 6).eval()
    spec = FeatureSpec(segments=4, size=6, normalise=True)
    clip = ClipSpec(frames=16, height=112, width=112)
    bundle = bundle_from_graph(mil_head_graph(head, spec, clip), tmp_path / "head.vad")
    features = np.random.default_rng(0).normal(size=(1, 4, 6)).astype(np.float32)
    with torch.inference_mode():
        alone = [member(torch.from_numpy(features)).numpy() for member in head.members]
    for engine in ("onnxruntime", "openvino"):
        choice = open_backend(bundle, engine, Options(precision="fp32"))
        score = choice.backend.infer(features)["score"]
        choice.backend.close()
        np.testing.assert_allclose(score, np.mean(alone, axis=0), rtol=1e-4, err_msg=engine)


def test_normal_footage_gives_the_threshold_with_the_export(
    graph: ScoreGraph, stand_in: list[Any], tmp_path: Path
) -> None:
    normal = write_video(tmp_path / "normal.mp4", moving_blob(140))
    bundle = bundle_from_graph(graph, tmp_path / "x.vad", normal=[normal], quantile=0.9)
    scoring = Bundle.open(bundle.path).manifest.scoring
    assert scoring.threshold is not None
    assert scoring.evidence["frames"] == 140
    assert scoring.evidence["quantile"] == 0.9
    assert scoring == scoring_from_footage(bundle, [normal], 0.9).manifest.scoring


def test_normal_footage_that_is_too_short_leaves_the_target_as_it_was(
    graph: ScoreGraph, stand_in: list[Any], tiny_video: Path, bundle_copy: Path
) -> None:
    before = contents(bundle_copy)
    for target in (bundle_copy, bundle_copy.with_name("new.vad")):
        with pytest.raises(InputError) as caught:
            bundle_from_graph(graph, target, normal=[tiny_video], overwrite=True)
        assert_one_line(caught.value, "60 scored frames", "too few")
    assert contents(bundle_copy) == before
    assert [f.name for f in bundle_copy.parent.iterdir()] == [bundle_copy.name]


# -- set_values --------------------------------------------------------------------------------


def test_set_changes_the_manifest_and_no_artefact(bundle_copy: Path) -> None:
    before = contents(bundle_copy)
    old = Bundle.open(bundle_copy).manifest
    changed = set_values(
        Bundle.open(bundle_copy),
        ["threshold=1.25", "smoothing=median", "window=9", "release=0.8", "name=back door"],
    )
    after = contents(bundle_copy)
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"manifest.json"}
    new = Bundle.open(bundle_copy).manifest
    assert new == changed.manifest
    assert (new.scoring.threshold, new.scoring.smoothing) == (1.25, "median")
    assert (new.scoring.window, new.scoring.release) == (9, 0.8)
    assert isinstance(new.scoring.window, int)
    assert new.name == "back door"
    assert new.scoring.offset == old.scoring.offset
    assert new.clip == old.clip
    assert "set by hand: threshold, smoothing, window, release" in new.scoring.method
    assert new.scoring.method.startswith(old.scoring.method)


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("threshold=none", "threshold", None),
        ("threshold=None", "threshold", None),
        ("threshold=-2", "threshold", -2.0),
        ("threshold=1e-3", "threshold", 0.001),
        ("smoothing=none", "smoothing", "none"),
        ("offset=3", "offset", 3.0),
        ("scale=2.5", "scale", 2.5),
        ("min_duration_s=0", "min_duration_s", 0.0),
    ],
)
def test_values_have_their_types(bundle_copy: Path, setting: str, key: str, value: object) -> None:
    set_values(Bundle.open(bundle_copy), [setting])
    found = getattr(Bundle.open(bundle_copy).manifest.scoring, key)
    assert found == value
    assert type(found) is type(value)


def test_a_new_licence_is_no_change_of_the_scoring(bundle_copy: Path) -> None:
    before = Bundle.open(bundle_copy).manifest
    set_values(Bundle.open(bundle_copy), ["licence=a=b"])
    after = Bundle.open(bundle_copy).manifest
    assert after.licence == "a=b"
    assert after.scoring == before.scoring


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("threshold", "key=value"),
        ("treshold=1", "treshold cannot be set. Choose from: offset"),
        ("method=by magic", "method cannot be set"),
        ("clip.hop=2", "clip.hop cannot be set"),
        ("=1", "cannot be set"),
        ("threshold=high", "threshold"),
        ("threshold=nan", "threshold"),
        ("threshold=inf", "threshold"),
        ("threshold=", "threshold"),
        ("scale=0", "scale"),
        ("scale=none", "scale"),
        ("window=0", "window"),
        ("window=2.5", "window"),
        ("release=0", "release"),
        ("release=2", "release"),
        ("release=nan", "release"),
        ("smoothing=mode", "smoothing"),
        ("min_duration_s=-1", "min_duration_s"),
        ("min_duration_s=inf", "min_duration_s"),
        ("min_duration_s=nan", "min_duration_s"),
    ],
)
def test_a_bad_setting_leaves_the_bundle_as_it_was(
    bundle_copy: Path, setting: str, named: str
) -> None:
    before = contents(bundle_copy)
    with pytest.raises(ConfigError) as caught:
        set_values(Bundle.open(bundle_copy), ["offset=1", setting])
    assert_one_line(caught.value, named)
    assert contents(bundle_copy) == before
