"""One command from footage to a bundle: whole, interrupted, and failing."""

import json
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from helpers import assert_one_line, clip_spec, manifest, motion_model, moving_blob, write_video
from onnx import helper

import vad_export.bundles as bundles
import vad_export.deploy as module
from vad_export.deploy import RECIPE, DeployOptions, deploy
from vad_runtime.backends import open_backend
from vad_runtime.bundle import Bundle, write_bundle
from vad_runtime.commands import Interrupted
from vad_runtime.contracts import ExportError, InputError, ParityError
from vad_runtime.detector import Detector
from vad_runtime.sources import open_source
from vad_training.checkpoint import checkpoint_from_path
from vad_training.config import LossConfig
from vad_training.data.store import store_from_footage
from vad_training.data.windows import split_segments
from vad_training.graphs import ScoreGraph
from vad_training.graphs.stae import ScoreForm
from vad_training.loop import LAST, _Loop

TINY = msgspec.structs.replace(
    RECIPE,
    clip=clip_spec(hop=4),
    loss=LossConfig(future_offset=8),
    precision="fp32",
    device="cpu",
    threads=1,
)
OPTIONS = DeployOptions(minutes=0.02)  # 1.2 s: twelve steps of the pretended 0.1 s
ONE_STEP = DeployOptions(minutes=0.001)


