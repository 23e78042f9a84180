"""`retrieval`: do images of the same class lie nearest to each other?

Definition: features of the last layer in the encoder's own pooling, L2-normalised, cosine similarity. Every test image
is a query against all other test images; those of its class are relevant (label retrieval, the usual form for sets
without a landmark benchmark; ROxford and RParis as in dino/eval_image_retrieval.py need their own ground truth).
P@1; mAP (mean over queries of the mean precision at each relevant image, the whole ranking); R@k, the share of queries
with a relevant image among the first k. Queries whose class has no other image are left out. Nothing is trained.

Changes: 1 first version.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.errors import UserError
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol

QUERIES = 512  # ranked at a time: all of ImageNet's at once would take 40 GB


@dataclass(frozen=True)
class RetrievalConfig:
    ks: tuple[int, ...] = (1, 5, 10)  # of recall


def ranked_relevance(x: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """bool [Q, N - 1] of some queries at a time: is the j-th nearest other image of the query's class?

    For unit vectors [N, D]. Queries whose class has no other image are left out.
    """
    for start in range(0, len(x), QUERIES):
        sims = x[start : start + QUERIES] @ x.T
        sims[torch.arange(len(sims)), start + torch.arange(len(sims))] = -torch.inf  # itself: last, then cut
        order = sims.argsort(dim=1, descending=True, stable=True)[:, :-1]
        relevant = labels[order] == labels[start : start + QUERIES, None]
        yield relevant[relevant.any(1)]


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
        found: dict[str, list[Tensor]] = {}  # of each query
        for relevant in ranked_relevance(output, labels):
            precision = relevant.double().cumsum(1) / torch.arange(1, relevant.shape[1] + 1)
            found.setdefault("map", []).append((precision * relevant).sum(1) / relevant.sum(1))
            found.setdefault("p@1", []).append(relevant[:, 0].double())
            for k in self.config.ks:
                found.setdefault(f"r@{k}", []).append(relevant[:, :k].any(1).double())
        if not len(torch.cat(found["map"])):
            raise UserError("retrieval looks for images of the query's class, and no class has two test images.")
        return {name: float(100 * torch.cat(parts).mean()) for name, parts in found.items()}
