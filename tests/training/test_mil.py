"""Heads of the family mil."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_one_line
from scipy.io import savemat

from vad_runtime.contracts import InputError
from vad_training.config.mil import HeadConfig
from vad_training.models.mil import (
    RtfmHead,
    SultaniHead,
    TopKHead,
    head_from_matlab,
    head_from_weights,
    mil_head,
)


def write_matlab(path: Path, sizes: tuple[int, ...] = (6, 4, 3, 1)) -> list[tuple[Any, Any]]:
    """Write a head as the original code does: a cell a layer, an empty one for each dropout."""
    rng = np.random.default_rng(0)
    layers = []
    content: dict[str, Any] = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        cell = np.zeros(2, dtype=object)
        cell[0] = rng.normal(size=(inputs, outputs)).astype(np.float32)
        cell[1] = rng.normal(size=outputs).astype(np.float32)
        content[str(2 * i)] = cell
        content[str(2 * i + 1)] = np.zeros(0, dtype=object)
        layers.append((cell[0], cell[1]))
    savemat(str(path), content)
    return layers


def test_the_head_is_relu_then_linear_then_sigmoid() -> None:
    head = SultaniHead(2, (1, 1), dropout=0.6).eval()
    with torch.no_grad():
        for layer, weight, bias in zip(head.layers, (1.0, -2.0, 1.0), (0.0, 0.5, 0.0), strict=True):
            layer.weight.fill_(weight)  # type: ignore[operator]
            layer.bias.fill_(bias)  # type: ignore[operator]
    scores = head(torch.tensor([[[1.0, 2.0], [-1.0, -2.0]]]))
    # first: relu(3) = 3; -2 * 3 + 0.5 = -5.5, which no ReLU cuts off. Second: relu(-3) = 0; 0.5.
    assert scores[0].tolist() == pytest.approx([1 / (1 + np.exp(5.5)), 1 / (1 + np.exp(-0.5))])


def test_weights_are_xavier_normal_and_biases_zero() -> None:
    torch.manual_seed(0)
    head = SultaniHead(4096)
    first = head.layers[0]
    assert isinstance(first, torch.nn.Linear)
    assert float(first.weight.detach().std()) == pytest.approx((2 / (4096 + 512)) ** 0.5, rel=0.01)
    assert all(not bool(layer.bias.any()) for layer in head.layers)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("kind", "type_"), [("sultani", SultaniHead), ("topk", TopKHead), ("rtfm", RtfmHead)]
)
def test_every_head_scores_each_segment_by_itself(kind: Any, type_: type) -> None:
    torch.manual_seed(0)
    head = mil_head(HeadConfig(kind=kind, hidden=(8, 4)), 5).eval()
    assert type(head) is type_
    bags = torch.randn(2, 32, 5)
    scores = head(bags).detach()
    assert scores.shape == (2, 32)
    assert float(scores.min()) > 0
    assert float(scores.max()) < 1
    assert torch.allclose(head(bags[1:, 7:8]), scores[1:, 7:8], atol=1e-6)


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    head = SultaniHead(8, (16, 8))
    bags = torch.randn(1, 4, 8)
    assert not torch.equal(head.train()(bags), head(bags))
    assert torch.equal(head.eval()(bags), head(bags))


def test_a_head_comes_back_from_its_weights() -> None:
    config = HeadConfig(hidden=(8, 4))
    head = mil_head(config, 5)
    again = head_from_weights(config, head.state_dict(), "best.pt")
    assert not again.training
    assert again.dimension == 5
    bags = torch.randn(1, 3, 5)
    assert torch.equal(again(bags), head.eval()(bags))


@pytest.mark.parametrize("weights", [{}, {"layers.0.weight": torch.zeros(8, 5)}])
def test_weights_that_are_no_such_head_are_refused(weights: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        head_from_weights(HeadConfig(hidden=(8, 4)), weights, "best.pt")
    assert_one_line(caught.value, "best.pt")


def test_the_original_matlab_head_is_read_transposed(tmp_path: Path) -> None:
    (w0, b0), (w1, b1), (w2, b2) = write_matlab(tmp_path / "w.mat")
    head = head_from_matlab(tmp_path / "w.mat")
    features = np.random.default_rng(1).normal(size=(2, 3, 6)).astype(np.float32)
    hidden = (np.maximum(features @ w0 + b0, 0) @ w1 + b1) @ w2 + b2
    wanted = 1 / (1 + np.exp(-hidden[..., 0]))
    assert head(torch.from_numpy(features)).detach().numpy() == pytest.approx(wanted, abs=1e-6)


def test_a_matlab_file_of_something_else_is_refused(tmp_path: Path) -> None:
    savemat(str(tmp_path / "other.mat"), {"x": np.zeros(3)})
    with pytest.raises(InputError) as caught:
        head_from_matlab(tmp_path / "other.mat")
    assert_one_line(caught.value, "other.mat", "'0'")
    write_matlab(tmp_path / "two.mat", (6, 4, 3, 2))
    with pytest.raises(InputError) as caught:
        head_from_matlab(tmp_path / "two.mat")
    assert_one_line(caught.value, "two.mat", "make no head")


@pytest.mark.parametrize("content", [None, b"", b"junk" * 100])
def test_a_damaged_matlab_file_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "w.mat").write_bytes(content)
    with pytest.raises(InputError) as caught:
        head_from_matlab(tmp_path / "w.mat")
    assert_one_line(caught.value, "w.mat")


@pytest.mark.parametrize("kept", [100, 300])
def test_a_matlab_file_that_ends_too_soon_is_one_line(tmp_path: Path, kept: int) -> None:
    write_matlab(tmp_path / "w.mat")
    (tmp_path / "w.mat").write_bytes((tmp_path / "w.mat").read_bytes()[:kept])
    with pytest.raises(InputError) as caught:
        head_from_matlab(tmp_path / "w.mat")
    assert_one_line(caught.value, "w.mat")
    assert "None" not in str(caught.value)


# -- ensembles ---------------------------------------------------------------------------------


def test_an_ensembles_score_is_the_mean_of_its_members() -> None:
    torch.manual_seed(0)
    head = mil_head(HeadConfig(hidden=(8, 4), members=3), 5).eval()
    features = torch.randn(2, 6, 5)
    alone = [member(features) for member in head.members]
    assert len(alone) == 3
    assert not torch.equal(alone[0], alone[1])
    torch.testing.assert_close(head(features), sum(alone) / 3)


def test_an_ensemble_comes_back_from_its_weights() -> None:
    config = HeadConfig(hidden=(8, 4), members=2)
    head = mil_head(config, 5).eval()
    again = head_from_weights(config, head.state_dict(), "best.pt")
    features = torch.randn(1, 3, 5)
    torch.testing.assert_close(again(features), head(features), rtol=0, atol=0)


def test_the_weights_of_one_head_are_no_ensemble() -> None:
    weights = mil_head(HeadConfig(hidden=(8, 4)), 5).state_dict()
    with pytest.raises(InputError) as caught:
        head_from_weights(HeadConfig(hidden=(8, 4), members=2), weights, "best.pt")
    assert_one_line(caught.value, "best.pt")
