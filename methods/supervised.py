"""Supervised: the same ViT and budget with labels, the row that says how much labels are worth here.

The reference that normalised scores are measured against. Recipe after DeiT (Touvron et al. 2021, arXiv 2012.12877)
without its distillation: cross-entropy with label smoothing on crops and flips. Evaluated: the encoder's CLS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, OptimConfig, vit
from ssl_bench.errors import UserError
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views
from ssl_bench.views.augment import AugmentConfig, augment
from ssl_bench.views.crops import CLOUD, as_sound, unmirrored


@dataclass(frozen=True)
class SupervisedConfig:
    """Defaults for ImageNet."""

    augment: AugmentConfig = AugmentConfig(crop_scale=(0.08, 1.0), flip=0.5, interpolation="bicubic")  # Inception-style
    label_smoothing: float = 0.1  # DeiT

    def check(self) -> None:
        self.augment.check()
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"objective.label_smoothing={self.label_smoothing} must lie in [0, 1).")


class Supervised(Method):
    """A linear classifier on the encoder's pooled token."""

    family, paper = "supervised", "DeiT recipe, Touvron et al. 2021, arXiv 2012.12877"
    sees, evaluated, pooling = "1 crop and its label", "encoder", "cls"
    uses_labels = True
    kinds = ("image", "clip", "sound", "points")
    objective: SupervisedConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = config.objective
        if not config.backbone.class_token:
            raise UserError("supervised needs backbone.class_token=true: its classifier sits on CLS.")
        self.encoder = self.make_vit()
        self.head = nn.Linear(config.backbone.embed_dim, info.num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        return {"images": augment(images, rng, self.info.size, self.objective.augment, self.mean, self.std)}

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        logits = self.head(self.encoder(views["images"])[:, 0]).float()
        loss = F.cross_entropy(logits, views["labels"], label_smoothing=self.objective.label_smoothing)
        return {"loss": loss, "train_accuracy": (logits.argmax(1) == views["labels"]).float().mean()}

    def flops(self) -> float:
        return 3 * (self.encoder.flops() + 2.0 * self.head.weight.numel())


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "no RandAugment, mixup or erasing",
    "points": "clouds of points, turned, scaled and shaken, in place of images",
    "small, quick, clips": "no RandAugment, mixup or erasing, crops of 30 to 100 %",
    "sound": "crops of 60 to 100 % of a spectrogram, moved, louder or mixed",
}


def paper(backbone: str = "vit_small_patch16", **changes: Any) -> Config:
    """DeiT-S without distillation, RandAugment, mixup and erasing: expect less than its 79.8.

    ssl-bench pretrain --method supervised --recipe paper data.name=folder:/data/imagenet
    """
    optim = OptimConfig(lr=5e-4 * 1024 / 512, lr_end=1e-5, warmup=5 / 300, weight_decay=0.05)
    return budgets.imagenet("supervised", SupervisedConfig(), optim, backbone, 1024, 300, **changes)


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method supervised"""
    return budgets.small("supervised", _small(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method supervised --recipe quick"""
    return budgets.quick("supervised", _small(), _optim(), **changes)


def sound(**changes: Any) -> Config:
    """On spectrograms: ssl-bench pretrain --method supervised --recipe sound"""
    return budgets.quick_sounds("supervised", as_sound(_small()), _optim(), **changes)


def points(**changes: Any) -> Config:
    """On clouds of points: ssl-bench pretrain --method supervised --recipe points"""
    return budgets.quick_points_cls("supervised", SupervisedConfig(CLOUD), _optim(), **changes)


def clips(**changes: Any) -> Config:
    """On tubelets, with a CLS token: ssl-bench pretrain --method supervised --recipe clips"""
    backbone = vit("micro_patch4", tubelet=8)
    return budgets.clips("supervised", unmirrored(_small()), _optim(), **({"backbone": backbone} | changes))


def _small() -> SupervisedConfig:
    return SupervisedConfig(
        augment=AugmentConfig(crop_scale=(0.3, 1.0), flip=0.5),
    )


def _optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, warmup=0.1, weight_decay=0.05)
