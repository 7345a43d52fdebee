"""Measure the training step of the STAE on a CPU: the plain step and each improvement to it.

    python benchmarks/training_speed_study.py --write docs/results/training_speed.md

Each variant lives in a process of its own (an allocator setting cannot be taken back), and the
processes take turns in shuffled rounds: on a shared machine only such neighbours can be compared.
A turn is one step to warm up and one timed step: forward, loss, backward, Adam.

Wall time with two threads is what a user waits for, but needs an idle machine: on a busy one each
thread waits for the other. `--threads 1` counts CPU time instead, which waiting does not lengthen.
"""

import argparse
import ctypes
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH, FRAMES, SIZE = 4, 16, 128
DATE = "2026-11-21"
MARKER = "<!-- measured: written by benchmarks/training_speed_study.py -->"


@dataclass(frozen=True)
class Variant:
    """One way to take the step; the flags are read by `make_step`."""

    name: str
    flags: str
    environment: tuple[tuple[str, str], ...] = ()


VARIANTS = (
    Variant("plain fp32, eager (baseline)", "plain"),
    Variant("+ freed memory stays (`keep_freed_memory`)", "plain heap"),
    Variant("+ channels-last weights and clips", "plain heap cl"),
    Variant("+ channels-last strides for 1 channel", "fast heap no-one no-norm no-bias"),
    Variant("+ `conv_to_one_channel`", "fast heap no-norm no-bias"),
    Variant("+ no gradient for biases before a norm", "fast heap no-norm"),
    Variant("+ accurate norm = **`fast_step` fp32**", "fast heap"),
    Variant("**`fast_step` bf16**", "fast heap bf16"),
    Variant("channels-last alone, no allocator setting", "plain cl"),
    Variant("`fast_step` fp32 without `keep_freed_memory`", "fast"),
    Variant("`fast_step` fp32, huge pages too", "fast heap", (("THP_MEM_ALLOC_ENABLE", "1"),)),
    Variant("`fast_step` fp32, Adam(fused=True)", "fast heap fused"),
    Variant("plain, bf16 autocast (gradients wrong)", "plain autocast"),
    Variant("plain, bf16 autocast + channels-last (wrong)", "plain autocast cl"),
)
SHORT = 8
"""So many of the variants build the fast step; the others answer side questions."""
COMPILE = Variant("`torch.compile`, channels-last, fp32", "plain heap cl compile")


def make_step(flags: set[str], threads: int) -> Callable[[], float]:
    """Build the model of a variant; the result takes one training step and returns its loss."""
    import torch
    from torch.nn import functional

    from vad_training.losses import prediction_weights, stae_loss
    from vad_training.models import STAE, fast
    from vad_training.models.heap import keep_freed_memory

    if "heap" in flags:
        keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = STAE().train()
    video = torch.rand(BATCH, 1, 2 * FRAMES, SIZE, SIZE)
    clips, future = video[:, :, :FRAMES].contiguous(), video[:, :, FRAMES:].contiguous()
    mask = torch.ones(BATCH, FRAMES, dtype=torch.bool)
    weights = prediction_weights("source", FRAMES)
    if "cl" in flags:
        for parameter in model.parameters():
            if parameter.dim() == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
        clips = clips.contiguous(memory_format=torch.channels_last_3d)

    # Take single parts out of the fast step again: only this study needs that.
    hidden: Any = fast
    if "no-one" in flags:
        hidden.conv_to_one_channel = lambda x, w, b: functional.conv3d(x, w, b, padding=1)
    if "no-norm" in flags:
        hidden.norm_and_leaky_relu = lambda x, norm, slope: functional.leaky_relu_(norm(x), slope)
    if "no-bias" in flags:
        hidden._BiasBeforeNorm.apply = lambda weight, bias: (weight, bias)

    forward: Callable[..., Any] = model
    if "fast" in flags:
        forward = fast.fast_step(model, "bf16" if "bf16" in flags else "fp32")
    if "compile" in flags:
        forward = torch.compile(model)
    optimizer = torch.optim.Adam(
        model.parameters(), 1e-4, weight_decay=1e-5, fused=True if "fused" in flags else None
    )

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled="autocast" in flags):
            reconstruction, prediction = forward(clips)
        loss = stae_loss(reconstruction, prediction, clips, future, mask, weights).total
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        return float(loss.detach())

    return step


