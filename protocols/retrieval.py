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

import torch.nn.functional as F
from torch import Tensor

from ssl_bench.evaluation.protocol import Features, Predictor, Protocol
from ssl_bench.evaluation.scorers import Retrieval as Ranked


@dataclass(frozen=True)
class RetrievalConfig:
    ks: tuple[int, ...] = (1, 5, 10)  # of recall


class Nearest(Predictor):
    def predict(self, x: Features) -> Tensor:
        return F.normalize(x.own, dim=1)


class Retrieval(Protocol):
    version = 1
    headline = "map"
    config: RetrievalConfig

    def __init__(self, config: RetrievalConfig) -> None:
        super().__init__(config)
        self.scorer = Ranked(config.ks)

    def fit(self, train: Features, val: Features, seed: int) -> Nearest:
        return Nearest()

    def classes(self, output: Tensor) -> None:
        return None
