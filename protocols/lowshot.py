"""`lowshot`: classification from a few labelled images per class, or from 1 % and 10 % of them.

Definition: shots 1, 2, 5, 10, 25 per class and 1 %, 10 % of each class (at least one image), five draws. A draw
permutes the images of each class once and takes the first ones, so smaller sets lie inside larger ones, and the draws
are the same for every method and seed. Features of the last layer in the encoder's own pooling. Nothing is chosen.

`lowshot` is MSN's logistic regression (Assran et al. 2022, arXiv 2204.07141; msn/logistic_eval.py): each feature vector
is centred and L2-normalised, no intercept, penalty 0.00025 / n, that is C = 4000. MSN takes CLS before the final norm;
here it is after it, as for every other protocol. `lowshot:ridge` is big_vision's closed form
(evaluators/fewshot_lsr.py): features whitened per dimension by the shots, a constant column of 100 as bias, targets
+-1, ridge 2^10, in float64. The headline is 10 images per class, mean over draws; the spread over draws is recorded.

Changes: 1 first version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.logistic import logistic
from ssl_bench.protocol import Features, Predictor, Protocol
from ssl_bench.rng import mix


@dataclass(frozen=True)
class LowShotConfig:
    solver: Literal["logistic", "ridge"] = "logistic"
    penalty: float = 0.00025  # MSN's lambda, divided by n; or big_vision's ridge
    shots: tuple[int, ...] = (1, 2, 5, 10, 25)  # images per class; a class that has fewer gives all it has
    percents: tuple[float, ...] = (1.0, 10.0)  # of each class
    draws: int = 5

    def names(self) -> list[str]:
        return [f"shots{k}" for k in self.shots] + [f"percent{p:g}" for p in self.percents]


def ridge() -> LowShotConfig:
    """big_vision's few-shot evaluator (evaluators/fewshot_lsr.py, configs/common_fewshot.py): seconds, no choices."""
    return LowShotConfig("ridge", penalty=1024.0)


def draw(labels: Tensor, num_classes: int, config: LowShotConfig, index: int) -> list[Tensor]:
    """Indices of the labelled images, one set per name of `config.names()`; nested."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(mix("lowshot", index)))
    members = [order[labels[order] == c] for c in range(num_classes)]
    sets = [[m[:k] for m in members] for k in config.shots]
    sets += [[m[: max(1, round(len(m) * p / 100))] for m in members] for p in config.percents]
    return [torch.cat(s) for s in sets]


def ridge_regression(x: Tensor, y: Tensor, num_classes: int, penalty: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [D + 1, C] (the last row for the constant column of 100), and the shots' mean and std; float64."""
    x = x.double()
    mean, std = x.mean(0), x.std(0, unbiased=False) + 1e-5
    z = torch.cat([(x - mean) / std, torch.full((len(x), 1), 100.0, dtype=x.dtype)], 1)
    targets = 2.0 * F.one_hot(y, num_classes).to(x) - 1
    if len(z) < z.shape[1]:  # the dual: the same weights from an n x n system
        gram = z @ z.T + penalty * torch.eye(len(z), dtype=x.dtype)
        return z.T @ torch.linalg.solve(gram, targets), mean, std
    gram = z.T @ z + penalty * torch.eye(z.shape[1], dtype=x.dtype)
    return torch.linalg.solve(gram, z.T @ targets), mean, std


def predict_ridge(bank: Tensor, labels: Tensor, queries: Tensor, num_classes: int, penalty: float) -> Tensor:
    weight, mean, std = ridge_regression(bank, labels, num_classes, penalty)
    return ((queries.double() - mean) / std @ weight[:-1] + 100 * weight[-1]).argmax(1)


def msn_features(x: Tensor) -> Tensor:
    """Each vector centred over its dimensions, then of length 1."""
    return F.normalize(x - x.mean(1, keepdim=True), dim=1)


def predict_logistic(bank: Tensor, labels: Tensor, queries: Tensor, num_classes: int, penalty: float) -> Tensor:
    strength = torch.tensor([1 / penalty])
    found = logistic(msn_features(bank), labels, num_classes, strength, tol=1e-4, limit=300, intercept=False)
    return found.logits(msn_features(queries), 0).argmax(1)


class FewShot(Predictor):
    def __init__(self, bank: Features, config: LowShotConfig) -> None:
        super().__init__()
        self.x, self.labels, self.num_classes, self.config = bank.own, bank.labels, bank.num_classes, config
        self.sets = [draw(self.labels, self.num_classes, config, i) for i in range(config.draws)]
        self.selected = {n: len(s) for n, s in zip(config.names(), self.sets[0], strict=True)}

    def predict(self, x: Features) -> Tensor:
        """Classes [draws, settings, N]."""
        solve = predict_ridge if self.config.solver == "ridge" else predict_logistic
        return torch.stack([
            torch.stack([solve(self.x[s], self.labels[s], x.own, self.num_classes, self.config.penalty) for s in sets])
            for sets in self.sets
        ])  # fmt: skip


class LowShot(Protocol):
    version = 1
    headline = "shots10"
    config: LowShotConfig

    def fit(self, train: Features, val: Features, seed: int) -> FewShot:
        return FewShot(train + val, self.config)

    def classes(self, output: Tensor) -> None:
        return None  # five draws: no single correctness bit per image

    def score(self, output: Tensor, labels: Tensor, num_classes: int) -> dict[str, float]:
        accuracy = 100 * (output == labels).double().mean(2)  # [draws, settings]
        metrics = {}
        for name, column in zip(self.config.names(), accuracy.T, strict=True):
            metrics[name] = float(column.mean())
            metrics[f"{name}_std"] = float(column.std()) if len(column) > 1 else 0.0
        return metrics
