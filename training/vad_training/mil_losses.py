"""Losses over bags: a video is a bag of segments, and only the bag has a label.

All take what `MilHead.bag` returns for the anomalous and for the normal bags of a batch.
"""

import torch
from torch import Tensor
from torch.nn import functional

from vad_training.config.mil import MilConfig
from vad_training.models.mil import BagOutput


def mil_loss(anomalous: BagOutput, normal: BagOutput, config: MilConfig) -> dict[str, Tensor]:
    """Return the loss that a configuration names, under `loss`, and its terms; scalars."""
    loss, k = config.loss, config.head.top_k
    if config.head.kind == "topk":
        return {"loss": topk_loss(anomalous.logits, normal.logits, k)}
    if config.head.kind == "rtfm":
        return rtfm_loss(
            anomalous,
            normal,
            k=k,
            margin=loss.margin,
            magnitude=loss.magnitude,
            sparsity=loss.sparsity,
            smoothness=loss.smoothness,
        )
    return ranking_loss(
        anomalous.scores,
        normal.scores,
        pairs=loss.pairs == "all",
        sparsity=loss.sparsity,
        smoothness=loss.smoothness,
    )


def ranking_loss(
    anomalous: Tensor,
    normal: Tensor,
    *,
    pairs: bool = True,
    sparsity: float = 8e-5,
    smoothness: float = 8e-5,
) -> dict[str, Tensor]:
    """Deep MIL ranking loss: every anomalous bag's highest score above every normal one's.

        mean_j sum_i relu(1 - max a_i + max n_j)
            + sparsity * sum a + smoothness * sum (a_k - a_k+1)^2

    `a` are the scores of the anomalous bags, summed over bags and segments (Sultani et al., CVPR
    2018, arXiv 1801.04264, equations 4 to 7, with the sums of their code). Without `pairs` bag i
    is compared with bag i alone, as in the UCF-Crime notebook: ``mean_i relu(...)``, and sparsity
    and smoothness are divided by the number of bags too.

    Args:
        anomalous: Scores of the anomalous bags, shape (A, S), in 0..1.
        normal: Scores of the normal bags, shape (B, S); B = A without `pairs`.
        pairs: All pairs of bags.
        sparsity: Weight of the sum of scores: anomalies are rare.
        smoothness: Weight of the squared steps: scores change slowly.

    Returns:
        Scalars: `loss` and its terms `ranking`, `sparsity`, `smoothness`.

    Raises:
        ValueError: Shapes that do not fit.
    """
    _check(anomalous, normal)
    top_a, top_n = anomalous.max(dim=1).values, normal.max(dim=1).values
    if pairs:
        hinge = torch.relu(1 - top_a[:, None] + top_n[None, :])  # (A, B)
        ranking = hinge.sum(dim=0).mean()
        bags = 1
    else:
        if anomalous.shape[0] != normal.shape[0]:
            raise ValueError(
                f"Pairs need as many normal as anomalous bags, but there are {normal.shape[0]} and "
                f"{anomalous.shape[0]}."
            )
        ranking = torch.relu(1 - top_a + top_n).mean()
        bags = anomalous.shape[0]
    sparse = sparsity * anomalous.sum() / bags
    smooth = smoothness * _steps(anomalous) / bags
    return {
        "loss": ranking + sparse + smooth,
        "ranking": ranking,
        "sparsity": sparse,
        "smoothness": smooth,
    }


def topk_loss(anomalous: Tensor, normal: Tensor, k: int) -> Tensor:
    """Binary cross-entropy of each bag, whose logit is the mean of its k highest logits.

    Args:
        anomalous: Logits of the anomalous bags, shape (A, S).
        normal: Logits of the normal bags, shape (B, S).
        k: Segments that are taken; at most S.

    Returns:
        A scalar: mean over the anomalous bags and mean over the normal ones, each with weight 1/2.

    Raises:
        ValueError: Shapes that do not fit, or k above S.
    """
    _check(anomalous, normal, k)
    top_a = anomalous.topk(k, dim=1).values.mean(dim=1)
    top_n = normal.topk(k, dim=1).values.mean(dim=1)
    return _cross_entropy(top_a, top_n)


