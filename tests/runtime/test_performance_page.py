"""What the page of the performance suites concludes from peaks and times."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def told(monkeypatch):
    """Return a function that gives a page on models: key, int8 peak, ms of eager, ours and NNCF."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import perf_page
    from perf_models import MODELS
    from perf_peers import EAGER, INT8, NNCF

    def page(*models):
        tests = []
        for key, peak, eager, ours, nncf in models:
            name = f"{MODELS[key].name}: int8, x {EAGER}"
            target = {"name": name, "figure": "x", "sense": "least", "wanted": 7, "unit": ""}
            times = {EAGER: {"wall_ms": eager}, INT8: {"wall_ms": ours}, NNCF: {"wall_ms": nncf}}
            info = {
                "model": key,
                "gop": 80.0,
                "times": times,
                "peak": peak,
                "targets": [{**target, "verdict": "not met"}],
            }
            tests.append({"fullname": "elsewhere.py::test", "extra_info": info})
        more = {"machine": [], "made": "today", "command": "c", "seconds": None, "busy": "no"}
        return perf_page.page(tests, {}, **more)

    return page


def line_of(page, start):
    return next(line for line in page.splitlines() if line.startswith(f"* {start}"))


def test_each_model_is_held_to_the_peak_of_its_own_time(told):
    page = told(
        ("r3d_18", {"int8": 1000.0, "fp32": 250.0}, 600, 100, 110),
        ("c3d", {"int8": 800.0, "fp32": 200.0}, 600, 160, 150),
    )
    assert "int8 800 to 1,000, fp32 200 to 250" in line_of(page, "Peak")
    first = line_of(page, "R3D-18")
    assert "would take 80.0 ms here, 7.5 times as fast" in first
    assert "The target of 7 is within that" in first
    assert first.endswith("53% of the fp32 peak, ours (100.0 ms) 80% of the int8 peak.")
    second = line_of(page, "C3D")
    assert "would take 100.0 ms here, 6.0 times as fast" in second
    assert "The target of 7 is beyond that" in second
    assert second.endswith("62% of the int8 peak.")


def test_an_engine_past_the_peak_is_the_limit(told):
    line = line_of(told(("c3d", {"int8": 400.0, "fp32": 200.0}, 600, 100, 80)), "C3D")
    assert (
        "the fastest engine, OpenVINO int8 by NNCF, passes the peak (padding counts as work)"
        in line
    )
    assert " 80.0 ms here, 7.5 times as fast" in line
    assert "The target of 7 is within that" in line
    assert line.endswith("ours (100.0 ms) 200% of the int8 peak.")


def test_without_int8_instructions_nothing_is_concluded(told):
    page = told(("c3d", {"fp32": 200.0}, 600, 100, 80))
    assert "fp32 200 to 200" in line_of(page, "Peak")
    assert "limit of this processor" not in page