def worker(flags: str, threads: int) -> None:
    """Answer each line on stdin by one turn: the seconds of the timed step and its loss."""
    step = make_step(set(flags.split()), threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    for _line in sys.stdin:
        step()
        start = clock()
        loss = step()
        seconds = clock() - start
        if sys.platform.startswith("linux"):
            ctypes.CDLL(None).malloc_trim(0)  # the other processes need the memory meanwhile
        print(json.dumps([seconds, loss]), flush=True)


def measure(variants: tuple[Variant, ...], rounds: int, threads: int) -> dict[Variant, list[float]]:
    """Seconds a step of each variant, `rounds` values, taken in shuffled turns."""
    processes: dict[Variant, subprocess.Popen[str]] = {
        v: subprocess.Popen(
            [sys.executable, __file__, "--worker", v.flags, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | dict(v.environment),
        )
        for v in variants
    }
    seconds: dict[Variant, list[float]] = {v: [] for v in variants}
    losses: dict[Variant, float] = {}
    order = list(variants)
    for turn in range(rounds + 1):
        random.Random(turn).shuffle(order)
        for variant in order:
            process = processes[variant]
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("step\n")
            process.stdin.flush()
            taken, loss = json.loads(process.stdout.readline())
            if turn == 0:  # the first turn loads code and fills caches
                losses[variant] = loss
            else:
                seconds[variant].append(taken)
        print(f"round {turn} of {rounds} done", file=sys.stderr, flush=True)
    for process in processes.values():
        process.communicate()
    expected = losses[variants[0]]
    for variant, loss in losses.items():
        # The answer first: a fast step that computes something else is no improvement.
        assert "autocast" in variant.flags or abs(loss / expected - 1) < 2e-2, (variant, loss)
    return seconds


def loss_curves(steps: int = 160) -> str:
    """Train three times on the same smooth clips; the markdown table of the losses."""
    import torch

    from vad_training.losses import prediction_weights, stae_loss
    from vad_training.models import STAE
    from vad_training.models.fast import fast_step
    from vad_training.models.heap import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(1)  # so small clips gain nothing from a second one
    weights = prediction_weights("source", FRAMES)
    mask = torch.ones(2, FRAMES, dtype=torch.bool)
    curves: dict[str, list[float]] = {"plain fp32": [], "fast fp32": [], "fast bf16": []}
    largest_norm: dict[str, float] = {}
    for name, losses in curves.items():
        torch.manual_seed(0)
        model = STAE().train()
        step = model if name == "plain fp32" else fast_step(model, name.split()[1])  # type: ignore[arg-type]
        optimizer = torch.optim.Adam(model.parameters(), 1e-4, weight_decay=1e-5)
        for _ in range(steps):
            # Noise, made smooth in space and drifting in time: seeded, so the same for all three.
            noise = torch.nn.functional.interpolate(torch.rand(2, 1, 8, 4, 4), (40, 32, 32))
            video = torch.nn.functional.avg_pool3d(noise, (9, 9, 9), 1, (0, 4, 4))
            clips, future = video[:, :, :FRAMES], video[:, :, FRAMES:]
            reconstruction, prediction = step(clips)
            loss = stae_loss(reconstruction, prediction, clips, future, mask, weights).total
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            # Refuses a gradient that is not finite.
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9, error_if_nonfinite=True)
            largest_norm[name] = max(largest_norm.get(name, 0.0), float(norm))
            optimizer.step()
            losses.append(float(loss.detach()))
    at = [0, 9, 19, 39, 79, 119, steps - 1]
    lines = ["| step | " + " | ".join(str(i + 1) for i in at) + " | largest gradient norm |"]
    lines.append("|" + "---|" * (len(at) + 2))
    for name, losses in curves.items():
        values = " | ".join(f"{losses[i]:.4f}" for i in at)
        lines.append(f"| {name} | {values} | {largest_norm[name]:.2f} |")
    fp32, bf16 = torch.tensor(curves["plain fp32"]), torch.tensor(curves["fast bf16"])
    worst = float(((bf16 - fp32).abs() / fp32).max())
    mean = float(((bf16 - fp32).abs() / fp32).mean())
    lines.append(
        f"\nAll gradients of all {steps} steps were finite. bf16 against plain fp32: the losses "
        f"differ by {100 * mean:.2f} % on average and {100 * worst:.1f} % at most."
    )
    return "\n".join(lines)


def machine(threads: int) -> str:
    """The lines that say where the numbers come from."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            s.split(":")[1].strip() for s in info.read_text().splitlines() if "model name" in s
        ]
        flags = "avx512_bf16" if "avx512_bf16" in info.read_text() else "no avx512_bf16"
        cpu = f"{names[0]} ({len(names)} cores, {flags})" if names else cpu
    clock = "CPU time" if threads == 1 else "wall time"
    return (
        f"CPU: {cpu}; threads: {threads} ({clock}); PyTorch {torch.__version__}; Python "
        f"{platform.python_version()}; batch {BATCH}, clips of {FRAMES}x{SIZE}x{SIZE}, forward + "
        f"loss + backward + Adam."
    )


def table(seconds: dict[Variant, list[float]]) -> str:
    """The markdown table: medians, spread, and the ratio to the baseline within each round."""
    baseline = next(iter(seconds.values()))
    lines = [
        "| variant | s/clip, median | min - max | clips/s | faster than plain (median of rounds) |",
        "|---|---|---|---|---|",
    ]
    for variant, values in seconds.items():
        per_clip = [v / BATCH for v in values]
        median = statistics.median(per_clip)
        ratio = statistics.median(b / v for b, v in zip(baseline, values, strict=True))
        lines.append(
            f"| {variant.name} | {median:.3f} | {min(per_clip):.3f} - {max(per_clip):.3f} "
            f"| {1 / median:.2f} | {ratio:.2f}x |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--short", action="store_true", help="leave out the side questions")
    parser.add_argument("--compile", action="store_true", help="also torch.compile (needs g++)")
    parser.add_argument(
        "--curves", action="store_true", help="measure no speed, train 3 x 160 steps"
    )
    parser.add_argument("--write", type=Path, help="put the table into this document")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.threads)
        return
    if arguments.curves:
        print(loss_curves())
        return
    variants = VARIANTS[:SHORT] if arguments.short else VARIANTS
    if arguments.compile:
        variants += (COMPILE,)
    result = (
        f"{MARKER}\n{machine(arguments.threads)} Date: {DATE}. {arguments.rounds} shuffled "
        "rounds.\n\n"
        f"{table(measure(variants, arguments.rounds, arguments.threads))}\n{MARKER}"
    )
    print(result)
    if arguments.write:
        document = arguments.write.read_text() if arguments.write.exists() else f"{MARKER}{MARKER}"
        before, _, after = document.split(MARKER)
        arguments.write.write_text(before + result + after)


if __name__ == "__main__":
    main()
