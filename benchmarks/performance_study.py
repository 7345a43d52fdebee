"""One full run of the suites as a page: docs/results/performance.md, its tables and its plots.

    python benchmarks/performance_study.py --write docs/results/performance.md

Runs `pytest benchmarks` in a process of its own and reads its JSON; `--json FILE` reads one that is
there. The plots are written beside the page, in a folder of its name. Use a machine that does
nothing else: the page says how busy it was before. Machine and load are those of the run, which
the JSON holds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from perf_page import page
from perf_plots import save_plots

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "python benchmarks/performance_study.py --write docs/results/performance.md"


def parsed() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="Write the page there; else it is printed.")
    parser.add_argument("--json", type=Path, help="The JSON of a run; else one is made now.")
    parser.add_argument("--only", help="Of the run: only tests that pytest's -k takes.")
    return parser.parse_args()


def run_suites(file: Path, only: str | None) -> float:
    """Run the suites; return how long they took, seconds."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "benchmarks", f"--benchmark-json={file}"]
    done = subprocess.run([*command, *(["-k", only] if only else [])], cwd=ROOT, stdout=sys.stderr)
    if done.returncode != 0:
        raise SystemExit(f"the suites ended with code {done.returncode}: no page is written.")
    return time.perf_counter() - begun


def main() -> None:
    """Run, draw, write."""
    args = parsed()
    with tempfile.TemporaryDirectory() as folder:
        file = args.json or Path(folder) / "run.json"
        seconds = None if args.json else run_suites(file, args.only)
        found: dict[str, Any] = json.loads(file.read_text())
    tests = found["benchmarks"]
    ran_on = found.get("machine_info", {}).get("vad_edge", {})
    pictures: dict[str, str] = {}
    if args.write:
        beside = args.write.with_suffix("")
        pictures = {
            name: f"{beside.name}/{file.name}" for name, file in save_plots(tests, beside).items()
        }
    text = page(
        tests,
        pictures,
        machine=ran_on.get("lines", ["machine: not kept"]),
        made=found["datetime"][:10],
        command=COMMAND
        + (f" --only '{args.only}'" if args.only else "")
        + (f" --json {args.json.name}" if args.json else ""),
        seconds=seconds,
        busy=ran_on.get("load", "load not kept"),
    )
    if args.write:
        args.write.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
