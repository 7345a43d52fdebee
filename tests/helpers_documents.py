"""Fenced blocks of the documents, and how to run them. Import it as `helpers_documents`."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
RUN = ("bash", "python")
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\s*$")
NOT_RUN = re.compile(r"<!--\s*not run:(?P<reason>.*)-->")


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
        fence = FENCE.match(line)
        if start is None and fence is not None:
            start, language, body = number, fence["language"], []
        elif start is not None and line.strip() == "```":
            note = NOT_RUN.fullmatch(above.strip())
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


def run(block: Block, room: Path) -> str:
    """Run a block as a reader would, the installed commands first in PATH; its standard output."""
    text = re.sub(r"(--minutes)[ =]\S+", r"\1 0.1", block.text)
    text = re.sub(r"(--target-ms)[ =]\S+", r"\1 10000", text)
    if "--target-ms" not in text:
        text = re.sub(r"(vad-export deploy)\b", r"\1 --target-ms 10000", text)
    text = re.sub(r"(--count)[ =]\S+", r"\1 8", text)
    text = re.sub(r"(--rounds)[ =]\S+", r"\1 5", text)
    shell = ["bash", "-euo", "pipefail", "-c", text]
    program = shell if block.language == "bash" else [sys.executable, "-c", text]
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "VAD_CACHE": str(room / ".cache")}
    done = subprocess.run(
        program, cwd=room, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{block.place}\n{text}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr, f"{block.place}\n{done.stderr}"
    return done.stdout
