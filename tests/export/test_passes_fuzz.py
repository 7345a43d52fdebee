"""Drawn graphs that end in a sum over a picture score the same with blocks of pixels."""

from typing import Any

import numpy as np
import onnx
from helpers_passes import Node, make, run
from onnx import TensorProto

from vad_export.passes import PASSES

SEEDS = 200
_UNARY = ("Abs", "Identity", "LeakyRelu", "Neg", "Relu", "Sigmoid", "Tanh")
_BINARY = ("Add", "Div", "Mul", "Sub")


class Drawing:
    """Draws a graph of grey clips: code, decoded picture, difference, sum.

    Args:
        seed: Of everything drawn.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.values: dict[str, np.ndarray] = {}
        self.rank = self.one_of(2, 3)
        self.sizes = [self.one_of(1, 2, 3, 4, 5, 6, 8, 12) for _ in range(self.rank)]

    def one_of(self, *choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def constant(self, value: Any) -> str:
        name = f"c{len(self.values)}"
        self.values[name] = np.asarray(value)
        return name

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append((kind, inputs, name, attributes))
        return name

    def conv(self, source: str, inputs: int, outputs: int) -> str:
        kernel = [self.one_of(1, 3, 5) for _ in self.sizes]
        weight = self.rng.normal(0, 0.02 if inputs == 1 else 0.2, (outputs, inputs, *kernel))
        read = [source, self.constant(weight.astype(np.float32))]
        if self.chance(0.5):
            read.append(self.constant(self.rng.normal(0, 1, outputs).astype(np.float32)))
        return self.add("Conv", read, pads=[k // 2 for k in kernel] * 2)

    def part(self, source: str, window: tuple[int, int, int, int]) -> str:
        begin, end, axis, step = window
        axis += self.one_of(2, -self.rank)
        return self.add("Slice", [source, *(self.constant([v]) for v in (begin, end, axis, step))])

    def by_itself(self, source: str) -> str:
        """Add a step that works on each pixel by itself."""
        if self.chance(0.5):
            kind = self.one_of(*_UNARY)
            return self.add(kind, [source], **({"alpha": 0.3} if kind == "LeakyRelu" else {}))
        kind = self.one_of(*_BINARY)
        value = self.constant(self.one_of(np.float32(1.5), np.array([0.7], np.float32)))
        swapped = kind != "Div" and self.chance(0.3)
        return self.add(kind, [value, source] if swapped else [source, value])

    def target(self, window: tuple[int, int, int, int] | None) -> str:
        """Add what the decoded picture is compared with: the clip, cut and scaled in any order."""
        steps = [step for step, on in (("part", window), ("scale", self.chance(0.7))) if on]
        self.rng.shuffle(steps)
        found = "x"
        for step in steps:
            if step == "part" and window is not None:
                found = self.part(found, window)
            else:
                kind, value = self.one_of(("Div", 255), ("Mul", 1 / 255))
                found = self.add(kind, [found, self.constant(np.float32(value))])
        return found

    def graph(self) -> onnx.ModelProto:
        sizes, turned = list(self.sizes), [0, self.rank + 1, *range(1, self.rank + 1)]
        self.nodes += [
            ("Transpose", ["clip"], "turned", {"perm": turned}),
            ("Cast", ["turned"], "x", {"to": TensorProto.FLOAT}),
        ]
        axis, window = int(self.rng.integers(self.rank)), None
        if sizes[axis] > 2 and self.chance(0.4):
            begin = int(self.rng.integers(sizes[axis] - 1))
            end = int(self.rng.integers(begin + 1, sizes[axis] + 1))
            window = begin, end, axis, self.one_of(1, 1, 2)
        code = self.conv(self.part("x", window) if window else "x", 1, 6)
        current = self.conv(self.add("Relu", [code]), 6, self.one_of(1, 1, 1, 2, 4))
        for _ in range(self.one_of(0, 1, 2)):
            current = self.by_itself(current)
        if self.chance(0.8):
            pair = [current, self.target(window)]
            current = self.add("Sub", pair[:: self.one_of(1, -1)])
        # Sums of both signs cancel out, and what is left is rounding.
        squares = self.chance(0.5)
        current = self.add(*(("Mul", [current] * 2) if squares else ("Abs", [current])))
        return self.summed(current)

    def summed(self, current: str) -> onnx.ModelProto:
        axes = [1, *(a + 2 for a in range(self.rank) if self.chance(0.6))]
        self.rng.shuffle(axes)
        axes = [int(a) - self.one_of(0, self.rank + 2) for a in axes]
        kind, keep, opset = (
            self.one_of("ReduceSum", "ReduceMean"),
            self.one_of(0, 1),
            self.one_of(17, 18),
        )
        about: dict[str, Any] = {} if keep and self.chance(0.5) else {"keepdims": keep}
        inputs = [current]
        if kind == "ReduceSum" or opset == 18:
            inputs.append(self.constant(axes))
        else:
            about["axes"] = axes
        self.nodes.append((kind, inputs, "y", about))
        return make(
            self.nodes,
            self.values,
            (*self.sizes, 1),
            source="clip",
            dtype=TensorProto.UINT8,
            rank=self.rank + 2 - (0 if keep else len(axes)),
            batch=self.one_of("N", 1, 2),
            opset=opset,
        )


def test_drawn_graphs_score_the_same_in_blocks() -> None:
    blocked = summed = 0
    for seed in range(SEEDS):
        model = Drawing(seed).graph()
        first = model.graph.input[0].type.tensor_type.shape.dim[0]
        count = first.dim_value or 1 + seed % 3
        before, sums = run(model, count), reductions(model)
        if not PASSES["output_blocking"](model):
            continue
        blocked += 1
        summed += reductions(model) > sums
        onnx.checker.check_model(model, full_check=True)
        for old, new in zip(before, run(model, count), strict=True):
            assert old.shape == new.shape, seed
            assert np.abs(new - old).max() <= 2e-5 * np.abs(old).max(), seed
        again = model.SerializeToString(deterministic=True)
        assert PASSES["output_blocking"](model) == 0, seed
        assert model.SerializeToString(deterministic=True) == again, seed
    # The drawing is worth its time: many convolutions in blocks, and many sums.
    assert blocked > SEEDS / 2
    assert summed > SEEDS / 4


def reductions(model: onnx.ModelProto) -> int:
    return sum(node.op_type.startswith("Reduce") for node in model.graph.node)
