"""Embeddings are computed once, in eval mode, and found again only where nothing has changed."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_one_line, clip_spec, moving_blob, write_video
from tiny_backbone import TinyNetwork, tiny_embedder

import vad_training.embeddings as module
from vad_runtime.contracts import InputError
from vad_training.data.clips import clips_of
from vad_training.embeddings import (
    EmbeddingCache,
    content_hash,
    default_cache_folder,
    embed_batch,
    embedder_key,
    embeddings_of,
)
from vad_training.models.backbones.base import ClipEmbedder

SPEC = clip_spec(frames=4, stride=2, hop=4, colour="rgb")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two videos of 5 clips each. Do not change."""
    folder = tmp_path_factory.mktemp("videos")
    return [
        write_video(folder / f"{i}.mp4", moving_blob(24, height=48, width=64, seed=i))
        for i in range(2)
    ]


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "cache")


def counted(embedder: ClipEmbedder) -> int:
    assert isinstance(embedder.network, TinyNetwork)
    return embedder.network.clips


# -- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_every_clip_of_every_video_has_its_embedding(
    videos: list[Path], cache: EmbeddingCache, batch: int
) -> None:
    embedder = tiny_embedder()
    found = embeddings_of(videos, embedder, SPEC, cache=cache, batch=batch)
    assert [video.path for video in found] == videos
    for video in found:
        clips = list(clips_of(video.path, SPEC))
        assert video.first_frames.tolist() == [i[0] for i, _ in clips] == [0, 4, 8, 12, 16]
        assert (video.fps, video.skipped) == (15, None)
        assert video.embeddings.dtype == np.float32
        for row, (_, pixels) in zip(video.embeddings, clips, strict=True):
            with torch.no_grad():
                wanted = embedder(torch.from_numpy(pixels[None]))[0].numpy()
            np.testing.assert_allclose(row, wanted, rtol=1e-4, atol=1e-5)


