"""SimSiam: BYOL without a target network; a predictor and a stop-gradient are enough.

Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021, arXiv 2011.10566.

Negative cosine of one view's prediction and the other's detached projection. The predictor's learning rate stays at
its peak (`--fix-pred-lr`), without warm-up or decay: it must keep up with the projections. Evaluated: the encoder's
CLS.
Adapted: the official code trains ResNets with SGD (lr 0.05 by batch / 256); no ViT recipe is published. `paper` uses
AdamW and the ViT setting of MoCo v3 (arXiv 2104.02057): read its number as our own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from methods.mocov3 import vit_optim
from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.models.projection import MLP
from ssl_bench.training.method import DataInfo, Views
from ssl_bench.training.two_views import TwoViews
from ssl_bench.views.augment import AugmentConfig
from ssl_bench.views.crops import COLOUR, TwoCrops, as_clips, as_sound, cloud_two_crops, small_two_crops

WEAK = replace(  # main_simsiam.py: MoCo v2's augmentation, bilinear as torchvision's default
    COLOUR, crop_scale=(0.2, 1.0), saturation=0.4, blur_p=0.5, interpolation="bilinear"
)


@dataclass(frozen=True)
class SimSiamConfig(TwoCrops):
    """Defaults are those of main_simsiam.py."""

    view_1: AugmentConfig = WEAK  # both views alike
    view_2: AugmentConfig = WEAK  # both views alike
    out: int = 2048  # width of the projector and of the embeddings
    predictor_hidden: int = 512  # the predictor's bottleneck: a quarter
    fix_predictor_lr: bool = True  # constant learning rate for the predictor


def simsiam_loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """-(cos(p1, z2) + cos(p2, z1)) / 2 with predictions p and detached projections z [B, D], batch mean."""
    cosines = F.cosine_similarity(p1, z2.detach(), dim=-1) + F.cosine_similarity(p2, z1.detach(), dim=-1)
    return -0.5 * cosines.mean()


class SimSiam(TwoViews):
    """Encoder, projector and predictor."""

    family, paper = "self-distillation", "SimSiam, Chen and He 2021, arXiv 2011.10566"
    objective: SimSiamConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        o = self.objective
        self.projector = MLP(config.backbone.embed_dim, o.out, o.out, layers=3, end="whiten")
        self.predictor = MLP(o.out, o.predictor_hidden, o.out, end="bias")

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        z1, z2 = (self.projector(cls) for cls in self.encoder(views["crops"])[:, 0].chunk(2))
        p1, p2 = self.predictor(z1), self.predictor(z2)
        std = F.normalize(z1.detach().float(), dim=-1).std(0).mean() * self.objective.out**0.5  # 1 spread, 0 collapsed
        return {"loss": simsiam_loss(p1.float(), p2.float(), z1.float(), z2.float()), "z_std": std}

    def param_groups(self) -> list[dict[str, Any]]:
        groups = super().param_groups()
        if not self.objective.fix_predictor_lr:
            return groups
        theirs = set(self.predictor.parameters())
        return [
            {**group, "params": [p for p in group["params"] if (p in theirs) == constant], "lr_constant": constant}
            for group in groups
            for constant in (False, True)
        ]

    def flops(self) -> float:
        return 3 * 2 * (self.crop_flops + self.projector.flops() + self.predictor.flops())


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "a ViT with AdamW (official: ResNet with SGD)",
    "small, quick": "crops of 20 to 100 % without blur, a trained patch projection, small heads",
    "clips": "half of the views grey, crops of 50 to 100 % without blur, a trained patch projection, small heads",
    "sound": "crops of 60 to 100 % of a spectrogram, moved, louder or mixed, a trained patch projection, small heads",
    "points": "two regions of a cloud of points in place of crops, small heads",
}


def paper(backbone: str = "vit_small_patch16", **changes: Any) -> Config:
    """ViT-S/16, ImageNet-1k, 100 epochs: no published number (ResNet-50: linear 68.1).

    ssl-bench pretrain --method simsiam --recipe paper data.name=folder:/data/imagenet
    """
    return budgets.imagenet("simsiam", SimSiamConfig(), vit_optim(100), backbone, 4096, 100, **changes)


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method simsiam"""
    return budgets.small("simsiam", _small(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method simsiam --recipe quick

    Its 300 steps are too few for this method: k-NN as of the untrained ViT. With ten times the FLOPs: k-NN 44.4,
    linear 55.3 (clothing48, one seed; ssl-bench compare --methods simsiam --recipe quick budget.flops=2.2e13).
    """
    return budgets.quick("simsiam", _small(), _optim(), **changes)


def clips(**changes: Any) -> Config:
    """On tubelets, all frames of a clip under one crop: ssl-bench pretrain --method simsiam --recipe clips"""
    return budgets.clips("simsiam", as_clips(_small()), _optim(), True, **changes)


def sound(**changes: Any) -> Config:
    """On spectrograms: ssl-bench pretrain --method simsiam --recipe sound"""
    return budgets.quick_sounds("simsiam", as_sound(_small()), _optim(), **changes)


def points(**changes: Any) -> Config:
    """Two regions of a cloud of points: ssl-bench pretrain --method simsiam --recipe points"""
    return budgets.quick_points_cls("simsiam", cloud_two_crops(_small()), _optim(), **changes)


def _small() -> SimSiamConfig:
    return small_two_crops(SimSiamConfig(out=256, predictor_hidden=64))


def _optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, warmup=0.1, weight_decay=0.05)
