"""What the benchmarks share: what they were measured on, and one board for their tables.

python benchmarks/perf_models.py         makes the bundles, once; else the first run does
pytest benchmarks                        measures everything
pytest benchmarks --benchmark-disable    looks whether everything works, with small twins
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's import mode puts no folder there

BOARD = pytest.StashKey[list[str]]()
MACHINE = pytest.StashKey[dict[str, Any]]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the board, note the machine, say where compiled peers are kept before torch is there."""
    from perf_machine import load, machine_lines
    from perf_models import cache_folder

    config.stash[BOARD] = []
    config.stash[MACHINE] = {"lines": machine_lines(), "load": load()}
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Name device, threads, versions and clocks, once, above the tables."""
    mode = (
        "everything once, small twins of the models: nothing is measured"
        if not measuring(config)
        else "measuring; ratios within a round are what can be trusted"
    )
    return [*config.stash[MACHINE]["lines"], f"benchmarks: {mode}"]


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Put what the benchmarks ran on, and its load before them, into the JSON."""
    machine_info["vad_edge"] = config.stash[MACHINE]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that takes `model` every model, or the twins where nothing is measured."""
    from perf_models import FULL, TWINS

    if "model" in metafunc.fixturenames:
        metafunc.parametrize("model", FULL if measuring(metafunc.config) else TWINS)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the tables and the targets below those of pytest-benchmark."""
    lines = config.stash[BOARD]
    if lines and measuring(config):
        terminalreporter.section("performance")
        for line in lines:
            terminalreporter.line(line)


def measuring(config: pytest.Config) -> bool:
    """Return whether times count in this run."""
    return not config.getoption("benchmark_disable")


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    """Whether this run measures: large models, many rounds, whole processes."""
    return measuring(pytestconfig)


@pytest.fixture(scope="session")
def made_of(pytestconfig: pytest.Config) -> Callable[[str], Any]:
    """Return a function that gives a model's bundle, made once and kept."""
    from perf_models import made

    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{line}", flush=True)

    return lambda key: made(key, say)


@pytest.fixture(scope="session")
def peak(full: bool) -> Callable[[], dict[str, float]]:
    """Return a function that measures the processor's peak by kind of arithmetic.

    1e9 operations a second; {} = not known.
    """
    from perf_peak import peak as measured

    from vad_runtime.backends.checks import usable_threads

    return lambda: measured(usable_threads(), 0.3) if full else {}


@pytest.fixture
def board(benchmark: Any, pytestconfig: pytest.Config) -> Iterator[Any]:
    """Where a test puts its table and its targets: terminal and JSON show them."""
    from perf_board import Board

    made = Board(benchmark)
    yield made
    pytestconfig.stash[BOARD] += made.lines()


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory, full: bool) -> Path:
    """A drawn film of 320 x 240 at 25 frames a second, H.264."""
    from helpers import moving_blob, write_video

    count = 208 if full else 40  # whole clips, few enough for PyTorch
    images = moving_blob(count, height=240, width=320)
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", images, fps=25)
