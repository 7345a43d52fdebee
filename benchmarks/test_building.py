"""What is done once or at a desk: calibration, plans for a GPU, a step of training."""

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from perf_models import MODELS, Made, drawn_clips
from perf_ratios import ratio, rounds
from pytest_benchmark.fixture import BenchmarkFixture

from vad_calibration.inputs import ArrayInputs
from vad_calibration.placement import activation_tensors, quantisable_layers
from vad_calibration.ranges import ranges_from_inputs
from vad_export.precision_config import PrecisionConfig

PLANS = ("stae", "c3d", "r3d_18")


@pytest.mark.parametrize("key", ["stae", "c3d"])
def test_ranges_for_int8(
    benchmark: BenchmarkFixture, made_of: Callable[[str], Made], full: bool, key: str
) -> None:
    """Two clips through the graph, and a histogram of every tensor that int8 needs."""
    benchmark.group = "calibration: ranges from two clips"
    if not full and key == "c3d":
        pytest.skip("the twin was run already")
    made = made_of(key if full else "stae_twin")
    manifest = made.bundle.manifest
    file = made.bundle.file(manifest.artefacts["fp32"])
    model, config = onnx.load(file), PrecisionConfig()
    tensors = activation_tensors(model, quantisable_layers(model, config.layers), config.layers)
    inputs = ArrayInputs(drawn_clips(manifest.clip, 2, seed=0))
    del model
    gc.collect()
    found = benchmark.pedantic(
        lambda: ranges_from_inputs(file, tensors, inputs), rounds=2 if full else 1
    )
    assert found.inputs == 2
    limits = found.limits(config.method)
    assert set(limits) == set(tensors)
    assert all(np.isfinite(limit) and limit > 0 for limit in limits.values())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("key", PLANS)
def test_build_a_tensorrt_rtx_plan(
    benchmark: BenchmarkFixture,
    made_of: Callable[[str], Made],
    full: bool,
    key: str,
    precision: str,
) -> None:
    """TensorRT-RTX builds without a GPU; nothing of the plan runs here."""
    from vad_export.engine.build import engine_from_onnx
    from vad_export.engine.graph_facts import graph_facts
    from vad_export.engine.settings import EngineSettings, target_for
    from vad_runtime.contracts import VadError

    benchmark.group = f"TensorRT-RTX plan, {precision}"
    if not full and key != PLANS[0]:
        pytest.skip("the twin was built already")
    made = made_of(key if full else "stae_twin")
    file = made.bundle.file(made.bundle.manifest.artefacts[precision])
    settings = EngineSettings(flavour="rtx")
    target = target_for(settings)
    lines: list[str] = []
    try:
        plan = benchmark.pedantic(
            lambda: engine_from_onnx(graph_facts(file), target, settings, lines.append),
            rounds=2 if full else 1,
        )
    except VadError as error:
        if "pip install" not in str(error):
            raise
        pytest.skip(str(error))
    assert plan.content.nbytes > 10_000
    benchmark.extra_info["bytes"] = plan.content.nbytes


def test_a_training_step(benchmark: BenchmarkFixture, board: Any, full: bool) -> None:
    """Forward, loss, backward and Adam of the STAE: our fast step beside PyTorch's plain one."""
    import torch

    from vad_training.losses import prediction_weights, stae_loss
    from vad_training.models import STAE
    from vad_training.models.fast import fast_step

    benchmark.group = "training: both steps of the STAE in turn"
    size, batch, frames = (128, 2, 16) if full else (32, 1, 8)
    video = torch.rand(batch, 1, 2 * frames, size, size, generator=torch.Generator().manual_seed(0))
    clips, future = video[:, :, :frames].contiguous(), video[:, :, frames:].contiguous()
    mask = torch.ones(batch, frames, dtype=torch.bool)
    weights = prediction_weights("source", frames)
    losses: dict[str, list[float]] = {"plain": [], "fast": []}

    def step(name: str) -> Callable[[], None]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = STAE().train()
        forward = fast_step(model, "fp32") if name == "fast" else model
        optimiser = torch.optim.Adam(model.parameters(), 1e-4)

        def once() -> None:
            reconstruction, prediction = forward(clips)
            loss = stae_loss(reconstruction, prediction, clips, future, mask, weights).total
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            losses[name].append(float(loss.detach()))

        return once

    calls = {name: step(name) for name in losses}
    held: dict[str, Any] = {}
    count = 6 if full else 1
    benchmark.pedantic(
        lambda: held.update(rounds(calls, count=count, max_s=30.0, warm_up=1)), rounds=1
    )
    # Both learn, and learn the same; rounding differs, and Adam's first steps make much of it.
    assert losses["fast"][-1] < losses["fast"][0]
    np.testing.assert_allclose(losses["fast"], losses["plain"], rtol=0.02)
    seconds = {name: float(np.median(one.wall_ms)) / batch / 1e3 for name, one in held.items()}
    faster = ratio(held["plain"].wall_ms, held["fast"].wall_ms)
    rows = [[name, value, None] for name, value in seconds.items()]
    rows[1][2] = str(faster)
    board.table(
        "STAE, a step of training, fp32", ["step", "s a clip", f"x plain ({faster.kind})"], rows
    )


def test_what_making_a_bundle_took(
    benchmark: BenchmarkFixture, board: Any, made_of: Callable[[str], Made], full: bool
) -> None:
    """From the notes beside the kept bundles: the times of the day on which they were made."""
    benchmark.group = "notes of the kept bundles"
    keys = [key for key, model in MODELS.items() if model.twin != full]
    made = benchmark.pedantic(lambda: [made_of(key) for key in keys], rounds=1)
    rows = [
        [
            one.model.name,
            one.about["export_s"],
            one.about["passes_s"],
            one.about["calibration_s"] / one.about["calibration_clips"],
            str(one.about["layers"]),
            one.about["nncf_s"],
        ]
        for one in made
    ]
    head = ["model", "export s", "passes s", "calibration s a clip", "int8 layers", "NNCF s"]
    board.table("Making a bundle, when it was made", head, rows)
    assert all(one.about["layers"] > 0 for one in made)
