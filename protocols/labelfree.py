"""`labelfree`: what can be said of an encoder without a label, on the training split.

Definition, on features Z [N, D] of the last layer in the encoder's own pooling, at most 25,600 images (N is stored, as
RankMe grows with it; compare only runs of the same D and N):
rankme      exp of the entropy of p = sigma / sum(sigma) + 1e-7, not centred, float64 (arXiv 2210.02885)
alpha       alpha-ReQ: slope of ln eigenvalue j of the centred covariance on ln j, weights 1 / j, over [11, 50) cut to
            half the rank; near 1 is good (arXiv 2202.05808). The range is stored: the value depends on it
lidar       effective rank of between-image over within-image covariance of 10 views of each of 100 images,
            delta 1e-4, epsilon 1e-8 (arXiv 2312.04000; n, q as in stable-pretraining, the paper's are not known)
std         std of unit vectors over images, mean over dimensions, times sqrt(D): 1 isotropic, 0 collapsed (SimSiam)
uniformity  ln of the mean of exp(-2 |x - y|^2) over pairs of unit vectors (arXiv 2005.10242)
twonn       intrinsic dimension N / sum ln(r2 / r1) (Facco et al. 2017); the largest tenth of the ratios counts as
            censored at the largest that is kept (leaving it out would overstate the dimension by a third)
cosine, correlation, dead: mean cosine of pairs; mean |correlation| off the diagonal; share of dimensions with
            variance below 1e-4

Views for lidar are random resized crops (scale 0.3-1), flips and colour jitter; texts have none, and no lidar. Above
2048 dimensions lidar is left out and N is 1,000. uniformity and twonn, which compare pairs, take at most 5,000 of N.

Changes: 1 first version.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.config.schema import bounded
from ssl_bench.errors import UserError
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol, refuse_idle
from ssl_bench.evaluation.scorers import Nothing
from ssl_bench.rng import Rng, mix
from ssl_bench.training.monitor import feature_std, mean_cosine, rankme
from ssl_bench.views.augment import AugmentConfig

WIDE, LEAST = 2048, 3  # twonn needs two neighbours


@dataclass(frozen=True)
class LabelFreeConfig:
    images: int = bounded(25_600, least=LEAST)  # at most (RankMe's number)
    eps: float = 1e-7  # of RankMe
    fit_from: int = 11  # alpha-ReQ's range of eigenvalues, counted from 1
    fit_to: int = 50
    lidar_images: int = bounded(100, least=0)  # each a class of its own; 0: no LiDAR
    lidar_views: int = bounded(10, least=2)  # whose covariance within an image is taken
    lidar_delta: float = 1e-4

    def check(self) -> None:
        if not self.lidar_images:
            refuse_idle(self, "with lidar_images=0", "lidar_views", "lidar_delta")
        if self.lidar_images == 1:
            raise UserError("lidar_images=1 has no covariance between images: set 2 or more, or 0 for none.")
        if self.fit_from + 3 > self.fit_to:
            raise UserError(f"fit_from={self.fit_from} must be at least 3 below fit_to={self.fit_to}.")


def alpha_req(z: Tensor, start: int, stop: int) -> float:
    """The exponent of eigenvalue j ~ j^-alpha over [start, stop), j from 1."""
    z = z.double() - z.double().mean(0)
    values = torch.linalg.svdvals(z).square()[start - 1 : stop - 1]
    j = torch.arange(start, start + len(values), dtype=torch.float64)
    x, y, w = j.log(), values.clamp(min=1e-300).log(), 1 / j
    x, y = x - (w * x).sum() / w.sum(), y - (w * y).sum() / w.sum()
    return float(-(w * x * y).sum() / (w * x * x).sum())


def lidar(views: Tensor, delta: float = 1e-4, eps: float = 1e-8) -> float:
    """Of embeddings [images, views, D]."""
    views = views.double()
    n, q, d = views.shape
    means = views.mean(1)
    between = torch.cov(means.T)
    rest = (views - means[:, None]).flatten(0, 1)
    within = rest.T @ rest / (n * (q - 1)) + delta * torch.eye(d, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(within)
    root = vectors / values.sqrt() @ vectors.T
    p = torch.linalg.eigvalsh(root @ between @ root).clamp(min=0)
    p = p / p.sum() + eps
    return float(torch.exp(-(p * p.log()).sum()))


def uniformity(z: Tensor) -> float:
    """Over all distinct pairs of at most 5,000 unit vectors."""
    return float(torch.pdist(F.normalize(z[:5000].double(), dim=1)).square().mul(-2).exp().mean().log())


def two_nn(z: Tensor, discard: float = 0.1) -> float:
    """Intrinsic dimension from the ratio of the distances to the two nearest neighbours."""
    z = z[:5000].double()
    near = torch.cat([torch.cdist(part, z).topk(3, largest=False).values for part in z.split(512)])
    logs = (near[:, 2] / near[:, 1].clamp(min=1e-12)).log().sort().values
    kept = logs[: round(len(z) * (1 - discard))]
    return float(len(kept) / (kept.sum() + (len(logs) - len(kept)) * kept[-1]).clamp(min=1e-12))


def correlation(z: Tensor) -> tuple[float, float]:
    """Mean |correlation| off the diagonal, and the share of dimensions with variance below 1e-4."""
    z = z.double()
    live = z[:, z.var(0) >= 1e-4]
    dead = 1 - live.shape[1] / z.shape[1]
    if live.shape[1] < 2:
        return 1.0, dead
    c, d = torch.corrcoef(live.T).abs(), live.shape[1]
    return float((c.sum() - d) / (d * (d - 1))), dead


class Measured(Predictor):
    def predict(self, x: Features) -> Tensor:
        return torch.zeros(0)  # everything was measured on the training split


class LabelFree(Protocol):
    version = 1
    input = "images"  # for the views of LiDAR
    headline = "rankme"
    scorer = Nothing()
    config: LabelFreeConfig

    def fit(self, train: Features, val: Features, seed: int) -> Measured:
        both, c = train + val, self.config
        if len(both) < LEAST:
            raise UserError(f"labelfree needs {LEAST} training images or more, and there are {len(both)}.")
        order = torch.randperm(len(both), generator=torch.Generator().manual_seed(mix("labelfree", seed)))
        wide = both.own.shape[1] > WIDE
        z = both.own[order[: min(c.images, 1000) if wide else c.images]]
        stop = min(c.fit_to, min(z.shape) // 2)
        found = Measured()
        found.selected = {"images": len(z), "eps": c.eps, "fit_from": min(c.fit_from, stop - 3), "fit_to": stop}
        off_diagonal, dead = correlation(z[:, :WIDE])
        found.measured = {
            "rankme": rankme(z, c.eps), "rankme_centred": rankme(z - z.mean(0), c.eps),
            "alpha": alpha_req(z, min(c.fit_from, stop - 3), stop), "std": feature_std(z), "cosine": mean_cosine(z),
            "uniformity": uniformity(z), "twonn": two_nn(z), "correlation": off_diagonal, "dead": dead,
        }  # fmt: skip
        if c.lidar_images and not wide and train.encoder.varied:
            found.measured["lidar"] = lidar(self.views(both, order[: c.lidar_images].numpy(), seed), c.lidar_delta)
        found.measured = {k: v for k, v in found.measured.items() if math.isfinite(v)}
        return found

    @torch.no_grad()
    def views(self, x: Features, rows: np.ndarray, seed: int) -> Tensor:
        """[images, views, D] of random views of the images `rows`."""
        e, out = x.encoder, []
        colour = x.items.batch(rows[:1]).shape[1] == 3
        look = AugmentConfig(crop_scale=(0.3, 1.0), brightness=0.4, contrast=0.4, jitter_p=0.8, saturation=0.2 * colour)
        images = x.items.batch(rows)
        for i in range(self.config.lidar_views):
            rng = Rng(mix("views", seed, i), len(rows), device=e.device)
            out.append(e.forward(e.view(images, rng, look), 1)[x.pooling][:, -1].cpu())
        return torch.stack(out, 1)

    def classes(self, output: Tensor) -> None:
        return None