def rtfm_loss(
    anomalous: BagOutput,
    normal: BagOutput,
    *,
    k: int = 3,
    margin: float = 100.0,
    magnitude: float = 1e-4,
    sparsity: float = 8e-5,
    smoothness: float = 8e-5,
) -> dict[str, Tensor]:
    """Robust temporal feature magnitude loss (Tian et al., ICCV 2021, arXiv 2101.10030).

    In each bag the k segments with the largest embedding (L2 norm) are taken. With g the norm of
    their mean embedding and s their mean logit::

        loss = BCE(s) + magnitude * mean_i (relu(margin - g(a_i)) + g(n_i))^2
                      + sparsity * mean over bags sum a + smoothness * mean over bags sum steps^2

    Bag i is compared with bag i, as in the authors' code; the margin term is cut off at 0 as in
    the paper (their code takes the absolute value).

    Args:
        anomalous: Output for the anomalous bags, (A, S, ...).
        normal: Output for as many normal bags.
        k: Segments that are taken; at most S.
        margin: How long anomalous embeddings shall be.
        magnitude: Weight of the margin term.
        sparsity: Weight of the sum of the anomalous bags' scores.
        smoothness: Weight of their squared steps.

    Returns:
        Scalars: `loss` and its terms `entropy`, `magnitude`, `sparsity`, `smoothness`.

    Raises:
        ValueError: Shapes that do not fit, or k above S.
    """
    _check(anomalous.scores, normal.scores, k)
    bags = anomalous.scores.shape[0]
    if normal.scores.shape[0] != bags:
        raise ValueError(f"RTFM compares bag by bag, but got {bags} and {len(normal.scores)}.")
    length_a, logit_a = _longest(anomalous, k)
    length_n, logit_n = _longest(normal, k)
    entropy = _cross_entropy(logit_a, logit_n)
    far = magnitude * ((torch.relu(margin - length_a) + length_n) ** 2).mean()
    sparse = sparsity * anomalous.scores.sum() / bags
    smooth = smoothness * _steps(anomalous.scores) / bags
    return {
        "loss": entropy + far + sparse + smooth,
        "entropy": entropy,
        "magnitude": far,
        "sparsity": sparse,
        "smoothness": smooth,
    }


def _longest(bags: BagOutput, k: int) -> tuple[Tensor, Tensor]:
    """Return norm of the mean embedding and mean logit of each bag's k longest embeddings."""
    chosen = bags.embedding.norm(dim=2).topk(k, dim=1).indices  # (N, k)
    width = bags.embedding.shape[2]
    embedding = bags.embedding.gather(1, chosen[:, :, None].expand(-1, -1, width))
    return embedding.mean(dim=1).norm(dim=1), bags.logits.gather(1, chosen).mean(dim=1)


def _cross_entropy(anomalous: Tensor, normal: Tensor) -> Tensor:
    """Return the binary cross-entropy of logits of bags, each class with weight 1/2."""
    return (functional.softplus(-anomalous).mean() + functional.softplus(normal).mean()) / 2


def _steps(scores: Tensor) -> Tensor:
    return ((scores[:, 1:] - scores[:, :-1]) ** 2).sum()


def _check(anomalous: Tensor, normal: Tensor, k: int = 1) -> None:
    if anomalous.ndim != 2 or normal.ndim != 2 or anomalous.shape[1] != normal.shape[1]:
        raise ValueError(
            f"Bags must be (N, S) with the same S, but are {tuple(anomalous.shape)} and "
            f"{tuple(normal.shape)}."
        )
    if not len(anomalous) or not len(normal):
        raise ValueError("A batch needs anomalous and normal bags, but one class is empty.")
    if k > anomalous.shape[1]:
        raise ValueError(f"top_k={k}, but a bag has only {anomalous.shape[1]} segments.")
