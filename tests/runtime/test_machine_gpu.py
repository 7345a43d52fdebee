"""Facts about a machine with a GPU, for reports."""

import pytest
from helpers_plans import gpu

from vad_runtime import machine
from vad_runtime.contracts import NoDriverError
from vad_runtime.cuda.driver import Driver
from vad_runtime.machine import gpu_facts, machine_facts


def test_without_a_driver_nothing_is_said_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "driver_installed", lambda: False)
    monkeypatch.setattr(machine, "driver", lambda: pytest.fail("asked for nothing"))
    assert gpu_facts() == {}
    assert "gpu" not in machine_facts()


def test_gpus_driver_cuda_and_jetson_linux_are_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Driver(cuda="12.6", kernel="540.4", gpus=(gpu(), gpu(index=1), gpu(name="A2")))
    monkeypatch.setattr(machine, "driver_installed", lambda: True)
    monkeypatch.setattr(machine, "driver", lambda: found)
    monkeypatch.setattr(machine, "l4t", lambda: "36.4.0")
    facts = machine_facts()
    assert facts["gpu"] == "Orin (SM 87), A2 (SM 87)"
    assert (facts["driver"], facts["cuda"], facts["l4t"]) == ("540.4", "12.6", "36.4.0")


def test_a_driver_that_does_not_start_is_no_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Driver:
        raise NoDriverError("It does not start.")

    monkeypatch.setattr(machine, "driver_installed", lambda: True)
    monkeypatch.setattr(machine, "driver", broken)
    assert gpu_facts() == {}
