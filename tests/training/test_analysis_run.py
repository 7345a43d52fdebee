"""From a trained run to the table that the analyses start from."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_one_line
from tiny_backbone import tiny_config, tiny_embedder, write_site

from vad_runtime.contracts import InputError
from vad_training.analysis.analyses import sections_of
from vad_training.analysis.run import analysed_entries, clip_table_from_run
from vad_training.autoencoder_run import autoencoder_from_run
from vad_training.data.table import Entry, Split
from vad_training.embeddings import EmbeddingCache
from vad_training.fit_autoencoder import fit_autoencoder

SPLITS: dict[str, Split] = {
    "walk/1": "train",
    "walk/2": "val",
    "run/1": "train",
    "walk/3": "test",
    "fall/1": "anomaly",
}


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "cache")


@pytest.fixture
def run(tmp_path: Path, cache: EmbeddingCache) -> Path:
    site = write_site(tmp_path / "site", SPLITS)
    fit_autoencoder(site, tiny_config(), tmp_path / "run", cache=cache, embedder=tiny_embedder())
    return tmp_path / "run"


def test_a_run_becomes_a_table_with_everything(run: Path, cache: EmbeddingCache) -> None:
    found = clip_table_from_run(run, cache, embedder=tiny_embedder())
    table = found.table
    assert found.skipped == ()
    clips = len(table) // len(SPLITS)
    assert table.splits.tolist() == [s for s in SPLITS.values() for _ in range(clips)]
    assert table.classes.tolist() == [k.split("/")[0] for k in SPLITS for _ in range(clips)]
    assert table.first_frames[0] == 0
    # The scores are the trained model's own, and so are the centroids.
    model = autoencoder_from_run(run, embedder=tiny_embedder()).model
    embedding = table.spaces["embedding"]
    assert embedding.points is not None
    with torch.inference_mode():
        scores = model.scores(torch.from_numpy(embedding.points.astype(np.float32)))
    np.testing.assert_allclose(table.errors, scores.error.numpy(), rtol=1e-5)
    assert embedding.centroids == ("run", "walk")
    trained = table.rows("train") & (table.classes == "run")
    centroid = embedding.points[trained].mean(axis=0)
    by_hand = np.linalg.norm(embedding.points - centroid, axis=1)
    assert embedding.to_centroids is not None
    np.testing.assert_allclose(embedding.to_centroids[:, 0], by_hand, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(embedding.own[trained], embedding.to_centroids[trained, 0])
    assert np.isnan(embedding.own[table.rows("anomaly")]).all()
    assert not np.isnan(embedding.own[~table.rows("anomaly")]).any()
    names = [p.name for section in sections_of(table) for p in section.pictures]
    assert {"tsne_embedding", "tsne_latent", "latent_hyperspheres", "roc"} <= set(names)


def test_a_video_that_has_gone_is_named_and_the_rest_is_analysed(
    run: Path, cache: EmbeddingCache
) -> None:
    for video in (run.parent / "site").rglob("*"):
        if "fall" in str(video.relative_to(run.parent)) and video.is_file():
            video.unlink()
    found = clip_table_from_run(run, cache, embedder=tiny_embedder())
    assert len(found.skipped) == 1
    assert "fall" in found.skipped[0]
    assert set(found.table.classes.tolist()) == {"walk", "run"}


def test_a_run_without_any_footage_left_is_refused(run: Path, cache: EmbeddingCache) -> None:
    for video in (run.parent / "site").rglob("*"):
        if video.is_file():
            video.unlink()
    with pytest.raises(InputError, match="no video that gives a clip") as refused:
        clip_table_from_run(run, cache, embedder=tiny_embedder())
    assert_one_line(refused.value)


def test_outside_of_training_an_original_counts_once() -> None:
    def entry(name: str, split: Split, original: str | None = None) -> Entry:
        of = None if original is None else Path(original)
        return Entry(path=Path(name), label="a", split=split, original=of)

    kept = analysed_entries(
        [
            entry("1", "train"),
            entry("1-turned", "train", "1"),
            entry("2", "val"),
            entry("2-turned", "val", "2"),
            entry("3-turned", "test", "3"),  # its original is not in the table
            entry("4", ""),
        ]
    )
    assert [str(e.path) for e in kept] == ["1", "1-turned", "2", "3-turned"]
