"""Every command and program in README, docs and the component READMEs runs as it stands there.

Each document gets a folder of its own with what its commands name (`PREPARED`); its ```bash and
```python blocks run there in order. Some things are different from what a reader does:

* `--minutes X` becomes `--minutes 0.1`.
* `--target-ms X` becomes `--target-ms 10000`, which `vad-export deploy` gets everywhere: a busy
  machine may be slow, and would also make an INT8 graph.
* A block below a line ``<!-- not run: REASON -->`` is passed over.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from helpers import moving_blob, write_video
from helpers_documents import NOT_RUN, ROOT, blocks_of, run
from helpers_footage import scene, write_class_folders, write_labels

from vad_runtime.bundle import Bundle, rewrite_manifest

FPS = 15
ELSEWHERE = {"docs/classes.md": "test_journey.py"}
"""Documents whose blocks another test runs, and looks at what they leave."""
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def documents() -> list[Path]:
    """Return README, CONTRIBUTING, CHANGELOG, the docs and the component READMEs."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")]
    return sorted(path.relative_to(ROOT) for path in found)


# -- what the documents' commands name -----------------------------------------------------------


def normal(room: Path, bundle: Path) -> None:
    """Make a folder of footage in which nothing unusual happens, enough to train on.

    `deploy` holds one of the clips back, and no threshold is chosen from fewer than 100 frames.
    """
    make_footage(room / "normal", clips=2, frames=105)


def short_normal(room: Path, bundle: Path) -> None:
    """Make the same, shorter: a threshold from all of it."""
    make_footage(room / "normal", clips=3, frames=36)


def many_normal(room: Path, bundle: Path) -> None:
    """Make footage in which the score has more peaks than the 20 that a tail needs."""
    (room / "normal").mkdir()
    for i in range(50):  # a peak above the median in every other one
        write_video(room / "normal" / f"day_{i}.mp4", scene(24, seed=i), fps=FPS)


def varied_normal(room: Path, bundle: Path) -> None:
    """Make footage whose scores differ enough that rounding to INT8 leaves their order."""
    (room / "normal").mkdir()
    for i in range(3):
        write_video(room / "normal" / f"day_{i}.mp4", scene(60, seed=i), fps=FPS)


def make_footage(folder: Path, *, clips: int, frames: int) -> None:
    """Draw the clips `day_0.mp4`, `day_1.mp4`, … into a new folder."""
    folder.mkdir()
    for i in range(clips):
        write_video(folder / f"day_{i}.mp4", moving_blob(frames, seed=i), fps=FPS)


def night(room: Path, bundle: Path) -> None:
    """Make a clip to look at, 4 seconds."""
    write_video(room / "night.mp4", moving_blob(4 * FPS, seed=7), fps=FPS)


def site(room: Path, bundle: Path) -> None:
    """Make a bundle, for documents that use one without making it."""
    (room / "site.vad").symlink_to(bundle, target_is_directory=True)


def own_site(room: Path, bundle: Path) -> None:
    """Make a bundle that the document may change."""
    shutil.copytree(bundle, room / "site.vad")


def calm_site(room: Path, bundle: Path) -> None:
    """Make a bundle with a threshold far above its scores, so that rounding flips no decision."""
    own_site(room, bundle)
    opened = Bundle.open(room / "site.vad")
    scoring = msgspec.structs.replace(opened.manifest.scoring, threshold=0.9)
    rewrite_manifest(opened, msgspec.structs.replace(opened.manifest, scoring=scoring))


def labelled_videos(room: Path, bundle: Path) -> None:
    """Make a folder with test videos and `labels.json` with their truth."""
    (room / "test").mkdir()
    videos = {}
    for i in range(2):
        write_video(room / "test" / f"clip_{i}.mp4", moving_blob(4 * FPS, seed=i), fps=FPS)
        anomalies = [{"kind": "runner", "first": 20 + i, "last": 39}]
        videos[f"test/clip_{i}.mp4"] = {"frames": 4 * FPS, "anomalies": anomalies}
    labels = {"schema": 1, "label_set": "made up", "fps": FPS, "videos": videos}
    (room / "labels.json").write_text(json.dumps(labels))


