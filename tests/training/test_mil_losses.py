"""Losses over bags, each worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from vad_training.config.mil import HeadConfig, MilConfig
from vad_training.mil_losses import mil_loss, ranking_loss, rtfm_loss, topk_loss
from vad_training.models.mil import BagOutput

ANOMALOUS = torch.tensor([[0.1, 0.9, 0.1], [0.2, 0.2, 0.5]])
NORMAL = torch.tensor([[0.3, 0.1, 0.0], [0.0, 0.0, 0.6]])


def output(scores: Tensor, embedding: Tensor | None = None) -> BagOutput:
    logits = torch.logit(scores)
    return BagOutput(scores, logits, scores[:, :, None] if embedding is None else embedding)


def test_all_pairs_are_summed_over_anomalous_and_averaged_over_normal_bags() -> None:
    # maxima a 0.9, 0.5; n 0.3, 0.6. Hinges: n1: 0.4, 0.8; n2: 0.7, 1.1. Mean of 1.2 and 1.8.
    terms = ranking_loss(ANOMALOUS, NORMAL, sparsity=0.0, smoothness=0.0)
    assert float(terms["loss"]) == pytest.approx(1.5)


def test_paired_bags_are_compared_one_to_one() -> None:
    # 1 - 0.9 + 0.3 = 0.4 and 1 - 0.5 + 0.6 = 1.1
    terms = ranking_loss(ANOMALOUS, NORMAL, pairs=False, sparsity=0.0, smoothness=0.0)
    assert float(terms["loss"]) == pytest.approx(0.75)


def test_sparsity_and_smoothness_are_sums_over_the_anomalous_bags() -> None:
    terms = ranking_loss(ANOMALOUS, NORMAL, sparsity=0.1, smoothness=0.01)
    assert float(terms["sparsity"]) == pytest.approx(0.1 * 2.0)
    # steps: .8, -.8 and 0, .3: .64 + .64 + 0 + .09
    assert float(terms["smoothness"]) == pytest.approx(0.01 * 1.37)
    assert float(terms["loss"]) == pytest.approx(1.5 + 0.2 + 0.0137)
    paired = ranking_loss(ANOMALOUS, NORMAL, pairs=False, sparsity=0.1, smoothness=0.01)
    assert float(paired["loss"]) == pytest.approx(0.75 + 0.1 + 0.00685)


def test_a_pair_in_the_right_order_by_one_costs_nothing() -> None:
    terms = ranking_loss(torch.ones(1, 2), torch.zeros(3, 2), sparsity=0.0, smoothness=0.0)
    assert float(terms["loss"]) == 0.0


def test_the_last_segments_are_ranked_too() -> None:
    # The sources draw randperm(30) of 32 segments, so that two are never looked at.
    for place in range(32):
        scores = torch.zeros(1, 32)
        scores[0, place] = 1.0
        terms = ranking_loss(scores, torch.zeros(1, 32), sparsity=0.0, smoothness=0.0)
        assert float(terms["loss"]) == 0.0, place


def test_topk_is_the_cross_entropy_of_the_mean_of_the_highest_logits() -> None:
    anomalous = torch.tensor([[2.0, -5.0, 0.0]])
    normal = torch.tensor([[-1.0, -3.0, -9.0], [1.0, -1.0, -9.0]])
    # means of the two highest: 1; -2 and 0
    wanted = (math.log(1 + math.exp(-1)) + (math.log(1 + math.exp(-2)) + math.log(2)) / 2) / 2
    assert float(topk_loss(anomalous, normal, 2)) == pytest.approx(wanted)


def test_rtfm_takes_the_segments_with_the_longest_embeddings() -> None:
    # Lengths a: 5, 1, 3; k = 2 takes segments 0 and 2, whose mean embedding is (3, 2).
    embedding_a = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [3.0, 0.0]]])
    # Lengths n: 2, 0, 1: segments 0 and 2, mean (0, 1.5).
    embedding_n = torch.tensor([[[0.0, 2.0], [0.0, 0.0], [0.0, 1.0]]])
    logits_a = torch.tensor([[1.0, 9.0, 3.0]])  # mean of the chosen: 2
    logits_n = torch.tensor([[-1.0, 9.0, 1.0]])  # 0
    anomalous = BagOutput(torch.sigmoid(logits_a), logits_a, embedding_a)
    normal = BagOutput(torch.sigmoid(logits_n), logits_n, embedding_n)
    terms = rtfm_loss(
        anomalous, normal, k=2, margin=5.0, magnitude=0.1, sparsity=0.0, smoothness=0.0
    )
    entropy = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    far = 0.1 * (5 - math.sqrt(13) + 1.5) ** 2
    assert float(terms["entropy"]) == pytest.approx(entropy)
    assert float(terms["magnitude"]) == pytest.approx(far, rel=1e-5)
    assert float(terms["loss"]) == pytest.approx(entropy + far, rel=1e-5)


def test_the_margin_of_rtfm_is_cut_off_at_zero() -> None:
    anomalous = output(torch.full((1, 2), 0.5), torch.full((1, 2, 1), 9.0))
    normal = output(torch.full((1, 2), 0.5), torch.zeros(1, 2, 1))
    terms = rtfm_loss(anomalous, normal, k=1, margin=5.0)
    assert float(terms["magnitude"]) == 0.0


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("sultani", {"loss", "ranking", "sparsity", "smoothness"}),
        ("topk", {"loss"}),
        ("rtfm", {"loss", "entropy", "magnitude", "sparsity", "smoothness"}),
    ],
)
def test_the_configuration_names_the_loss(kind: str, names: set[str]) -> None:
    config = MilConfig(head=HeadConfig(kind=kind, top_k=2))  # type: ignore[arg-type]
    terms = mil_loss(output(ANOMALOUS), output(NORMAL), config)
    assert set(terms) == names


def test_bags_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="same S"):
        ranking_loss(ANOMALOUS, NORMAL[:, :2])
    with pytest.raises(ValueError, match="as many normal"):
        ranking_loss(ANOMALOUS, NORMAL[:1], pairs=False)
    with pytest.raises(ValueError, match="one class is empty"):
        ranking_loss(ANOMALOUS, NORMAL[:0])
    with pytest.raises(ValueError, match="top_k=4"):
        topk_loss(ANOMALOUS, NORMAL, 4)
    with pytest.raises(ValueError, match="bag by bag"):
        rtfm_loss(output(ANOMALOUS), output(NORMAL[:1]), k=1)
