"""SimCLR: two crops of an image find each other among all other crops of the batch.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, arXiv 2002.05709.

NT-Xent over both directions; the code sums them, where the paper averages over the 2N crops: half of it. Evaluated:
the encoder's CLS, before the projector.
Adapted: the official code trains ResNets with LARS; there is no official ViT recipe. `paper` follows the ViT framework
of MoCo v3 (arXiv 2104.02057: AdamW, weight decay 0.1, frozen patch projection, SimCLR 69.0 with S/16, 73.9 with B/16).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.mocov3 import vit_optim
from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.errors import UserError
from ssl_bench.models.projection import MLP
from ssl_bench.parallel import collectives
from ssl_bench.training.method import DataInfo, Views
from ssl_bench.training.two_views import TwoViews
from ssl_bench.views.augment import AugmentConfig
from ssl_bench.views.crops import COLOUR, TwoCrops, as_clips, as_sound, cloud_two_crops, small_two_crops

STRONG = replace(COLOUR, crop_scale=(0.08, 1.0), brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur_p=0.5)


@dataclass(frozen=True)
class SimCLRConfig(TwoCrops):
    """Defaults are those of the official tf2/ code for ImageNet."""

    view_1: AugmentConfig = STRONG  # both views alike, colour strength 1
    view_2: AugmentConfig = STRONG  # both views alike
    hidden: int = 2048  # width of the projector
    out: int = 128  # dimensions that are compared
    layers: int = 3  # SimCLR v2; the paper has 2
    temperature: float = 0.1  # of the softmax; 0.5 for CIFAR

    def check(self) -> None:
        super().check()
        if self.temperature <= 0:
            raise UserError(f"objective.temperature={self.temperature} must be positive.")


def simclr_loss(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """NT-Xent of embeddings [B, D] x 2, the sum of both directions (tf2/objective.py, add_contrastive_loss).

    Each crop is classified among the other view's crops and its own view's, without itself, of all processes.
    """
    z1, z2 = F.normalize(z1, dim=-1), F.normalize(z2, dim=-1)
    all_1, all_2 = collectives.gather(z1), collectives.gather(z2)
    labels = torch.arange(len(z1), device=z1.device) + len(z1) * collectives.rank()
    itself = F.one_hot(labels, len(all_1)).bool()

    def direction(a: Tensor, same: Tensor, other: Tensor) -> Tensor:
        own = (a @ same.T).masked_fill(itself, -1e9)
        return F.cross_entropy(torch.cat([a @ other.T, own], 1) / temperature, labels)

    return direction(z1, all_1, all_2) + direction(z2, all_2, all_1)


class SimCLR(TwoViews):
    """Encoder and projector."""

    family, paper = "contrastive", "SimCLR, Chen et al. 2020, arXiv 2002.05709"
    objective: SimCLRConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        o = self.objective
        self.projector = MLP(config.backbone.embed_dim, o.hidden, o.out, o.layers, end="norm")

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        z = self.projector(self.encoder(views["crops"])[:, 0])  # BatchNorm over both views together, as in the code
        with torch.autocast(z.device.type, enabled=False):
            z1, z2 = z.float().chunk(2)
            return {"loss": simclr_loss(z1, z2, self.objective.temperature)}

    def flops(self) -> float:
        return 3 * 2 * (self.crop_flops + self.projector.flops())


DEPARTS = {  # what leaves the paper, by recipe
    "points": "two regions of a cloud of points in place of crops, small heads",
    "paper": "a ViT with AdamW (official: ResNet with LARS)",
    "small, quick": "colours of BYOL, projector of 2 layers, crops of 20 to 100 % without blur, a "
    "trained patch projection, small heads",
    "sound": "crops of 60 to 100 % of a spectrogram, moved, louder or mixed, a trained patch projection, small heads",
    "clips": "colours of BYOL, half of the views grey, crops of 50 to 100 % without blur, projector of 2 layers",
}


def paper(backbone: str = "vit_small_patch16", **changes: Any) -> Config:
    """ViT-S/16, ImageNet-1k, 300 epochs; MoCo v3's paper reports linear 69.0 for its SimCLR with this ViT.

    ssl-bench pretrain --method simclr --recipe paper data.name=folder:/data/imagenet
    """
    return budgets.imagenet("simclr", SimCLRConfig(), vit_optim(300), backbone, 4096, 300, **changes)


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method simclr"""
    return budgets.small("simclr", _small(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method simclr --recipe quick"""
    return budgets.quick("simclr", _small(), _optim(), **changes)


def sound(**changes: Any) -> Config:
    """On spectrograms: ssl-bench pretrain --method simclr --recipe sound"""
    return budgets.quick_sounds("simclr", as_sound(_small()), _optim(), **changes)


def points(**changes: Any) -> Config:
    """Two regions of a cloud of points: ssl-bench pretrain --method simclr --recipe points"""
    return budgets.quick_points_cls("simclr", cloud_two_crops(_small()), _optim(), **changes)


def clips(**changes: Any) -> Config:
    """On tubelets, all frames of a clip under one crop: ssl-bench pretrain --method simclr --recipe clips

    What two views share is to be motion (crops.as_clips): it is told from the untrained ViT, and nothing is told by
    one frame: results/README.md.
    """
    return budgets.clips("simclr", as_clips(_small()), _optim(), True, **changes)


def _small() -> SimCLRConfig:
    return small_two_crops(SimCLRConfig(hidden=256, out=64, layers=2, temperature=0.2))


def _optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, warmup=0.1, weight_decay=0.05)