def class_folders(room: Path, bundle: Path) -> None:
    """Make `videos/` with a folder for each class and a file that is no video; and `quiet.mp4`."""
    folder = write_class_folders(room / "videos", {"walking": 10, "falling": 2, "fighting": 2})
    (folder / "walking" / "broken.mp4").write_bytes(b"no video")
    write_video(room / "quiet.mp4", scene(75 * FPS, seed=99), fps=FPS)


def weak_folders(room: Path, bundle: Path) -> None:
    """Make `weak/` with normal and anomalous clips, and `labels.json` with the truth of each."""
    write_class_folders(room / "weak", {"normal": 5, "fighting": 5}, frames=48)
    write_labels(room / "labels.json", room / "weak", frames=48, anomaly=(8, 39))


def weights(room: Path, bundle: Path) -> None:
    """Make `model.pth`: random weights in the layout of the published ones."""
    import torch

    from vad_training.models.stae import STAE

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(STAE().state_dict(), room / "model.pth")


PREPARED: dict[str, tuple[Callable[[Path, Path], None], ...]] = {
    "README.md": (normal, night),
    "docs/live.md": (site, night),
    "docs/mil.md": (weak_folders,),
    "docs/deployment.md": (own_site,),
    "docs/engines.md": (own_site, night),
    "docs/evaluation.md": (own_site, many_normal, labelled_videos),
    "docs/data.md": (class_folders,),
    "docs/backbones.md": (class_folders,),
    "docs/precision.md": (calm_site, varied_normal),
    "docs/running.md": (site, short_normal, night),
    "docs/benchmarking.md": (site, night),
    "docs/bundle-format.md": (own_site,),
    "docs/training.md": (site, short_normal, night, weights, labelled_videos),
}


# -- the tests -----------------------------------------------------------------------------------


def with_blocks() -> list[str]:
    """Return the documents that have a block to run."""
    return [
        str(document)
        for document in documents()
        if str(document) not in ELSEWHERE
        and any(block.reason is None for block in blocks_of(document))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("document", with_blocks())
def test_every_block_of_a_document_runs(document: str, tiny_bundle: Bundle, tmp_path: Path) -> None:
    for prepare in PREPARED.get(document, ()):
        prepare(tmp_path, tiny_bundle.path)
    for block in blocks_of(Path(document)):
        if block.reason is None:
            run(block, tmp_path)


@pytest.mark.parametrize("document", [str(path) for path in documents()])
def test_every_block_that_is_not_run_says_why(document: str) -> None:
    for block in blocks_of(Path(document)):
        assert block.reason is None or len(block.reason.split()) >= 3, block.place
        if re.search(r"scripts/\w|pip install", block.text):
            assert block.reason, (
                f"{block.place} installs something, so it needs a reason not to run"
            )


@pytest.mark.parametrize("document", [str(path) for path in documents()])
def test_every_note_that_a_block_is_not_run_stands_above_a_block(document: str) -> None:
    notes = len(NOT_RUN.findall((ROOT / document).read_text()))
    assert notes == sum(block.reason is not None for block in blocks_of(Path(document)))


@pytest.mark.parametrize("document", [str(path) for path in documents()])
def test_every_relative_link_points_to_something(document: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text(), flags=re.DOTALL)
    missing = []
    for target in (match["target"] for match in _LINK.finditer(text)):
        if re.match(r"[a-z]+:|#", target):
            continue
        if not ((ROOT / document).parent / target.partition("#")[0]).exists():
            missing.append(target)
    assert not missing


def test_every_document_that_needs_something_prepared_is_there() -> None:
    assert set(PREPARED) <= set(with_blocks())


def test_blocks_are_found_with_their_reasons() -> None:
    blocks = blocks_of(Path("README.md"))
    assert {block.language for block in blocks} == {"bash", "python"}
    assert any("vad-export deploy" in block.text for block in blocks if block.reason is None)
    assert any(block.reason for block in blocks)
