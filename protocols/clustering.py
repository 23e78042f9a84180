"""`clustering`: do clusters found without labels agree with the classes?

Definition: k-means (Lloyd, k-means++ start) with K = number of classes on the L2-normalised features of the training
split (last layer, the encoder's own pooling); test images go to the nearest centre. ACC under the best one-to-one
matching of clusters to classes (Hungarian), NMI (arithmetic) and ARI, as in ibot/evaluation/unsupervised/unsup_cls.py.
Mean and standard deviation over ten restarts: a single or the best restart would be a lottery.

Changes: 1 first version.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.errors import UserError
from ssl_bench.evaluation import scorers
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol
from ssl_bench.rng import mix

CELLS = 1 << 24  # floats of the largest table; all of ImageNet's would be 51 GB


@dataclass(frozen=True)
class ClusteringConfig:
    restarts: int = 10
    iterations: int = 300  # at most, of Lloyd's algorithm
    clusters: int = 0  # 0: as many as there are classes


def kmeans(x: Tensor, k: int, restarts: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Centres [R, k, D] of all restarts for x [N, D]: one matrix product for all of them per iteration."""
    norms = x.square().sum(1, keepdim=True)
    first = x[torch.randint(len(x), (restarts,), generator=generator)]
    centres = first[:, None]
    nearest = torch.full((len(x), restarts), torch.inf)
    for _ in range(k - 1):  # k-means++: far images are likelier
        newest = centres[:, -1]
        nearest = torch.minimum(nearest, (norms - 2 * x @ newest.T + newest.square().sum(1)).clamp(min=1e-12))
        chosen = torch.multinomial(nearest.T, 1, generator=generator)[:, 0]
        centres = torch.cat([centres, x[chosen][:, None]], 1)
    assigned = torch.full((len(x), restarts), -1)
    for _ in range(iterations):
        fresh = assign(x, centres)
        if torch.equal(fresh, assigned):
            break
        assigned = fresh
        counts, sums = torch.zeros(restarts, k, 1), torch.zeros_like(centres)
        for rows, who in zip(x.split(piece(centres)), assigned.split(piece(centres)), strict=True):
            member = torch.zeros(len(rows), restarts, k).scatter_(2, who[..., None], 1.0)
            counts += member.sum(0)[..., None]
            sums += (member.view(len(rows), -1).T @ rows).view(restarts, k, -1)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres


def assign(x: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each image in each restart [N, R]."""
    flat, shape, offset = centres.flatten(0, 1).T, centres.shape[:2], 0.5 * centres.square().sum(2)
    return torch.cat([((rows @ flat).view(-1, *shape) - offset).argmax(2) for rows in x.split(piece(centres))])


def piece(centres: Tensor) -> int:
    """How many images make CELLS entries of a table over images, restarts and clusters."""
    return max(1, CELLS // (centres.shape[0] * centres.shape[1]))


class Clusters(Predictor):
    def __init__(self, x: Tensor, k: int, config: ClusteringConfig, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(mix("kmeans", seed))
        self.centres = kmeans(x, k, config.restarts, config.iterations, generator)
        self.selected = {"clusters": k}

    def predict(self, x: Features) -> Tensor:
        """Cluster of each image [restarts, N]."""
        return assign(F.normalize(x.own, dim=1), self.centres).T


class Clustering(Protocol):
    version = 1
    headline = "nmi"
    scorer = scorers.Clusters()
    config: ClusteringConfig

    def fit(self, train: Features, val: Features, seed: int) -> Clusters:
        both = train + val
        k = self.config.clusters or both.num_classes
        if k > len(both):
            raise UserError(f"clusters={k} needs as many training images, and there are {len(both)}: lower it.")
        return Clusters(F.normalize(both.own, dim=1), k, self.config, seed)

    def classes(self, output: Tensor) -> None:
        return None
