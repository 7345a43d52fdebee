"""One fraction out of nested phases, and builds that Ctrl-C stops."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from vad_export.engine.monitor import BuildMonitor, watched
from vad_runtime.commands import Interrupted


def test_the_fraction_only_grows_and_ends_at_one() -> None:
    monitor, seen = BuildMonitor(), [0.0]

    def look() -> None:
        seen.append(monitor.fraction)

    monitor.start("Building engine", None, 4)
    for step in range(4):
        if step == 1:
            for _ in range(2):  # a name comes twice, one after the other
                monitor.start("Tactics", "Building engine", 10)
                for i in range(10):
                    monitor.start("Tactics", "Tactics", 3)  # and inside of itself
                    for j in range(3):
                        assert monitor.step("Tactics", j)
                        look()
                    monitor.finish("Tactics")
                    assert monitor.step("Tactics", i)
                    look()
                monitor.finish("Tactics")
        assert monitor.step("Building engine", step)
        look()
    assert monitor.phase == "Building engine"
    monitor.finish("Building engine")
    look()
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(set(seen)) > 20  # it moved inside of the long step too
    assert monitor.phase == ""


def test_a_phase_that_nobody_started_and_one_without_steps_do_no_harm() -> None:
    monitor = BuildMonitor()
    assert monitor.step("nothing", 3)
    monitor.finish("nothing")
    monitor.start("Building engine", None, 0)
    assert monitor.step("Building engine", 0)
    assert monitor.fraction == 1.0
    monitor.start("Second", "unknown parent", 2)
    assert monitor.step("Second", 0)
    assert monitor.fraction == 1.0


def test_after_a_cancellation_every_step_says_stop() -> None:
    monitor = BuildMonitor()
    monitor.start("Building engine", None, 2)
    assert monitor.step("Building engine", 0)
    monitor.cancel()
    assert not monitor.step("Building engine", 1)
    assert monitor.cancelled


def test_the_builds_value_and_its_error_reach_the_caller() -> None:
    assert watched(lambda: 7, BuildMonitor(), "build", stoppable=True) == 7
    assert watched(lambda: 7, BuildMonitor(), "build", stoppable=False) == 7
    for stoppable in (True, False):
        with pytest.raises(ZeroDivisionError):
            watched(lambda: 1 / 0, BuildMonitor(), "build", stoppable=stoppable)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_stops_a_build_that_runs_in_c() -> None:
    monitor = BuildMonitor()
    steps: list[int] = []

    def build() -> None:
        monitor.start("Building engine", None, 10_000)
        for i in range(10_000):
            time.sleep(0.002)
            if not monitor.step("Building engine", i):
                return
            steps.append(i)

    killer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    killer.start()
    with pytest.raises(Interrupted):
        watched(build, monitor, "build", stoppable=True)
    assert 10 < len(steps) < 5000
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_a_build_that_cannot_be_stopped() -> None:
    end = threading.Event()
    killer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    killer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        watched(lambda: end.wait(20), BuildMonitor(), "build", stoppable=False)
    assert time.monotonic() - start < 5
    end.set()


@pytest.mark.usefixtures("ctrl_c")
def test_a_builder_that_was_left_ends_with_the_process_and_not_in_it() -> None:
    # C++ that calls a Python which is shutting down ends in SIGABRT. So Python must not shut down
    # as it does otherwise, which the handler that was registered first would tell.
    code = """
import atexit, time
from vad_export.engine.monitor import BuildMonitor, watched
from vad_runtime.commands import run_command
import click

@click.command()
def command():
    atexit.register(print, "shut down")
    watched(lambda: print("building", flush=True) or time.sleep(60), BuildMonitor(), "build",
            stoppable=False)

run_command(command)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "building\n"
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=20)
    assert (process.returncode, out, error.strip()) == (130, "", "Interrupted.")