def small_video(path: Path, frames: int, seed: int) -> Path:
    return write_video(path, moving_blob(frames, height=48, width=64, seed=seed))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two normal videos of 120 frames: one is trained on, the other gives the threshold."""
    folder = tmp_path_factory.mktemp("site")
    for i in range(2):
        small_video(folder / f"{i}.mp4", 120, i)
    return folder


@pytest.fixture(autouse=True)
def tiny_recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make every run small, and its plan independent of how busy this machine is."""
    monkeypatch.setattr(module, "RECIPE", TINY)
    monkeypatch.setattr(module, "_seconds_per_step", lambda *a: 0.1)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a small real graph in the place of the exported one; its parity is not looked at."""

    def export(graph: ScoreGraph, file: Path) -> None:
        motion_model(file, graph.clip)

    monkeypatch.setattr(bundles, "onnx_from_graph", export)
    monkeypatch.setattr(ScoreGraph, "run", lambda *a: {})
    monkeypatch.setattr(bundles, "parity_report", lambda *a, **k: {"clips": 8})


@pytest.fixture(scope="module")
def trained(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose training is done. Copy it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RECIPE", TINY)
        patch.setattr(module, "_seconds_per_step", lambda *a: 0.1)
        patch.setattr(module, "bundle_from_graph", lambda *a, **k: 1 / 0)
        before = torch.get_num_threads()
        with pytest.raises(ZeroDivisionError):
            deploy([site], folder.with_name("none.vad"), folder, OPTIONS)
        torch.set_num_threads(before)
    return folder


def changed(options: DeployOptions, **changes: Any) -> DeployOptions:
    return DeployOptions(**(vars(options) | changes))


def ready(bundle: Bundle) -> None:
    """Assert that a bundle is what `deploy` promises."""
    about = Bundle.open(bundle.path).manifest
    assert about == bundle.manifest
    assert about.scoring.threshold is not None
    assert about.scoring.threshold > 0
    assert about.scoring.evidence["frames"] >= 100
    assert about.parity is not None


def content(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir()}


# -- the whole road ----------------------------------------------------------------------------


def test_normal_footage_becomes_a_checked_bundle_with_a_threshold(
    site: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    run = tmp_path / "site.run"
    bundle = deploy([site], tmp_path / "site.vad", run, OPTIONS, said.append)
    ready(bundle)
    about = bundle.manifest
    assert about.clip == clip_spec(hop=4, fps=15.0)
    assert about.training["videos"] == 2
    assert about.training["frames"] == 240
    assert about.training["steps"] == 10
    assert about.parity is not None
    assert about.parity["engines"]["onnxruntime fp32"]["max_of_scale"] <= 1e-4
    assert about.scoring.evidence["videos"] == 1
    assert not (run / "draft.vad").exists()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["site.run", "site.vad"]
    words = [line.split(":")[0].split()[0] for line in said]
    stages = [word for word in words if word != "pass"]
    assert stages[:5] == ["footage", "plan", "trained", "exported", "threshold"]
    assert "pass" in words
    assert about.plan is not None
    assert said[-1] == about.plan.why
    assert "2 videos, 240 frames, 0.3 minutes at 15 fps" in said[0]

    # The threshold comes from the video that was held back: 1.1 times its 0.999 quantile.
    footage = store_from_footage([site], TINY.clip, run / "frames")
    (held,) = split_segments(footage, TINY.data.validation_fraction, 0)[1]
    backend = open_backend(bundle).backend
    source = open_source(footage.videos[held.video], about.clip)
    scored = list(Detector(about, backend).run(source.frames(), nominal_fps=15))
    backend.close()
    live = [s.score for s in scored if s.score is not None]
    assert len(live) == 120
    level = 1.1 * np.quantile(live, 0.999)
    assert about.scoring.threshold == pytest.approx(level, rel=1e-3)
    assert not any(s.alarm for s in scored)


@pytest.mark.usefixtures("stand_in")
def test_a_single_video_is_enough(tmp_path: Path) -> None:
    video = small_video(tmp_path / "only.mp4", 560, 1)
    bundle = deploy([video], tmp_path / "x.vad", tmp_path / "run", ONE_STEP)
    ready(bundle)
    assert bundle.manifest.training["videos"] == 1
    assert bundle.manifest.scoring.evidence["frames"] == 112  # the last fifth


@pytest.mark.usefixtures("stand_in")
def test_validation_footage_of_its_own_is_used_for_all_that_is_not_training(
    site: Path, tmp_path: Path
) -> None:
    site = Path(shutil.copytree(site, tmp_path / "site"))
    (site / "bad.mp4").write_text("no video")
    held = tmp_path / "held"
    held.mkdir()
    small_video(held / "v.mp4", 130, 5)
    (held / "worse.mp4").write_text("no video")
    options = changed(ONE_STEP, validation=[held])
    said: list[str] = []
    seen: list[list[Path]] = []
    real = module.bundle_from_graph

    def note(*args: Any, **kwargs: Any) -> Bundle:
        seen.append(kwargs["footage"])
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "bundle_from_graph", note)
        bundle = deploy([site], tmp_path / "x.vad", tmp_path / "run", options, said.append)
    ready(bundle)
    assert [line.split(" is ")[0].split("/")[-1] for line in said[:2]] == ["bad.mp4", "worse.mp4"]
    assert bundle.manifest.scoring.evidence["frames"] == 130
    assert seen == [[held / "v.mp4"]]
    assert bundle.manifest.training["training_windows"] == 2 * len(range(0, 120 - 8 + 1, 2))


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("form", ["prediction", "both"])
def test_another_form_of_the_score_can_be_asked_for(
    site: Path, trained: Path, tmp_path: Path, form: Any
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    with pytest.MonkeyPatch.context() as patch:
        # A graph that takes 16 frames and scores the last 8.
        patch.setattr(bundles, "onnx_from_graph", long_graph)
        options = changed(OPTIONS, form=ScoreForm(form=form))
        bundle = deploy([site], tmp_path / "x.vad", run, options)
    assert bundle.manifest.score.form == form
    assert bundle.manifest.clip.frames == 16
    assert bundle.manifest.scoring.evidence["frames"] == 112


def long_graph(graph: ScoreGraph, file: Path) -> None:
    motion_model(file, graph.clip, output="all")
    model = onnx.load(file)
    inner = model.graph
    names = {"start": [8], "stop": [16], "axis": [1]}
    for name, value in names.items():
        inner.initializer.append(helper.make_tensor(name, onnx.TensorProto.INT64, [1], value))
    inner.node.append(helper.make_node("Slice", ["all", *names], ["score"]))
    del inner.output[:]
    inner.output.append(helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, ["N", 8]))
    onnx.save(model, file)


# -- interrupted -------------------------------------------------------------------------------


def interrupt_after(patch: pytest.MonkeyPatch, step: int) -> None:
    real = _Loop._step

    def train_step(self: _Loop, numbers: Sequence[int]) -> dict[str, float | int]:
        if self._state.step == step:
            signal.raise_signal(signal.SIGINT)
        return real(self, numbers)

    patch.setattr(_Loop, "_step", train_step)


@pytest.mark.usefixtures("stand_in")
def test_an_interrupted_deploy_goes_on_where_it_was(
    site: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, run = tmp_path / "x.vad", tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        with pytest.raises(Interrupted):
            deploy([site], target, run, OPTIONS)
    assert not target.exists()
    assert (run / LAST).is_file()
    assert len((run / "log.jsonl").read_text().splitlines()) == 5
    said: list[str] = []
    # A machine that is slower now must not change the plan of the run.
    monkeypatch.setattr(module, "_seconds_per_step", lambda *a: 100.0)
    ready(deploy([site], target, run, OPTIONS, said.append))
    assert any("going on with the training run" in line for line in said)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    whole = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert log == whole
    first, second = (checkpoint_from_path(f).model.state_dict() for f in (run, trained))
    assert all(torch.equal(first[name], second[name]) for name in first)


# -- failing -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("where", "name", "error", "there"),
    [
        (bundles, "onnx_from_graph", ExportError("no graph"), False),
        (bundles, "parity_report", ParityError("too far"), True),
        (module, "raw_scores", InputError("no scores"), True),
        (module, "write_bundle", InputError("disk full"), False),
        (module, "raw_scores", KeyboardInterrupt(), False),
    ],
)
def test_a_step_that_fails_leaves_the_target_as_it_was(
    site: Path,
    trained: Path,
    tmp_path: Path,
    tiny_graph: Path,
    monkeypatch: pytest.MonkeyPatch,
    there: bool,
    where: Any,
    name: str,
    error: BaseException,
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    target = tmp_path / "x.vad"
    if there:
        write_bundle(target, manifest(), {"fp32": tiny_graph})
    before = content(target) if there else None

    def fail(*_args: object, **_kwargs: object) -> None:
        raise error

    options = changed(OPTIONS, overwrite=there)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, fail)
        with pytest.raises(type(error)):
            deploy([site], target, run, options)
    assert (content(target) if target.exists() else None) == before
    assert {f.name for f in tmp_path.iterdir()} == {"run"} | ({"x.vad"} if there else set())
    ready(deploy([site], target, run, options))  # the same command again


@pytest.mark.usefixtures("stand_in")
def test_too_little_validation_footage_leaves_nothing(tmp_path: Path) -> None:
    for i in range(3):
        small_video(tmp_path / f"{i}.mp4", 60, i)
    with pytest.raises(InputError) as caught:
        deploy([tmp_path], tmp_path / "x.vad", tmp_path / "run", ONE_STEP)
    assert_one_line(caught.value, "too few for a threshold")
    assert not (tmp_path / "x.vad").exists()


def test_footage_too_short_for_two_parts_is_refused_before_training(tmp_path: Path) -> None:
    video = small_video(tmp_path / "short.mp4", 9, 0)
    with pytest.raises(InputError) as caught:
        deploy([video], tmp_path / "x.vad", tmp_path / "run", OPTIONS)
    assert_one_line(caught.value, "too little footage")
    assert not (tmp_path / "run" / LAST).exists()


@pytest.mark.parametrize("name", ["x", "there.vad"])
def test_a_target_that_cannot_be_is_refused_before_any_work(
    site: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "there.vad").mkdir()
    with pytest.raises(InputError):
        deploy([site], tmp_path / name, tmp_path / "run", OPTIONS)
    assert not (tmp_path / "run").exists()


# -- the plan ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minutes", "seconds_per_step", "epochs", "per_epoch"),
    [
        # 57 windows of one video in batches of 4: 15 steps see all of them.
        # A tenth of the time is for validation.
        (0.02, 0.1, 1, 10),  # 12 steps: an epoch has twenty at least, if there are as many
        (1.0, 0.5, 7, 15),  # 120 steps
        (10.0, 0.1, 36, 15),  # never more than the published recipe's passes
        (0.001, 10.0, 1, 1),  # at least one step
    ],
)
def test_the_plan_fits_into_the_minutes(
    site: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    minutes: float,
    seconds_per_step: float,
    epochs: int,
    per_epoch: int,
) -> None:
    planned = []

    def stop(_store: object, config: Any, *_args: object, **_kwargs: object) -> None:
        planned.append(config)
        raise Interrupted

    monkeypatch.setattr(module, "_seconds_per_step", lambda *a: seconds_per_step)
    monkeypatch.setattr(module, "fit_stae", stop)
    options = changed(OPTIONS, minutes=minutes, seed=7)
    with pytest.raises(Interrupted):
        deploy([site], tmp_path / "x.vad", tmp_path / "run", options)
    (config,) = planned
    assert (config.epochs, config.steps_per_epoch, config.seed) == (epochs, per_epoch, 7)
