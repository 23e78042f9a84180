"""Barlow Twins: the cross-correlation of two crops' embeddings must be the identity.

Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", ICML 2021, arXiv 2103.03230.

Ones on the diagonal make dimensions agree between views; zeros beside it make them say different things. Evaluated:
the encoder's CLS, before the projector.
Adapted: the official code trains ResNets with LARS and averages gradients of the local share of the correlation; here
the gradient is that of the whole batch. There is no ViT recipe: `paper` follows the ViT setting of MoCo v3
(arXiv 2104.02057): read its number as our own. Keep `out` below the batch size, or the correlation lacks rank.
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
class BarlowConfig(TwoCrops):
    """Defaults are those of main.py."""

    hidden: int = 8192  # width of the projector
    out: int = 8192  # dimensions of the embedding
    redundancy: float = 0.0051  # lambda: weight of the off-diagonal terms


def barlow_loss(z1: Tensor, z2: Tensor, redundancy: float) -> Tensor:
    """Sum of (c_ii - 1)^2 plus lambda times the sum of c_ij^2, c the correlation [D, D] of embeddings [N, D] x 2.

    Standardised per dimension as BatchNorm does: biased variance, 1e-5 inside the root.
    """
    z1, z2 = (F.batch_norm(z, None, None, training=True) for z in (z1, z2))
    c = z1.T @ z2 / len(z1)
    diagonal = c.diagonal()
    return (diagonal - 1).square().sum() + redundancy * (c.square().sum() - diagonal.square().sum())


class Barlow(TwoViews):
    """Encoder and projector."""

    family, paper = "redundancy", "Barlow Twins, Zbontar et al. 2021, arXiv 2103.03230"
    objective: BarlowConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        o = self.objective
        self.projector = MLP(config.backbone.embed_dim, o.hidden, o.out, layers=3)

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        z1, z2 = (self.projector(cls).float() for cls in self.encoder(views["crops"])[:, 0].chunk(2))
        with torch.autocast(z1.device.type, enabled=False):
            return {"loss": barlow_loss(collectives.gather(z1), collectives.gather(z2), self.objective.redundancy)}

    def flops(self) -> float:
        correlation = 2.0 * self.objective.out**2  # one product of both views
        return 3 * (2 * (self.crop_flops + self.projector.flops()) + correlation)


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "a ViT with AdamW (official: ResNet with LARS)",
    "small, quick": "crops of 20 to 100 % without blur, a trained patch projection, small heads",
    "clips": "half of the views grey, crops of 50 to 100 % without blur, a trained patch projection, small heads",
    "sound": "crops of 60 to 100 % of a spectrogram, moved, louder or mixed, a trained patch projection, small heads",
    "points": "two regions of a cloud of points in place of crops, small heads",
}


def paper(backbone: str = "vit_small_patch16", **changes: Any) -> Config:
    """ViT-S/16, ImageNet-1k, 300 epochs: no published number (ResNet-50, 1000 epochs: linear 73.2).

    ssl-bench pretrain --method barlow --recipe paper data.name=folder:/data/imagenet
    """
    return budgets.imagenet("barlow", BarlowConfig(), vit_optim(300), backbone, 4096, 300, **changes)


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method barlow"""
    return budgets.small("barlow", _small(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method barlow --recipe quick"""
    return budgets.quick("barlow", _small(), _optim(), **changes)


def clips(**changes: Any) -> Config:
    """On tubelets, all frames of a clip under one crop: ssl-bench pretrain --method barlow --recipe clips"""
    return budgets.clips("barlow", as_clips(_small()), _optim(), True, **changes)


def sound(**changes: Any) -> Config:
    """On spectrograms: ssl-bench pretrain --method barlow --recipe sound"""
    return budgets.quick_sounds("barlow", as_sound(_small()), _optim(), **changes)


def points(**changes: Any) -> Config:
    """Two regions of a cloud of points: ssl-bench pretrain --method barlow --recipe points"""
    return budgets.quick_points_cls("barlow", cloud_two_crops(_small()), _optim(), **changes)


def _small() -> BarlowConfig:
    return small_two_crops(BarlowConfig(hidden=256, out=256, redundancy=0.02))


def _optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, warmup=0.1, weight_decay=0.05)
