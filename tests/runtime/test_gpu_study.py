"""benchmarks/gpu_study.py is run where GPUs are rare, so one bad row must not lose the others."""

import argparse
import importlib.util
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from vad_runtime.bundle import Bundle
from vad_runtime.contracts import BackendError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_study.py"


@pytest.fixture(scope="module")
def study() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("gpu_study", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asked(bundle: Path) -> argparse.Namespace:
    return argparse.Namespace(bundle=[f"stae={bundle}"], device="cuda", rounds=5)


def later(seconds: float = 200.0) -> float:
    return time.perf_counter() + seconds


def test_a_row_that_fails_while_it_is_timed_loses_only_itself(
    study: ModuleType, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def infer(clips: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise RuntimeError("an illegal memory access was encountered")
        return {"score": np.zeros(len(clips), np.float32)}

    torch_row = (infer, lambda: None, "a GPU that breaks", {"open_s": 0.0})
    monkeypatch.setattr(study, "torch_baseline", lambda *_: torch_row)
    reference = {study.REFERENCE: study.ROWS[study.REFERENCE]}
    monkeypatch.setattr(study, "ROWS", reference)
    found = study.model_rows(asked(tiny_bundle.path), "stae", Path(), later())
    assert found[study.REFERENCE]["times"].rounds == 5
    assert found[study.TORCH]["failed"] == "an illegal memory access was encountered"
    text = "\n".join(study.table(found))
    assert f"| {study.TORCH} | not measured |" in text
    assert f"* {study.TORCH}: an illegal memory access was encountered" in text


def test_a_model_without_a_bundle_is_measured_in_pytorch_all_the_same(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def infer(clips: Any) -> Any:
        return {"score": np.zeros(len(clips), np.float32)}

    torch_row = (infer, lambda: None, "a GPU", {"open_s": 0.0})
    monkeypatch.setattr(study, "torch_baseline", lambda *_: torch_row)
    monkeypatch.setattr(study, "shape_of", lambda _: (4, 8, 8, 1))
    found = study.model_rows(asked(tmp_path / "none.vad"), "stae", tmp_path, later())
    assert found[study.TORCH]["times"].rounds == 5
    assert "none.vad" in found[study.REFERENCE]["failed"]


def test_rows_for_which_no_time_is_left_say_so(study: ModuleType, tiny_bundle: Bundle) -> None:
    found = study.model_rows(asked(tiny_bundle.path), "stae", Path(), later(1.0))
    assert set(found) == {*study.ROWS, study.TORCH}
    assert all("--minutes" in row["failed"] for row in found.values())


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("import sys; sys.exit('Error: SM 90 is not in the plan')", ": SM 90 is not in the plan"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
def test_what_ends_a_process_of_its_own_is_the_reason_of_its_row(
    study: ModuleType, code: str, said: str
) -> None:
    with pytest.raises(BackendError, match=f"does not run: .*{said.removeprefix(': ')}"):
        study.run_alone("does not run", ["-c", code], later())


def test_a_cuda_module_that_crashes_is_a_row_and_not_the_end(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "study.py"
    script.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(study, "__file__", str(script))
    assert study.cuda_found("cuda") == {"failed": "did not run: ended by SIGSEGV"}
    script.write_text('print(\'{"package": "cuda-bindings 13"}\')')
    assert study.cuda_found("cuda") == {"package": "cuda-bindings 13"}


def test_a_process_that_hangs_is_given_up(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "LEAST_S", 0.2)
    with pytest.raises(BackendError, match="it had not ended after"):
        study.run_alone("does not run", ["-c", "import time; time.sleep(60)"], later(-1.0))
