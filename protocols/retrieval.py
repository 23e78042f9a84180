"""`retrieval`: do images of the same class lie nearest to each other?

Definition: features of the last layer in the encoder's own pooling, L2-normalised, cosine similarity. Every test image
is a query against all other test images; those of its class are relevant (label retrieval, the usual form for sets
without a landmark benchmark; ROxford and RParis as in dino/eval_image_retrieval.py need their own ground truth).
P@1; mAP (mean over queries of the mean precision at each relevant image, the whole ranking); R@k, the share of queries
with a relevant image among the first k. Queries whose class has no other image are left out. Nothing is trained.

Changes: 1 first version.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.protocol import Features, Predictor, Protocol


@dataclass(frozen=True)
class RetrievalConfig:
    ks: tuple[int, ...] = (1, 5, 10)  # of recall


def ranked_relevance(x: Tensor, labels: Tensor) -> Tensor:
    """bool [Q, N - 1]: is the j-th nearest other image of the query's class? For unit vectors [N, D]."""
    rows = []
    for start in range(0, len(x), 512):
        sims = x[start : start + 512] @ x.T
        sims[torch.arange(len(sims)), start + torch.arange(len(sims))] = -torch.inf  # itself: last, then cut
        order = sims.argsort(dim=1, descending=True, stable=True)[:, :-1]
        rows.append(labels[order] == labels[start : start + 512, None])
    relevant = torch.cat(rows)
    return relevant[relevant.any(1)]


class Nearest(Predictor):
    def predict(self, x: Features) -> Tensor:
        return F.normalize(x.own, dim=1)


class Retrieval(Protocol):
    version = 1
    headline = "map"
    config: RetrievalConfig

    def fit(self, train: Features, val: Features, seed: int) -> Nearest:
        return Nearest()

    def classes(self, output: Tensor) -> None:
        return None

    def score(self, output: Tensor, labels: Tensor, num_classes: int) -> dict[str, float]:
        relevant = ranked_relevance(output, labels)
        hits = relevant.double().cumsum(1)
        precision = hits / torch.arange(1, relevant.shape[1] + 1)
        average = (precision * relevant).sum(1) / relevant.sum(1)
        metrics = {"map": float(100 * average.mean()), "p@1": float(100 * relevant[:, 0].double().mean())}
        return metrics | {f"r@{k}": float(100 * relevant[:, :k].any(1).double().mean()) for k in self.config.ks}
