"""`knn`: DINO's weighted k-nearest-neighbour classifier (Caron et al. 2021, arXiv 2104.14294; dino/eval_knn.py).

Definition: features of the last layer in the encoder's own pooling, after the final norm, L2-normalised. The bank is
the whole training split. The k most similar images (cosine) vote for their class with weight exp(similarity / 0.07).
k = 20 is the headline; the accuracy at every other k is recorded beside it. Nothing is chosen, so validation images
simply join the bank. Where the bank is smaller than k, all of it votes. A class without a vote is no guess, also not
one of five: top-5 counts at most as many classes as voted.

`knn:fewshot` (dinov2/eval/knn.py, n_per_class_list and n_tries): a bank of 10 images per class, drawn ten times, the
same draws for every method and seed; the mean over draws is the headline, their spread is recorded. Where a class has
fewer, the headline's name says so: `top1 (6 per class)`.

Changes: 1 first version. 2 few-shot is the mean of ten draws, no longer one draw by the probe's seed. 3 top-5 no longer
fills up with classes that got no vote, those of lowest index (k = 1: top-5 was 74.8 where top-1 was 54.8); top-1 and
balanced are as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_bench.errors import UserError
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol, given, members
from ssl_bench.evaluation.scorers import Votes
from ssl_bench.training.neighbours import nearest, votes


@dataclass(frozen=True)
class KNNConfig:
    k: int = 20  # neighbours behind the headline; DINO's best on ImageNet
    also: tuple[int, ...] = (1, 5, 10, 20, 50, 100, 200)  # recorded beside it
    temperature: float = 0.07  # of the votes (DINO)
    shots: int = 0  # images per class in the bank; 0: all
    draws: int = 1  # of such banks

    def check(self) -> None:
        if self.draws > 1 and not self.shots:
            raise UserError(f"draws={self.draws} has no effect while shots=0: the bank is the whole training split.")


def fewshot() -> KNNConfig:
    """Few-shot k-NN (dinov2/eval/knn.py): banks of 10 images per class, the mean over 10 draws."""
    return KNNConfig(shots=10, draws=10)


class Neighbours(Predictor):
    def __init__(self, banks: list[Features], config: KNNConfig) -> None:
        super().__init__()
        self.banks, self.config = [(b.own, b.labels) for b in banks], config
        self.num_classes = banks[0].num_classes
        self.found: tuple[Features, list[tuple[Tensor, Tensor]]] | None = None
        self.selected = {"k": config.k, "bank": len(banks[0])}

    def votes(self, x: Features, k: list[int]) -> Tensor:
        """[banks, len(k), N, C]; the neighbours are looked for once, as many as any k asks for."""
        if self.found is None or self.found[0] is not x:
            most = max(self.config.k, *self.config.also)
            self.found = x, [nearest(bank.to(x.device), x.own.to(x.device), most) for bank, _ in self.banks]
        pairs = zip(self.found[1], self.banks, strict=True)
        t, classes = self.config.temperature, self.num_classes
        return torch.stack([votes(s.cpu(), labels[i.cpu()], k, t, classes) for (s, i), (_, labels) in pairs])

    def predict(self, x: Features) -> Tensor:
        """[banks, N, C]"""
        return self.votes(x, [self.config.k])[:, 0]

    def candidates(self, x: Features) -> Iterator[tuple[str, Tensor]]:
        votes = self.votes(x, list(self.config.also)).argmax(3)
        yield from ((f"k={k}", votes[:, i]) for i, k in enumerate(self.config.also))


class KNN(Protocol):
    version = 3
    record_candidates = True
    scorer = Votes()
    config: KNNConfig

    def fit(self, train: Features, val: Features, seed: int) -> Neighbours:
        bank = train + val
        if not self.config.shots:
            return Neighbours([bank], self.config)
        drawn = [members(bank.labels, bank.num_classes, i) for i in range(self.config.draws)]
        found = Neighbours([bank.take(torch.cat([c[: self.config.shots] for c in d])) for d in drawn], self.config)
        if count := given(bank.labels, bank.num_classes, self.config.shots):
            found.true_names = {self.headline: f"{self.headline} ({count} per class)"}
        return found

    def classes(self, output: Tensor) -> Tensor | None:
        return output[0].argmax(1) if len(output) == 1 else None  # several draws: no single bit per image
