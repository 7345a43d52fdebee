"""Features of a folder tree: resumable, whole files only, and nothing is silently left out."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from helpers import assert_one_line, moving_blob, write_video

from vad_runtime.contracts import ClipSpec, ConfigError, InputError
from vad_runtime.features import read_features
from vad_training.config import BackboneConfig
from vad_training.data.clips import clips_of
from vad_training.extraction import extract_features
from vad_training.feature_network import Inputs, StreamNetwork, network_from_config
from vad_training.models.backbones.base import BackboneSpec, ClipEmbedder, Preprocess

CLIP = ClipSpec(frames=8, hop=8, height=16, width=16, colour="rgb")


class MeanColours:
    """A network whose feature is the mean colour of each half of a clip."""

    def __init__(self, key: str = "mean colours", stop_after: int | None = None) -> None:
        self.key, self.stop_after = key, stop_after
        self.about: dict[str, Any] = {"backbone": {"name": "mean colours"}, "modality": "rgb"}
        self.batches: list[int] = []

    def prepare(self, clip: npt.NDArray[np.uint8]) -> Inputs:
        return (clip.reshape(2, -1, 3).mean(axis=1).ravel(),)

    def embed(self, clips: Sequence[Inputs]) -> npt.NDArray[np.float32]:
        if self.stop_after is not None and len(self.batches) >= self.stop_after:
            raise KeyboardInterrupt
        self.batches.append(len(clips))
        return np.stack([clip for (clip,) in clips]).astype(np.float32)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of 30, 20, 41 and 20 frames in two classes. Do not change."""
    folder = tmp_path_factory.mktemp("tree")
    for i, (name, frames) in enumerate(
        {"Abuse/a.mp4": 30, "Abuse/b.mp4": 20, "Normal/c.mp4": 41, "Normal/d.v2.mp4": 20}.items()
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        write_video(folder / name, moving_blob(frames, seed=i))
    return folder


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


ALL = ["Abuse/a.npz", "Abuse/b.npz", "Normal/c.npz", "Normal/d.v2.npz"]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_video_has_the_features_of_the_devices_clips(
    tree: Path, tmp_path: Path, workers: int
) -> None:
    result = extract_features(tree, tmp_path, MeanColours(), CLIP, workers=workers, batch=2)
    assert files_of(tmp_path) == ALL
    assert len(result.written) == 4
    assert not result.kept
    assert not result.skipped
    for name, frames in (("Abuse/a", 30), ("Normal/c", 41)):
        video = read_features(tmp_path / f"{name}.npz")
        clips = list(clips_of(tree / f"{name}.mp4", CLIP))
        wanted = [MeanColours().prepare(pixels)[0] for _, pixels in clips]
        assert video.features == pytest.approx(np.stack(wanted), abs=1e-4)
        assert video.first_frames is not None
        assert video.first_frames.tolist() == [indices[0] for indices, _ in clips]
        assert (video.frames, video.clip_span, video.fps) == (frames, 8, 15)
        assert video.about["backbone"]["name"] == "mean colours"
        assert video.about["clip"]["hop"] == 8


def test_a_batch_holds_clips_of_one_video(tree: Path, tmp_path: Path) -> None:
    network = MeanColours()
    extract_features(tree, tmp_path, network, CLIP, workers=4, batch=2)
    # clips: 30 frames give 3 and a tail; 20 give 2 and a tail; 41 give 5 and a tail
    assert sorted(network.batches) == [1, 1, 2, 2, 2, 2, 2, 2, 2]


def test_an_interrupted_extraction_goes_on_without_repeating_videos(
    tree: Path, tmp_path: Path
) -> None:
    # Four clips of the first video at once, then its end; the second video is cut off.
    with pytest.raises(KeyboardInterrupt):
        extract_features(tree, tmp_path, MeanColours(stop_after=1), CLIP, workers=1, batch=4)
    assert files_of(tmp_path) == ALL[:1]  # whole files alone
    before = (tmp_path / ALL[0]).stat().st_mtime_ns
    network = MeanColours()
    result = extract_features(tree, tmp_path, network, CLIP, workers=1, batch=4)
    assert [path.name for path in result.kept] == ["a.npz"]
    assert [path.name for path in result.written] == ["b.npz", "c.npz", "d.v2.npz"]
    assert sum(network.batches) == 3 + 6 + 3  # no clip of the first video
    assert (tmp_path / ALL[0]).stat().st_mtime_ns == before
    again = extract_features(tree, tmp_path, MeanColours(stop_after=0), CLIP)
    assert len(again.kept) == 4
    assert not again.written


def test_no_thread_is_left_behind_by_an_interruption(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        extract_features(tree, tmp_path, MeanColours(stop_after=0), CLIP, workers=3, batch=1)
    assert not [t for t in threading.enumerate() if t.name.startswith(("vad-decode", "vad-source"))]


def test_unreadable_and_too_short_videos_are_named_at_the_end(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "good.mp4", moving_blob(20))
    write_video(videos / "short.mp4", moving_blob(5))
    (videos / "bad.mp4").write_bytes(b"no video at all")
    result = extract_features(videos, tmp_path / "out", MeanColours(), CLIP)
    assert files_of(tmp_path / "out") == ["good.npz"]
    assert len(result.skipped) == 2
    assert "bad.mp4" in result.skipped[0]
    assert "not a readable video" in result.skipped[0]
    assert "short.mp4 holds no 8 good frames in a row" in result.skipped[1]


def test_features_made_in_another_way_are_replaced_only_when_told(
    tree: Path, tmp_path: Path
) -> None:
    extract_features(tree, tmp_path, MeanColours(), CLIP)
    for network, clip in (
        (MeanColours("other weights"), CLIP),
        (MeanColours(), ClipSpec(frames=8, hop=4, height=16, width=16, colour="rgb")),
    ):
        with pytest.raises(InputError) as caught:
            extract_features(tree, tmp_path, network, clip)
        assert_one_line(caught.value, "a.npz", "--overwrite")
        assert not network.batches
    result = extract_features(tree, tmp_path, MeanColours("other"), CLIP, overwrite=True)
    assert len(result.written) == 4


def test_two_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    for suffix in ("mp4", "mkv"):
        write_video(tmp_path / f"a.{suffix}", moving_blob(10))
    with pytest.raises(InputError) as caught:
        extract_features(tmp_path, tmp_path / "out", MeanColours(), CLIP)
    assert_one_line(caught.value, "a.mkv", "a.mp4", "Rename")


def test_a_folder_of_frames_is_a_video_too(frame_folder: Path, tmp_path: Path) -> None:
    extract_features(frame_folder, tmp_path, MeanColours(), CLIP)
    video = read_features(tmp_path / f"{frame_folder.name}.npz")
    assert video.frames == 12
    assert len(video.features) == 2  # frames 0 to 7, and the tail


def test_a_bug_in_a_decoding_thread_is_not_swallowed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: MeanColours, _clip: object) -> Inputs:
        raise ZeroDivisionError

    monkeypatch.setattr(MeanColours, "prepare", broken)
    with pytest.raises(ZeroDivisionError):
        extract_features(tree, tmp_path, MeanColours(), CLIP)


# -- networks ----------------------------------------------------------------------------------


class Tiny(torch.nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(channels, 4)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.layer(clips.mean(dim=(2, 3, 4)))
        return features


def tiny_embedder(seed: int = 0) -> ClipEmbedder:
    torch.manual_seed(seed)
    spec = BackboneSpec(
        name="tiny", embedding=4, frames=(8,), height=16, width=16,
        preprocess=Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3),
        build=lambda _: Tiny(3), convert=dict, layouts="none", source="this test",
    )  # fmt: skip
    return ClipEmbedder(spec, Tiny(3), 8).eval()


def tiny_flow(seed: int = 0) -> Any:
    from vad_training.models.backbones.flow import FlowEmbedder

    torch.manual_seed(seed)
    return FlowEmbedder(Tiny(2)).eval()


def test_rgb_and_flow_lie_side_by_side(tree: Path, tmp_path: Path) -> None:
    rgb, flow = tiny_embedder(), tiny_flow()
    for name, network in (
        ("two", StreamNetwork(rgb, flow)),
        ("rgb", StreamNetwork(rgb)),
        ("flow", StreamNetwork(None, flow)),
    ):
        extract_features(tree / "Abuse", tmp_path / name, network, CLIP)
    two = read_features(tmp_path / "two" / "a.npz", "two")
    assert two.features.shape == (4, 8)
    assert two.about["modality"] == "two"
    for half in ("rgb", "flow"):
        alone = read_features(tmp_path / half / "a.npz", half)  # type: ignore[arg-type]
        inside = read_features(tmp_path / "two" / "a.npz", half)  # type: ignore[arg-type]
        assert inside.features == pytest.approx(alone.features, abs=1e-6)


def test_the_key_of_a_network_changes_with_weights_and_flow() -> None:
    keys = {
        StreamNetwork(tiny_embedder()).key,
        StreamNetwork(tiny_embedder(1)).key,
        StreamNetwork(tiny_embedder(), tiny_flow()).key,
        StreamNetwork(tiny_embedder(), tiny_flow(), method="farneback").key,
        StreamNetwork(tiny_embedder(), tiny_flow(1)).key,
        StreamNetwork(None, tiny_flow()).key,
    }
    assert len(keys) == 6
    assert StreamNetwork(tiny_embedder()).key in keys


def test_a_network_for_flow_takes_no_rgb() -> None:
    with pytest.raises(ConfigError) as caught:
        network_from_config(BackboneConfig(name="i3d_flow", random_weights=0))
    assert_one_line(caught.value, "--modality flow")


# -- command -----------------------------------------------------------------------------------


VAD_TRAIN = Path(sys.executable).parent / "vad-train"
TINY = ["--backbone", "mc3_18", "--random-weights", "0", "--device", "cpu"]


def vad_train(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(VAD_TRAIN), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_the_command_reports_and_exits_1_only_if_nothing_could_be_done(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "good.mp4", moving_blob(16, height=64, width=64))
    (videos / "bad.mp4").write_bytes(b"no video at all")
    done = vad_train("features", videos, "-o", tmp_path / "out", *TINY)
    assert done.returncode == 0, done.stderr
    assert "bad.mp4" in done.stderr
    assert "1 videos done, 0 were there already, 1 skipped" in done.stdout
    video = read_features(tmp_path / "out" / "good.npz")
    assert video.features.shape == (1, 512)
    assert video.about["backbone"]["weights"] == "random weights, seed 0"
    (videos / "good.mp4").unlink()
    none = vad_train("features", videos, "-o", tmp_path / "none", *TINY)
    assert none.returncode == 1
    assert "none of 1 videos gave features" in none.stderr


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_whole_files_and_exits_130(tmp_path: Path) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    for i in range(8):
        write_video(videos / f"{i}.mp4", moving_blob(64, height=64, width=64))
    child = subprocess.Popen(
        [VAD_TRAIN, "features", videos, "-o", out, *TINY], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while not (out / "0.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 130, err
    assert err.strip().endswith("Interrupted.")
    assert 1 <= len(files_of(out)) < 8
    for name in files_of(out):
        assert len(read_features(out / name).features) == 4
