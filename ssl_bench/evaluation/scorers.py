"""The harness's scorers: from what a predictor returns and the truth of the test images to metrics, in percent.

A protocol names one (`scorer = Classification()`).
Shapes: N images, C classes, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_bench.data.factors import Factor
from ssl_bench.errors import UserError
from ssl_bench.rng import mix

QUERIES = 512  # ranked at a time: all of ImageNet's at once would take 40 GB


class Scorer:
    """Base of the harness's scorers, called as (output, truth, num_classes). A protocol's own one need not have it."""

    def __call__(self, output: Tensor, truth: Tensor, num_classes: int) -> dict[str, float]:
        raise NotImplementedError

    def judging(self, sealed: bool) -> Scorer:
        """The same for the test part, or for what is not sealed."""
        return self

    def bits(self, output: Tensor, classes: Tensor | None = None, truth: Tensor | None = None) -> Any:
        """bool [N], one bit per test item or episode, for paired tests; None where nothing is right or wrong."""
        return None if classes is None or truth is None else (classes == truth).numpy()

    def kept(self, output: Tensor, truth: Tensor) -> dict[str, Any]:
        """What else the record keeps of each image, for tests that pair them."""
        return {}


def classification(scores: Tensor, labels: Tensor, num_classes: int) -> dict[str, float]:
    """Top-1, top-5 and balanced accuracy (mean recall over the classes that occur), in percent.

    A class scored -inf is no guess: it is never among the five.
    """
    best = scores.topk(min(5, scores.shape[1]), dim=1)
    hits = (best.indices == labels[:, None]) & (best.values > -torch.inf)
    right = (scores.argmax(1) == labels).double()
    recall = [right[labels == c].mean() for c in labels.unique()]
    return {
        "top1": float(100 * right.mean()),
        "top5": float(100 * hits.any(1).double().mean()),
        "balanced": float(100 * torch.stack(recall).mean()),
    }


@dataclass(frozen=True)
class Classification(Scorer):
    """Of class scores [N, C]."""

    def __call__(self, output: Tensor, labels: Tensor, num_classes: int) -> dict[str, float]:
        return classification(output, labels, num_classes)


@dataclass(frozen=True)
class Votes(Scorer):
    """Of votes [draws, N, C]: means over draws, and the spread of top-1. A class without a vote is no guess."""

    def __call__(self, output: Tensor, labels: Tensor, num_classes: int) -> dict[str, float]:
        guesses = output.masked_fill(output == 0, -torch.inf)
        found = [classification(votes, labels, num_classes) for votes in guesses]
        metrics = {name: sum(f[name] for f in found) / len(found) for name in found[0]}
        if len(found) > 1:
            metrics["top1_std"] = float(torch.tensor([f["top1"] for f in found], dtype=torch.float64).std())
        return metrics


@dataclass(frozen=True)
class Settings(Scorer):
    """Of classes [draws, settings, N]: the accuracy under each name, its mean over draws and their spread."""

    names: tuple[str, ...]

    def __call__(self, output: Tensor, labels: Tensor, num_classes: int) -> dict[str, float]:
        accuracy = 100 * (output == labels).double().mean(2)  # [draws, settings]
        metrics: dict[str, float] = {}
        for name, column in zip(self.names, accuracy.T, strict=True):
            metrics[name] = float(column.mean())
            if len(column) > 1:
                metrics[f"{name}_std"] = float(column.std())
        return metrics


@dataclass(frozen=True)
class Ways(Scorer):
    """As `Settings`, each draw on the first `most` test images of each of its own classes, and on no others."""

    names: tuple[str, ...]
    ways: int
    most: int = 20  # of the published episodes (n-way m-shot on ModelNet40)

    def classes(self, draw: int, num_classes: int) -> Tensor:
        """The classes of a draw: the same for every method and seed."""
        if self.ways > num_classes:
            raise UserError(f"{self.ways} classes are asked for, and the set has {num_classes}: lower ways.")
        return torch.randperm(num_classes, generator=torch.Generator().manual_seed(mix("ways", draw)))[: self.ways]

    def __call__(self, output: Tensor, labels: Tensor, num_classes: int) -> dict[str, float]:
        found: dict[str, list[float]] = {name: [] for name in self.names}
        for i, draw in enumerate(output):
            own = [(labels == c).nonzero()[: self.most, 0] for c in self.classes(i, num_classes)]
            rows = torch.cat(own)
            for name, guess in zip(self.names, draw, strict=True):
                found[name].append(float(100 * (guess[rows] == labels[rows]).double().mean()))
        columns = {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}
        spread = {f"{name}_std": float(v.std()) for name, v in columns.items() if len(v) > 1}
        return {name: float(v.mean()) for name, v in columns.items()} | spread


@dataclass(frozen=True)
class Errors(Scorer):
    """Of classes [1 + corruptions x severities, N], those of the clean images first: the errors under corruption.

    A class of -1 says that the image was not seen so; every other answer counts the same.
    """

    corruptions: tuple[str, ...]
    severities: int

    def __call__(self, output: Tensor, labels: Tensor, num_classes: int) -> dict[str, float]:
        seen = output[1:] >= 0
        wrong = (100 * ((output[1:] != labels) & seen).double()).sum(1)
        wrong, seen = (x.reshape(len(self.corruptions), self.severities).double() for x in (wrong, seen.sum(1)))
        error, clean = float(wrong.sum() / seen.sum()), float(100 * (output[0] != labels).double().mean())
        metrics = {"error": error, "clean_top1": 100 - clean, "relative_error": error - clean}
        for kind, dim in ((self.corruptions, 1), (tuple(f"severity{i + 1}" for i in range(self.severities)), 0)):
            each = zip(kind, wrong.sum(dim).tolist(), seen.sum(dim).tolist(), strict=True)
            metrics |= {f"error@{name}": w / s for name, w, s in each if s}
        return metrics


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


@dataclass(frozen=True)
class Retrieval(Scorer):
    """Of unit vectors [N, D], each a query against all others: mAP, P@1 and R@k."""

    ks: tuple[int, ...]

    def __call__(self, output: Tensor, labels: Tensor, num_classes: int) -> dict[str, float]:
        found: dict[str, list[Tensor]] = {}  # of each query
        for relevant in ranked_relevance(output, labels):
            precision = relevant.double().cumsum(1) / torch.arange(1, relevant.shape[1] + 1)
            found.setdefault("map", []).append((precision * relevant).sum(1) / relevant.sum(1))
            found.setdefault("p@1", []).append(relevant[:, 0].double())
            for k in self.ks:
                found.setdefault(f"r@{k}", []).append(relevant[:, :k].any(1).double())
        if not len(torch.cat(found["map"])):
            raise UserError("retrieval looks for images of the query's class, and no class has two test images.")
        return {name: float(100 * torch.cat(parts).mean()) for name, parts in found.items()}


def matched_accuracy(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose cluster is matched to their class, under the best one-to-one matching."""
    from scipy.optimize import linear_sum_assignment  # imported for whom it serves: it takes half a second

    size = max(clusters.max(), labels.max()) + 1
    table = np.zeros((size, size), np.int64)
    np.add.at(table, (clusters, labels), 1)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / len(labels))