def test_batch_norm_does_not_drift(videos: list[Path], cache: EmbeddingCache) -> None:
    embedder = tiny_embedder()
    before = {name: tensor.clone() for name, tensor in embedder.state_dict().items()}
    embeddings_of(videos, embedder, SPEC, cache=cache)
    after = embedder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_embedder_in_training_mode_is_refused(videos: list[Path], cache: EmbeddingCache) -> None:
    embedder = tiny_embedder()
    assert isinstance(embedder.network, TinyNetwork)
    embedder.network.norm.train()  # a single part is enough to drift
    with pytest.raises(ValueError, match="training mode"):
        embed_batch(embedder, np.zeros((1, 4, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="training mode"):
        embeddings_of(videos, embedder, SPEC, cache=cache)


# -- the cache ---------------------------------------------------------------------------------


def test_a_second_call_computes_nothing_and_gives_the_same(
    videos: list[Path], cache: EmbeddingCache
) -> None:
    first = embeddings_of(videos, tiny_embedder(), SPEC, cache=cache)
    embedder = tiny_embedder()
    second = embeddings_of(videos, embedder, SPEC, cache=cache)
    assert counted(embedder) == 0
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.embeddings, other.embeddings)
        assert np.array_equal(one.first_frames, other.first_frames)
        assert (one.path, one.key, one.fps) == (other.path, other.key, other.fps)


def test_a_video_that_was_moved_is_known_by_its_content(
    videos: list[Path], cache: EmbeddingCache, tmp_path: Path
) -> None:
    embeddings_of(videos, tiny_embedder(), SPEC, cache=cache)
    copy = Path(shutil.copy(videos[0], tmp_path / "elsewhere.mp4"))
    embedder = tiny_embedder()
    (found,) = embeddings_of([copy], embedder, SPEC, cache=cache)
    assert (found.path, counted(embedder)) == (copy, 0)


@pytest.mark.parametrize(
    "change",
    [{"hop": 2}, {"stride": 4}, {"resizer": "exact"}, {"resizer": "exact", "height": 40}],
)
def test_another_form_of_clip_is_computed_anew(
    videos: list[Path], cache: EmbeddingCache, change: dict[str, object]
) -> None:
    embeddings_of(videos[:1], tiny_embedder(), SPEC, cache=cache)
    embedder = tiny_embedder()
    other = clip_spec(
        **({"frames": 4, "stride": 2, "hop": 4, "colour": "rgb"} | change)  # type: ignore[arg-type]
    )
    embeddings_of(videos[:1], embedder, other, cache=cache)
    assert counted(embedder) > 0


def _nudged(embedder: ClipEmbedder) -> None:
    with torch.no_grad():
        next(embedder.parameters()).flatten()[0] += 1e-6


def _drifted(embedder: ClipEmbedder) -> None:
    assert isinstance(embedder.network, TinyNetwork)
    assert embedder.network.norm.running_mean is not None
    embedder.network.norm.running_mean += 1e-6


def _scaled(embedder: ClipEmbedder) -> None:
    preprocess = replace(embedder.spec.preprocess, scale=1.0)
    embedder.spec = replace(embedder.spec, preprocess=preprocess)


@pytest.mark.parametrize("change", [_nudged, _drifted, _scaled])
def test_other_weights_or_preprocessing_are_computed_anew(
    videos: list[Path], cache: EmbeddingCache, change: Callable[[ClipEmbedder], None]
) -> None:
    embeddings_of(videos[:1], tiny_embedder(), SPEC, cache=cache)
    embedder = tiny_embedder()
    change(embedder)
    assert embedder_key(embedder) != embedder_key(tiny_embedder())
    embeddings_of(videos[:1], embedder, SPEC, cache=cache)
    assert counted(embedder) == 5


def test_changed_content_under_the_same_name_is_computed_anew(
    cache: EmbeddingCache, tmp_path: Path
) -> None:
    video = tmp_path / "v.mp4"
    write_video(video, moving_blob(24, seed=1))
    (before,) = embeddings_of([video], tiny_embedder(), SPEC, cache=cache)
    write_video(video, moving_blob(24, seed=2))
    (after,) = embeddings_of([video], tiny_embedder(), SPEC, cache=cache)
    assert not np.array_equal(before.embeddings, after.embeddings)


def test_a_folder_of_frames_is_known_by_its_images(
    frame_folder: Path, cache: EmbeddingCache, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(frame_folder, tmp_path / "copy"))
    (copy / "notes.txt").write_text("not an image")
    assert content_hash(copy) == content_hash(frame_folder)
    (found,) = embeddings_of([copy], tiny_embedder(), SPEC, cache=cache)
    assert len(found.embeddings) > 0
    (copy / "3.png").write_bytes((copy / "4.png").read_bytes())
    assert content_hash(copy) != content_hash(frame_folder)


def test_an_interrupted_extraction_goes_on_where_it_was(
    videos: list[Path], cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = module.embed_batch, 0

    def interrupted(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 4:  # the second video's second batch
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module, "embed_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embeddings_of(videos, tiny_embedder(), SPEC, cache=cache)
    assert len(list(cache.folder.iterdir())) == 1
    embedder = tiny_embedder()
    found = embeddings_of(videos, embedder, SPEC, cache=cache)
    assert counted(embedder) == 5  # the second video alone
    assert [len(video.embeddings) for video in found] == [5, 5]


def test_whatever_byte_of_a_cache_file_is_damaged_no_wrong_embedding_comes_out(
    videos: list[Path], cache: EmbeddingCache
) -> None:
    (right,) = embeddings_of(videos[:1], tiny_embedder(), SPEC, cache=cache)
    (file,) = cache.folder.iterdir()
    content = file.read_bytes()
    lost = 0
    for place in range(0, len(content), 3):
        file.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        found = cache.read(right.key, videos[0], 6)
        lost += found is None
        assert found is None or np.array_equal(found.embeddings, right.embeddings)
    assert lost > len(content) / 3 / 2
    for length in range(0, len(content), 50):
        file.write_bytes(content[:length])
        assert cache.read(right.key, videos[0], 6) is None
    embedder = tiny_embedder()
    (again,) = embeddings_of(videos[:1], embedder, SPEC, cache=cache)
    assert counted(embedder) == 5
    assert np.array_equal(again.embeddings, right.embeddings)
    assert cache.read(right.key, videos[0], 6) is not None  # mended
    assert cache.read(right.key, videos[0], 7) is None


def test_a_cache_that_cannot_be_written_is_one_line(videos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as caught:
        embeddings_of(videos, tiny_embedder(), SPEC, cache=EmbeddingCache(tmp_path / "file" / "c"))
    assert_one_line(caught.value, "cache", "cannot be written", "VAD_CACHE")


def test_the_cache_lies_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("VAD_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / ".cache" / "vad-edge" / "embeddings"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache_folder() == Path("/xdg/vad-edge/embeddings")
    monkeypatch.setenv("VAD_CACHE", "/named")
    assert EmbeddingCache().folder == Path("/named")


# -- videos that give nothing ------------------------------------------------------------------


def test_short_broken_and_missing_videos_are_named_and_the_others_used(
    videos: list[Path], cache: EmbeddingCache, tmp_path: Path
) -> None:
    short = write_video(tmp_path / "short.mp4", moving_blob(6))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video" * 100)
    paths = [short, videos[0], broken, tmp_path / "gone.mp4"]
    found = embeddings_of(paths, tiny_embedder(), SPEC, cache=cache)
    assert [video.path for video in found] == paths
    assert [len(video.embeddings) for video in found] == [0, 5, 0, 0]
    assert [video.skipped is None for video in found] == [False, True, False, False]
    for video in found:
        if video.skipped is not None:
            assert_one_line(RuntimeError(video.skipped), str(video.path))
    assert "7 good frames" in str(found[0].skipped)
    assert len(list(cache.folder.iterdir())) == 1
