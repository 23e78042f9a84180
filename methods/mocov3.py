"""MoCo v3: contrast each crop with momentum-encoded keys of the other, made steady for ViTs.

Chen, Xie and He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021, arXiv 2104.02057.

Queries pass encoder, projector and predictor; keys the momentum encoder and projector, which move *before* the keys are
made. InfoNCE over the keys of all processes, both directions, times 2T. The patch projection stays at its random start,
and weight decay acts on everything. Evaluated: the base encoder's CLS, not the momentum encoder.
Adapted to the shared ViT: its initialisation (official: q, k, v apart, CLS N(0, 1e-6)) and its sin-cos order (official:
rows first). `paper` has the official 12 heads for ViT-S.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.errors import UserError
from ssl_bench.models.projection import MLP
from ssl_bench.parallel import collectives
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Views, cosine, ema, frozen_copy
from ssl_bench.training.two_views import TwoViews
from ssl_bench.views.crops import TwoCrops, as_clips, as_sound, cloud_two_crops, small_two_crops


@dataclass(frozen=True)
class MoCoV3Config(TwoCrops):
    """Defaults are those of CONFIG.md for ViT-S and B."""

    hidden: int = 4096  # width of projector and predictor
    out: int = 256  # dimensions that are compared
    temperature: float = 0.2  # of the softmax
    momentum: float = 0.99  # EMA at the start, cosine to 1

    def check(self) -> None:
        super().check()
        if self.temperature <= 0:
            raise UserError(f"objective.temperature={self.temperature} must be positive.")


def contrastive_loss(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """InfoNCE of queries [B, D] among the keys of all processes, times 2T (builder.py, contrastive_loss)."""
    queries, keys = F.normalize(queries, dim=-1), collectives.gather(F.normalize(keys, dim=-1))
    labels = torch.arange(len(queries), device=queries.device) + len(queries) * collectives.rank()
    return F.cross_entropy(queries @ keys.T / temperature, labels) * 2 * temperature


class MoCoV3(TwoViews):
    """Base network with a predictor, momentum network without."""

    family, paper = "contrastive", "MoCo v3, Chen et al. 2021, arXiv 2104.02057"
    evaluated = "base encoder"
    objective: MoCoV3Config

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        o = self.objective
        self.projector = MLP(config.backbone.embed_dim, o.hidden, o.out, layers=3, end="whiten")
        self.predictor = MLP(o.out, o.hidden, o.out, end="whiten")
        self.momentum_encoder = frozen_copy(self.encoder)
        self.momentum_projector = frozen_copy(self.projector)
        self.moved_at = -1.0  # the step whose update is done: its micro-batches share one; nothing to restore

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        """The crops; and the momentum network moves towards the newest base network before it encodes them.

        Not inside `forward`: there, sharded parameters are gathered copies, and a change of those would be lost.
        """
        if self.training and at != self.moved_at:
            momentum, self.moved_at = cosine(at, self.objective.momentum, 1.0), at
            ema(self.momentum_encoder, self.encoder, momentum)
            ema(self.momentum_projector, self.projector, momentum)
        return super().views(images, rng, at)

    @torch.no_grad()
    def keys(self, crops: Tensor) -> list[Tensor]:
        """The momentum network's projections of both views [B, D]."""
        return [self.momentum_projector(cls).float() for cls in self.momentum_encoder(crops)[:, 0].chunk(2)]

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        crops, temperature = views["crops"], self.objective.temperature
        k1, k2 = self.keys(crops)
        q1, q2 = (self.predictor(self.projector(cls)).float() for cls in self.encoder(crops)[:, 0].chunk(2))
        with torch.autocast(crops.device.type, enabled=False):
            return {"loss": contrastive_loss(q1, k2, temperature) + contrastive_loss(q2, k1, temperature)}

    def flops(self) -> float:
        keys = self.crop_flops + self.projector.flops()
        return 2 * (keys + 3 * (keys + self.predictor.flops()))


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "initialisation and order of positions",
    "small, quick": "crops of 20 to 100 % without blur, a trained patch projection, small heads, no decay of biases",
    "clips": "half of the views grey, crops of 50 to 100 %, trained patches, small heads, no decay of biases",
    "sound": "crops of a spectrogram, moved, louder or mixed, trained patches, small heads, no decay of biases",
    "points": "two regions of a cloud of points in place of crops, small heads, no decay of biases",
}


def paper(backbone: str = "vit_small_patch16", **changes: Any) -> Config:
    """ViT-S/16 with 12 heads, ImageNet-1k, 300 epochs: linear 73.2 (official README).

    ssl-bench pretrain --method mocov3 --recipe paper data.name=folder:/data/imagenet
    """
    config = budgets.imagenet("mocov3", MoCoV3Config(), vit_optim(300), backbone, 4096, 300, **changes)
    if backbone.startswith("vit_small"):
        config = replace(config, backbone=replace(config.backbone, num_heads=12))  # vits.py: 6 elsewhere
    return config


def vit_optim(epochs: int) -> OptimConfig:
    """The ViT setting of MoCo v3's paper for all two-crop methods, at batch 4096."""
    return OptimConfig(
        lr=1.5e-4 * 4096 / 256,  # 1.5e-4 by batch / 256
        warmup=40 / epochs,
        weight_decay=0.1,
        decay_all=True,  # main_moco.py hands all parameters to AdamW in one group
    )


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method mocov3"""
    return budgets.small("mocov3", _small(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method mocov3 --recipe quick"""
    return budgets.quick("mocov3", _small(), _optim(), **changes)


def clips(**changes: Any) -> Config:
    """On tubelets, all frames of a clip under one crop: ssl-bench pretrain --method mocov3 --recipe clips"""
    return budgets.clips("mocov3", as_clips(_small()), _optim(), True, **changes)


def sound(**changes: Any) -> Config:
    """On spectrograms: ssl-bench pretrain --method mocov3 --recipe sound"""
    return budgets.quick_sounds("mocov3", as_sound(_small()), _optim(), **changes)


def points(**changes: Any) -> Config:
    """Two regions of a cloud of points: ssl-bench pretrain --method mocov3 --recipe points"""
    return budgets.quick_points_cls("mocov3", cloud_two_crops(_small()), _optim(), **changes)


def _small() -> MoCoV3Config:
    return small_two_crops(MoCoV3Config(hidden=256, out=64))


def _optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, warmup=0.1, weight_decay=0.05)
