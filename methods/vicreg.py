"""VICReg: pull two crops together, keep every dimension's variance up, keep dimensions uncorrelated.

Bardes, Ponce and LeCun, "VICReg: Variance-Invariance-Covariance Regularization", ICLR 2022, arXiv 2105.04906.

No negatives, no teacher, no normalisation: the three terms alone stop a collapse. Evaluated: the encoder's CLS, before
the expander.
Adapted: the official code trains ResNets with LARS; there is no ViT recipe. `paper` follows the ViT setting of MoCo v3
(arXiv 2104.02057): read its number as our own. With fewer images in a batch than dimensions the covariance cannot have
full rank: keep `out` below the batch size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.mocov3 import vit_optim
from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.models.projection import MLP
from ssl_bench.parallel import collectives
from ssl_bench.training.method import DataInfo, Views
from ssl_bench.training.two_views import TwoViews
from ssl_bench.views.crops import TwoCrops, as_clips, as_sound, cloud_two_crops, small_two_crops


@dataclass(frozen=True)
class VICRegConfig(TwoCrops):
    """Defaults are those of main_vicreg.py."""

    hidden: int = 8192  # width of the expander
    out: int = 8192  # dimensions of the embedding
    invariance: float = 25.0  # weight of the squared distance of the two views
    variance: float = 25.0  # weight of the hinge on every dimension's standard deviation
    covariance: float = 1.0  # weight of the squared off-diagonal covariances


def vicreg_terms(z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Invariance, variance and covariance terms of embeddings [N, D] x 2 (main_vicreg.py, VICReg.forward).

    The hinge is averaged over the two branches, the covariance term summed; both use N - 1.
    """
    dim, hinge, off_diagonal = z1.shape[1], [], []
    for z in (z1, z2):
        z = z - z.mean(0)
        hinge.append(F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean())
        covariance = z.T @ z / (len(z) - 1)
        off_diagonal.append((covariance.square().sum() - covariance.diagonal().square().sum()) / dim)
    return F.mse_loss(z1, z2), (hinge[0] + hinge[1]) / 2, off_diagonal[0] + off_diagonal[1]


class VICReg(TwoViews):
    """Encoder and expander."""

    family, paper = "redundancy", "VICReg, Bardes et al. 2022, arXiv 2105.04906"
    objective: VICRegConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        o = self.objective
        self.projector = MLP(config.backbone.embed_dim, o.hidden, o.out, layers=3)

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        z1, z2 = (self.projector(cls).float() for cls in self.encoder(views["crops"])[:, 0].chunk(2))
        with torch.autocast(z1.device.type, enabled=False):
            terms = vicreg_terms(collectives.gather(z1), collectives.gather(z2))
        logs = dict(zip(("invariance", "variance", "covariance"), terms, strict=True))
        return {"loss": sum(getattr(self.objective, k) * v for k, v in logs.items()), **logs}

    def flops(self) -> float:
        covariance = 2.0 * self.objective.out**2
        return 3 * 2 * (self.crop_flops + self.projector.flops() + covariance)


DEPARTS = {  # what leaves the paper, by recipe
    "points": "two regions of a cloud of points in place of crops, small heads",
    "paper": "a ViT with AdamW (official: ResNet with LARS)",
    "small, quick": "crops of 20 to 100 % without blur, a trained patch projection, small heads",
    "clips": "half of the views grey, crops of 50 to 100 % without blur, a trained patch projection, small heads",
    "sound": "crops of 60 to 100 % of a spectrogram, moved, louder or mixed, a trained patch projection, small heads",
}


def paper(backbone: str = "vit_small_patch16", **changes: Any) -> Config:
    """ViT-S/16, ImageNet-1k, 300 epochs: no published number (ResNet-50, 1000 epochs: linear 73.2).

    ssl-bench pretrain --method vicreg --recipe paper data.name=folder:/data/imagenet
    """
    return budgets.imagenet("vicreg", VICRegConfig(), vit_optim(300), backbone, 4096, 300, **changes)


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method vicreg"""
    return budgets.small("vicreg", _small(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method vicreg --recipe quick"""
    return budgets.quick("vicreg", _small(), _optim(), **changes)


def sound(**changes: Any) -> Config:
    """On spectrograms: ssl-bench pretrain --method vicreg --recipe sound"""
    return budgets.quick_sounds("vicreg", as_sound(_small()), _optim(), **changes)


def points(**changes: Any) -> Config:
    """Two regions of a cloud of points: ssl-bench pretrain --method vicreg --recipe points"""
    return budgets.quick_points_cls("vicreg", cloud_two_crops(_small()), _optim(), **changes)


def clips(**changes: Any) -> Config:
    """On tubelets, all frames of a clip under one crop: ssl-bench pretrain --method vicreg --recipe clips"""
    return budgets.clips("vicreg", as_clips(_small()), _optim(), True, **changes)


def _small() -> VICRegConfig:
    return small_two_crops(VICRegConfig(hidden=256, out=256))


def _optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, warmup=0.1, weight_decay=0.05)
