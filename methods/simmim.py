"""SimMIM: regress the raw pixels of masked squares with a linear head; the encoder sees mask tokens.

Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling", CVPR 2022, arXiv 2111.09886.

Unlike MAE the encoder runs at full length: masked patches are replaced by a mask token after the patch embedding,
and the decoder is one linear map per token. L1 on masked pixels only. Adapted to the shared ViT: absolute sin-cos
positions (official: shared relative position bias), no LayerScale. Evaluated: the encoder without mask tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.errors import UserError
from ssl_bench.models.tokenizer import patchify
from ssl_bench.models.vit import init_weights
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views
from ssl_bench.views import masks
from ssl_bench.views.augment import AugmentConfig, augment


@dataclass(frozen=True)
class SimMIMConfig:
    """Defaults are the paper's (configs/vit_base__800ep)."""

    augment: AugmentConfig = AugmentConfig(crop_scale=(0.67, 1.0), flip=0.5)  # data_simmim.py
    mask_ratio: float = 0.6  # share of the squares that is hidden, rounded up
    mask_size: int = 2  # side of a masked square in patches; must divide the grid (32 px, at patch size 16)

    def check(self) -> None:
        self.augment.check()
        if not 0 < self.mask_ratio < 1:
            raise UserError(f"objective.mask_ratio={self.mask_ratio} must lie between 0 and 1.")


def simmim_loss(predicted: Tensor, patches: Tensor, mask: Tensor, channels: int = 3) -> Tensor:
    """L1 over the pixels of masked patches: sum / (masked pixels + 1e-5) / channels (official simmim.py).

    predicted and patches [B, N, C*p*p], mask [B, N] with 1 = masked.
    """
    per_patch = (predicted - patches).abs().sum(-1)
    pixels = mask.sum() * (patches.shape[-1] // channels)
    return (per_patch * mask).sum() / (pixels + 1e-5) / channels


class SimMIM(Method):
    """Encoder at full length, linear head."""

    family, paper = "generative", "SimMIM, Xie et al. 2022, arXiv 2111.09886"
    sees, evaluated, pooling = "1 crop, 60 % mask tokens", "encoder", "mean"
    objective: SimMIMConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        self.encoder = self.make_vit()
        if any(side % o.mask_size for side in self.encoder.grid):
            grid = " x ".join(map(str, self.encoder.grid))
            raise UserError(f"objective.mask_size={o.mask_size} must divide the grid of {grid} patches.")
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.backbone.embed_dim))
        self.head = nn.Linear(config.backbone.embed_dim, self.encoder.patch_embed.proj.weight[0].numel())
        init_weights(self.head)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        o = self.objective
        mask = masks.simmim(rng, self.encoder.grid, o.mask_ratio, o.mask_size)
        return {"images": augment(images, rng, self.info.size, o.augment, self.mean, self.std), "mask": mask}

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        images, mask = views["images"], views["mask"]
        tokens = self.encoder(images, mask=mask, mask_token=self.mask_token)[:, self.encoder.num_prefix :]
        patches = patchify(images, self.config.backbone.patch_size)
        return {"loss": simmim_loss(self.head(tokens).float(), patches, mask.float(), self.info.item.channels)}

    def flops(self) -> float:
        return 3 * (self.encoder.flops() + 2.0 * self.encoder.num_patches * self.head.weight.numel())


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "absolute positions, rate falls by a cosine",
    "small, quick": "absolute positions, hidden squares of one patch",
}


def paper(backbone: str = "vit_base_patch16", **changes: Any) -> Config:
    """ViT-B/16, ImageNet-1k, 800 epochs: fine-tuned 83.8 (official README).

    ssl-bench pretrain --method simmim --recipe paper data.name=folder:/data/imagenet
    """
    optim = OptimConfig(
        lr=1e-4 * 2048 / 512,  # base lr 1e-4 by batch / 512
        lr_end=1e-5 * 2048 / 512,  # official: a step of x0.1 at epoch 700; here the cosine ends there
        warmup=10 / 800,
        weight_decay=0.05,
        clip=5.0,
    )
    config = budgets.imagenet("simmim", SimMIMConfig(), optim, backbone, 2048, 800, **changes)
    return replace(config, backbone=replace(config.backbone, drop_path=0.1))


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method simmim"""
    return budgets.small("simmim", SimMIMConfig(mask_size=1), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method simmim --recipe quick"""
    return budgets.quick("simmim", SimMIMConfig(mask_size=1), _optim(), **changes)


def _optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, warmup=0.1, weight_decay=0.05, clip=5.0)