@dataclass(frozen=True)
class Clusters(Scorer):
    """Of clusters [restarts, N]: accuracy under the best matching, NMI and ARI, with their spread over restarts."""

    def __call__(self, output: Tensor, labels: Tensor, num_classes: int) -> dict[str, float]:
        from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

        truth, metrics = labels.numpy(), {}
        measures = {
            "acc": matched_accuracy,
            "nmi": lambda c, t: normalized_mutual_info_score(t, c),
            "ari": lambda c, t: adjusted_rand_score(t, c),
        }
        for name, measure in measures.items():
            found = [100 * float(measure(clusters.numpy(), truth)) for clusters in output]
            metrics[name] = float(np.mean(found))
            if len(found) > 1:
                metrics[f"{name}_std"] = float(np.std(found, ddof=1))
        return metrics


def explained(predicted: Tensor, truth: Tensor) -> Tensor:
    """Percent of variance explained [..., K] of [..., N, K]: 100 R2."""
    rest = (predicted - truth).square().sum(-2)
    return 100 * (1 - rest / (truth - truth.mean(-2, keepdim=True)).square().sum(-2))


@dataclass(frozen=True)
class Factors(Scorer):
    """Of the known factors [N, F] of a set: percent correct of choices, 100 R2 of numbers."""

    factors: tuple[Factor, ...] = ()

    def __call__(self, output: Tensor, targets: Tensor, num_classes: int) -> dict[str, float]:
        metrics, level = {}, []
        for f in self.factors:
            mine, truth = output[:, f.columns], targets[:, f.columns]
            if f.levels:
                metrics[f.name] = float(100 * (mine == truth).double().mean())
                level.append((metrics[f.name] - 100 / f.levels) / (1 - 1 / f.levels))
            else:
                metrics[f.name] = float(explained(mine.double(), truth.double()).mean())
                level.append(metrics[f.name])
        return {"mean": sum(max(0.0, v) for v in level) / len(level), **metrics}


def ranks(distances: Tensor) -> Tensor:
    """Of [N, K] that of the first column, counted from 1; equal ones share their mean rank."""
    first, others = distances[:, :1], distances[:, 1:]
    return 1 + (others < first).double().sum(1) + (others == first).double().sum(1) / 2


@dataclass(frozen=True)
class Ranks(Scorer):
    """Of distances [N, K] to K candidates, the true one's first: mean reciprocal rank, share of firsts, in percent.

    `chance`: the mean reciprocal rank where the order says nothing, (1 + 1/2 + ... + 1/K) / K.
    """

    def __call__(self, output: Tensor, labels: Tensor, num_classes: int) -> dict[str, float]:
        found, k = ranks(output), output.shape[1]
        by_chance = (1 / torch.arange(1, k + 1, dtype=torch.float64)).mean()
        values = {"mrr": (1 / found).mean(), "first": (found == 1).double().mean(), "chance": by_chance}
        return {name: float(100 * value) for name, value in values.items()}


@dataclass(frozen=True)
class Nothing(Scorer):
    """Of protocols that look at no test image."""

    def __call__(self, output: Tensor, labels: Tensor, num_classes: int) -> dict[str, float]:
        return {}


HARNESS = (
    Classification, Votes, Settings, Ways, Errors, Retrieval, Clusters, Factors, Ranks, Nothing,
)  # fmt: skip
