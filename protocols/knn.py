"""`knn`: DINO's weighted k-nearest-neighbour classifier (Caron et al. 2021, arXiv 2104.14294; dino/eval_knn.py).

Definition: features of the last layer in the encoder's own pooling, after the final norm, L2-normalised. The bank is
the whole training split. The k most similar images (cosine) vote for their class with weight exp(similarity / 0.07).
k = 20 is the headline; the accuracy at every other k is recorded beside it. Nothing is chosen, so validation images
simply join the bank. Where the bank is smaller than k, all of it votes.

Weights are exp((similarity - 1) / T): the same ranking, and no overflow in low precision.

Changes: 1 first version.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.errors import UserError
from ssl_bench.protocol import Features, Predictor, Protocol


@dataclass(frozen=True)
class KNNConfig:
    k: int = 20  # neighbours behind the headline; DINO's best on ImageNet
    also: tuple[int, ...] = (1, 5, 10, 20, 50, 100, 200)  # recorded beside it
    temperature: float = 0.07  # of the votes (DINO)
    shots: int = 0  # images per class in the bank; 0: all (DINOv2's few-shot k-NN uses several draws)

    def check(self) -> None:
        if min(self.k, *self.also) < 1 or self.temperature <= 0 or self.shots < 0:
            raise UserError("knn needs k >= 1, temperature > 0 and shots >= 0.")


def fewshot() -> KNNConfig:
    """Few-shot k-NN (dinov2/eval/knn.py, n_per_class_list): a bank of 10 images per class, drawn by the seed."""
    return KNNConfig(shots=10)


def knn_votes(bank: Tensor, labels: Tensor, queries: Tensor, k: list[int], t: float, num_classes: int) -> Tensor:
    """Votes [len(k), Q, C] for queries [Q, D] from a bank [M, D]; both are L2-normalised here."""
    bank, out = F.normalize(bank, dim=1), []
    for chunk in F.normalize(queries, dim=1).split(1024):
        sims, index = (chunk @ bank.T).topk(min(max(k), len(bank)), dim=1)
        weights = ((sims - 1) / t).exp()
        votes = []
        for count in k:
            empty = torch.zeros(len(chunk), num_classes)
            votes.append(empty.scatter_add_(1, labels[index[:, :count]], weights[:, :count]))
        out.append(torch.stack(votes))
    return torch.cat(out, 1)


class Neighbours(Predictor):
    def __init__(self, bank: Features, config: KNNConfig) -> None:
        super().__init__()
        self.bank, self.labels, self.config = bank.own, bank.labels, config
        self.num_classes = bank.num_classes
        self.selected = {"k": config.k, "bank": len(bank)}

    def votes(self, x: Features, k: list[int]) -> Tensor:
        return knn_votes(self.bank, self.labels, x.own, k, self.config.temperature, self.num_classes)

    def predict(self, x: Features) -> Tensor:
        return self.votes(x, [self.config.k])[0]

    def candidates(self, x: Features) -> Iterator[tuple[str, Tensor]]:
        for k, votes in zip(self.config.also, self.votes(x, list(self.config.also)), strict=True):
            yield f"k={k}", votes.argmax(1)


class KNN(Protocol):
    version = 1
    record_candidates = True
    config: KNNConfig

    def fit(self, train: Features, val: Features, seed: int) -> Neighbours:
        bank = train + val
        if self.config.shots:
            order = torch.randperm(len(bank), generator=torch.Generator().manual_seed(seed))
            rows = [order[bank.labels[order] == c][: self.config.shots] for c in range(bank.num_classes)]
            bank = bank.take(torch.cat(rows))
        return Neighbours(bank, self.config)
