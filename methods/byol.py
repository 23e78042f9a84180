"""BYOL: predict a slow copy's projection of the other crop; no negatives.

Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020, arXiv 2006.07733.

Online encoder, projector and predictor; the target (EMA of encoder and projector) starts from other random weights, as
in the official code, and normalises by its own batch. Evaluated: the online encoder's CLS.
Adapted: the official code trains ResNets with LARS; there is no official ViT recipe. `paper` follows the ViT framework
of MoCo v3 (arXiv 2104.02057), which reports BYOL 71.0 with S/16 and 73.9 with B/16. The official code also trains a
classifier on stopped features; it changes nothing here and is left out.
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
from ssl_bench.training.method import DataInfo, Views, cosine, ema, frozen_copy
from ssl_bench.training.two_views import TwoViews
from ssl_bench.views.crops import TwoCrops, as_clips, as_sound, cloud_two_crops, small_two_crops


@dataclass(frozen=True)
class BYOLConfig(TwoCrops):
    """Defaults are those of configs/byol.py."""

    hidden: int = 4096  # width of projector and predictor
    out: int = 256  # dimensions of the projection
    momentum: float = 0.99  # EMA at the start, cosine to 1; 0.99 for 100 and 300 epochs, 0.996 for 1000


def byol_loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """Squared distance (0 to 4) of L2-normalised prediction and target [B, D], both directions summed, batch mean."""
    p1, p2, z1, z2 = (F.normalize(v, dim=-1) for v in (p1, p2, z1.detach(), z2.detach()))
    return ((p1 - z2).square().sum(-1) + (p2 - z1).square().sum(-1)).mean()


class BYOL(TwoViews):
    """Online network with a predictor, target network without."""

    family, paper = "self-distillation", "BYOL, Grill et al. 2020, arXiv 2006.07733"
    evaluated = "online encoder"
    objective: BYOLConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        o, dim = self.objective, config.backbone.embed_dim
        self.projector, projector = (MLP(dim, o.hidden, o.out) for _ in range(2))
        self.predictor = MLP(o.out, o.hidden, o.out)
        self.target = frozen_copy(self.make_vit(drop_path=0.0))
        self.target_projector = frozen_copy(projector)

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        crops = views["crops"]
        with torch.no_grad():
            targets = [self.target_projector(cls).float() for cls in self.target(crops)[:, 0].chunk(2)]
        online = [self.predictor(self.projector(cls)).float() for cls in self.encoder(crops)[:, 0].chunk(2)]
        return {"loss": byol_loss(*online, *targets)}

    def after_step(self, at: float) -> None:
        momentum = cosine(at, self.objective.momentum, 1.0)
        ema(self.target, self.encoder, momentum)
        ema(self.target_projector, self.projector, momentum)

    def flops(self) -> float:
        target = self.crop_flops + self.projector.flops()
        return 2 * (target + 3 * (target + self.predictor.flops()))


DEPARTS = {  # what leaves the paper, by recipe
    "points": "two regions of a cloud of points in place of crops, small heads",
    "paper": "a ViT with AdamW (official: ResNet with LARS)",
    "small, quick": "crops of 20 to 100 % without blur, a trained patch projection, small heads",
    "clips": "half of the views grey, crops of 50 to 100 % without blur, a trained patch projection, small heads",
    "sound": "crops of 60 to 100 % of a spectrogram, moved, louder or mixed, a trained patch projection, small heads",
}


def paper(backbone: str = "vit_small_patch16", **changes: Any) -> Config:
    """ViT-S/16, ImageNet-1k, 300 epochs; MoCo v3's paper reports linear 71.0 for its BYOL with this ViT.

    ssl-bench pretrain --method byol --recipe paper data.name=folder:/data/imagenet
    """
    return budgets.imagenet("byol", BYOLConfig(), vit_optim(300), backbone, 4096, 300, **changes)


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method byol"""
    return budgets.small("byol", _small(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method byol --recipe quick

    Its 300 steps are too few for this method: k-NN as of the untrained ViT. With ten times the FLOPs: k-NN 34.0,
    linear 50.9 (clothing48, one seed; ssl-bench compare --methods byol --recipe quick budget.flops=2.2e13).
    """
    return budgets.quick("byol", _small(), _optim(), **changes)


def sound(**changes: Any) -> Config:
    """On spectrograms: ssl-bench pretrain --method byol --recipe sound"""
    return budgets.quick_sounds("byol", as_sound(_small()), _optim(), **changes)


def points(**changes: Any) -> Config:
    """Two regions of a cloud of points: ssl-bench pretrain --method byol --recipe points"""
    return budgets.quick_points_cls("byol", cloud_two_crops(_small()), _optim(), **changes)


def clips(**changes: Any) -> Config:
    """On tubelets, all frames of a clip under one crop: ssl-bench pretrain --method byol --recipe clips"""
    return budgets.clips("byol", as_clips(_small()), _optim(), True, **changes)


def _small() -> BYOLConfig:
    return small_two_crops(BYOLConfig(hidden=256, out=64))


def _optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, warmup=0.1, weight_decay=0.05)
