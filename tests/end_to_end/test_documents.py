"""Every command and program in README, docs and the component READMEs runs as it stands there.

Each document gets a folder of its own with what its commands name (`PREPARED`); its ```bash and
```python blocks run there in order. Two things are different from what a reader does:

* `--minutes X` becomes `--minutes 0.1`.
* A block below a line ``<!-- not run: REASON -->`` is passed over.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import moving_blob, write_video

from vad_runtime.bundle import Bundle

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
FPS = 15
RUN = ("bash", "python")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\s*$")
_NOT_RUN = re.compile(r"<!--\s*not run:(?P<reason>.*)-->")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def documents() -> list[Path]:
    """Return README, CONTRIBUTING, CHANGELOG, the docs and the component READMEs."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")]
    return sorted(path.relative_to(ROOT) for path in found)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: Path
    line: int
    language: str
    text: str
    reason: str | None
    """Why it is not run; None = it is."""

    @property
    def place(self) -> str:
        """Document and line, for messages."""
        return f"{self.document}:{self.line}"


def blocks_of(document: Path) -> list[Block]:
    """Return the fenced blocks of a document that say bash or python."""
    blocks: list[Block] = []
    start: int | None = None
    language, above = "", ""
    body: list[str] = []
    for number, line in enumerate((ROOT / document).read_text().splitlines(), start=1):
        fence = _FENCE.match(line)
        if start is None and fence is not None:
            start, language, body = number, fence["language"], []
        elif start is not None and line.strip() == "```":
            note = _NOT_RUN.fullmatch(above.strip())
            reason = note["reason"].strip() if note else None
            if language in RUN:
                blocks.append(Block(document, start, language, "\n".join(body) + "\n", reason))
            start, above = None, ""
        elif start is not None:
            body.append(line)
        elif line.strip():
            above = line
    assert start is None, f"{document}:{start}: the block does not end"
    return blocks


# -- what the documents' commands name -----------------------------------------------------------


def normal(room: Path, bundle: Path) -> None:
    """Make a folder of footage in which nothing unusual happens, enough to train on.

    `deploy` holds one of the clips back, and no threshold is chosen from fewer than 100 frames.
    """
    make_footage(room / "normal", clips=2, frames=105)


def short_normal(room: Path, bundle: Path) -> None:
    """Make the same, shorter: a threshold from all of it."""
    make_footage(room / "normal", clips=3, frames=36)


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


def weights(room: Path, bundle: Path) -> None:
    """Make `model.pth`: random weights in the layout of the published ones."""
    import torch

    from vad_training.models.stae import STAE

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(STAE().state_dict(), room / "model.pth")


PREPARED: dict[str, tuple[Callable[[Path, Path], None], ...]] = {
    "README.md": (normal, night),
    "docs/running.md": (site, short_normal, night),
    "docs/bundle-format.md": (own_site,),
    "docs/training.md": (site, short_normal, night, weights, labelled_videos),
}


# -- the tests -----------------------------------------------------------------------------------


def run(block: Block, room: Path) -> None:
    """Run a block as a reader would, with the installed commands first in PATH."""
    text = re.sub(r"(--minutes)[ =]\S+", r"\1 0.1", block.text)
    shell = ["bash", "-euo", "pipefail", "-c", text]
    program = shell if block.language == "bash" else [sys.executable, "-c", text]
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        program, cwd=room, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{block.place}\n{text}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr, f"{block.place}\n{done.stderr}"


def with_blocks() -> list[str]:
    """Return the documents that have a block to run."""
    return [
        str(document)
        for document in documents()
        if any(block.reason is None for block in blocks_of(document))
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
    notes = len(_NOT_RUN.findall((ROOT / document).read_text()))
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
