"""Collapse and quality signals while training, on held-out training images and never on test images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.backbone import ViT
from ssl_bench.data import Dataset

BANK, QUERIES = 500, 300  # images: enough to see a trend at under 3 % of a run


def rankme(z: Tensor, eps: float = 1e-7) -> float:
    """RankMe [N, D] -> effective rank (Garrido et al. 2023, arXiv 2210.02885): exp of the singular values' entropy."""
    s = torch.linalg.svdvals(z.double())
    p = s / s.sum() + eps
    return float(torch.exp(-(p * p.log()).sum()))


def feature_std(z: Tensor) -> float:
    """Std over the batch of L2-normalised features, mean over dimensions, times sqrt(D): 1 isotropic, 0 collapsed."""
    return float(F.normalize(z.double(), dim=-1).std(0).mean() * math.sqrt(z.shape[-1]))


def mean_cosine(z: Tensor) -> float:
    """Mean cosine between distinct images: 1 when all features point the same way."""
    z = F.normalize(z.double(), dim=-1)
    n = len(z)
    return float((z.sum(0).square().sum() - n) / (n * (n - 1)))


def knn_votes(bank: Tensor, labels: Tensor, queries: Tensor, k: list[int], t: float, num_classes: int) -> Tensor:
    """DINO's weighted k-NN: votes [len(k), Q, C] for queries [Q, D] from a bank [M, D], both L2-normalised here.

    Votes are exp((cosine - 1) / t): DINO's ranking, and no overflow in low precision.
    """
    bank, out = F.normalize(bank, dim=1), []
    for chunk in F.normalize(queries, dim=1).split(1024):
        sims, index = (chunk @ bank.T).topk(min(max(k), len(bank)), dim=1)
        weights, near = ((sims - 1) / t).exp(), labels[index]
        empty = torch.zeros(len(chunk), num_classes)
        out.append(torch.stack([empty.scatter_add(1, near[:, :n], weights[:, :n]) for n in k]))
    return torch.cat(out, 1)


def knn_accuracy(bank: Tensor, labels: Tensor, queries: Tensor, truth: Tensor) -> float:
    """Top-1 of k = 20, T = 0.07 as a fraction."""
    votes = knn_votes(bank, labels, queries, [20], 0.07, int(max(labels.max(), truth.max())) + 1)[0]
    return float((votes.argmax(1) == truth).float().mean())


class Monitor:
    """Looks at the evaluated encoder a few times per run; says when its features collapse."""

    def __init__(self, data: Dataset, pooling: str, mean: Tensor, std: Tensor) -> None:
        self.pooling, self.mean, self.std, self.labelled = pooling, mean, std, data.labelled
        bank = torch.linspace(0, len(data.train) - 1, min(BANK, len(data.train))).long().numpy()
        queries = torch.linspace(0, len(data.val) - 1, min(QUERIES, len(data.val))).long().numpy()
        self.bank, self.bank_labels = data.train.batch(bank), data.train.labels[bank]
        self.queries, self.query_labels = data.val.batch(queries), data.val.labels[queries]

    @torch.no_grad()
    def features(self, encoder: ViT, images: Tensor) -> Tensor:
        """Pooled features [N, D] of uint8 images, fp32 on the CPU."""
        device = self.mean.device
        chunks = [(chunk.to(device).float() / 255 - self.mean) / self.std for chunk in images.split(250)]
        return torch.cat([encoder.pool(encoder(x), self.pooling).float().cpu() for x in chunks])

    def __call__(self, encoder: ViT) -> dict[str, float]:
        """std, RankMe (raw and centred), mean cosine, online k-NN, and `collapsed` (0 or 1)."""
        training = encoder.training
        encoder.eval()
        bank, queries = self.features(encoder, self.bank), self.features(encoder, self.queries)
        encoder.train(training)
        if not torch.isfinite(queries).all():
            return {"finite": 0.0, "collapsed": 1.0}
        centred = queries - queries.mean(0)
        values = {
            "std": feature_std(queries),
            "rankme": rankme(queries),
            "rankme_centred": rankme(centred),
            "cosine": mean_cosine(queries),
        }
        if self.labelled:
            values["knn"] = knn_accuracy(bank, self.bank_labels, queries, self.query_labels)
        values["collapsed"] = float(collapse_reason(values) != "")
        return values


def collapse_reason(values: dict[str, float]) -> str:
    """Why these features count as collapsed, or "" (also before the first look).

    Complete collapse: the spread between images is a twentieth of an isotropic one. Dimensional collapse: what spread
    there is lies in a handful of directions. Measured on the embedded photographs (64 wide, 300 steps): untrained std
    0.5, centred RankMe 24; I-JEPA 0.6 and 21; MAE 0.2 and 27; I-JEPA with both encoders trained 0.02 and 32, without
    a predictor 0.97 and 4.4. So a run that has just begun is not flagged.
    """
    if values.get("finite") == 0.0:
        return "features are not finite"
    if values.get("std", 1.0) < 0.05:
        return f"all images map to nearly one vector (normalised std {values['std']:.3f}; isotropic is 1)"
    if values.get("rankme_centred", 99.0) < 6.0:
        return f"features vary in {values['rankme_centred']:.1f} directions only (centred RankMe)"
    return ""
