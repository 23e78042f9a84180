"""MAE: reconstruct the pixels of masked patches from the visible quarter.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv 2111.06377.

The encoder sees visible patches only; a small decoder gets them and mask tokens. The loss is the mean squared error
on masked patches, each normalised by its own mean and *unbiased* standard deviation (official models_mae.py).
Of points (Point-MAE, Pang et al. 2022, arXiv 2203.06604) the masked groups' coordinates by Chamfer distance.
Evaluated: the encoder; mean of the patch tokens (the paper fine-tunes from it; its linear probe uses CLS).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ssl_bench.config import budgets
from ssl_bench.config.bounds import refuse_heads
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.errors import UserError
from ssl_bench.models.pointdecoder import PointDecoder, group_loss
from ssl_bench.models.positions import sincos
from ssl_bench.models.vit import LayerNorm, ViT, block_flops, blocks, init_weights
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views
from ssl_bench.views import masks
from ssl_bench.views.augment import AugmentConfig, augment
from ssl_bench.views.clouds import CloudConfig
from ssl_bench.views.crops import as_sound, unmirrored


@dataclass(frozen=True)
class MAEConfig:
    """Defaults are the paper's."""

    augment: AugmentConfig = AugmentConfig(crop_scale=(0.2, 1.0), flip=0.5, interpolation="bicubic")  # PRETRAIN.md
    mask_ratio: float = 0.75  # share of the patches that is hidden
    norm_pix: bool = True  # reconstruct patches normalised one by one
    decoder_dim: int = 512  # width of the decoder
    decoder_depth: int = 8  # its blocks
    decoder_heads: int = 16  # its heads

    def check(self) -> None:
        self.augment.check()
        if not 0 < self.mask_ratio < 1:
            raise UserError(f"objective.mask_ratio={self.mask_ratio} must lie between 0 and 1.")
        refuse_heads("objective.", self, "decoder_dim", "decoder_heads")


def mae_loss(predicted: Tensor, patches: Tensor, mask: Tensor, norm_pix: bool = True) -> Tensor:
    """Mean squared error over the pixels of masked patches (mask [B, N], 1 = masked), mean over those patches.

    Normalised targets divide by the unbiased std with 1e-6 inside the root; F.layer_norm is biased and differs.
    """
    if norm_pix:
        var = patches.var(-1, keepdim=True)
        patches = (patches - patches.mean(-1, keepdim=True)) / (var + 1e-6).sqrt()
    per_patch = (predicted - patches).square().mean(-1)
    return (per_patch * mask).sum() / mask.sum()


class Decoder(nn.Module):
    """Visible tokens and mask tokens -> the pixels of every patch. Only pre-training has one."""

    def __init__(self, vit: ViT, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.num_prefix, self.depth = vit.num_prefix, depth
        self.embed = nn.Linear(vit.config.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        pos = torch.cat([torch.zeros(vit.num_prefix, dim), sincos(dim, vit.grid)])
        self.pos_embed = nn.Parameter(pos.unsqueeze(0), requires_grad=False)
        self.blocks = blocks(dim, depth, heads)
        self.norm = LayerNorm(dim)
        self.head = nn.Linear(dim, vit.patch_embed.numbers)
        init_weights(self)

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """tokens [B, P + n, D] at positions keep [B, n] -> pixels [B, N, C*p*p]."""
        x = self.embed(tokens)
        prefix, visible = x[:, : self.num_prefix], x[:, self.num_prefix :]
        n = self.pos_embed.shape[1] - self.num_prefix
        full = self.mask_token.to(x.dtype).expand(len(x), n, -1)
        full = full.scatter(1, keep.unsqueeze(-1).expand(-1, -1, x.shape[-1]), visible)
        x = torch.cat([prefix, full], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, self.num_prefix :]))

    def flops(self, visible: int) -> float:
        """Forward FLOPs per image."""
        dim, tokens = self.embed.out_features, self.pos_embed.shape[1]
        ends = 2.0 * dim * (visible * self.embed.in_features + tokens * self.head.out_features)
        return ends + block_flops(tokens, dim, self.depth)


class MAE(Method):
    """Encoder on the visible patches, decoder on all."""

    family, paper = "generative", "MAE, He et al. 2022, arXiv 2111.06377"
    sees, evaluated, pooling = "1 crop, 25 % of its patches", "encoder", "mean"
    kinds = ("image", "clip", "sound", "points")
    objective: MAEConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        self.encoder = self.make_vit()
        self.of_points = info.item.name == "points"
        if self.of_points and not o.norm_pix:
            raise UserError("objective.norm_pix is of pixels and has no effect on points: leave it out.")
        self.decoder = (PointDecoder if self.of_points else Decoder)(
            self.encoder, o.decoder_dim, o.decoder_depth, o.decoder_heads
        )

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        keep, mask = masks.random_keep(rng, self.encoder.num_patches, self.objective.mask_ratio)
        crop = augment(images, rng, self.info.size, self.objective.augment, self.mean, self.std)
        return {"images": crop, "keep": keep, "mask": mask}

    def reconstruct(self, images: Tensor, keep: Tensor) -> Tensor:
        """Predicted patches [B, N, C*p*p] (normalised ones, if norm_pix) from the visible positions keep [B, n]."""
        centres = (self.encoder.patch_embed.centres(images),) if self.of_points else ()
        return self.decoder(self.encoder(images, keep), keep, *centres)

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        predicted = self.reconstruct(views["images"], views["keep"]).float()
        patches = self.encoder.patch_embed.patches(views["images"])
        if self.of_points:
            return {"loss": group_loss(predicted, patches, views["mask"].float())}
        return {"loss": mae_loss(predicted, patches, views["mask"].float(), self.objective.norm_pix)}

    def flops(self) -> float:
        visible = int(self.encoder.num_patches * (1 - self.objective.mask_ratio))
        return 3 * (self.encoder.flops(visible) + self.decoder.flops(visible + self.encoder.num_prefix))


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "initialisation",
    "small, quick": "decoder of one block",
    "clips": "tubelets of a clip in place of patches, decoder of one block",
    "sound": "AudioMAE's spectrograms and 80 % hidden, crops and gain, global attention in a decoder of one block",
    "points": "Point-MAE's views and 60 % hidden, tokens of visible groups alone, decoder of one block",
}


def paper(backbone: str = "vit_base_patch16", **changes: Any) -> Config:
    """ViT-B/16, ImageNet-1k, 800 epochs: linear 67.8, fine-tuned 83.6 (official FINETUNE.md).

    ssl-bench pretrain --method mae --recipe paper data.name=folder:/data/imagenet
    """
    optim = OptimConfig(
        lr=1.5e-4 * 4096 / 256,  # blr 1.5e-4 by batch / 256
        warmup=40 / 800,
        weight_decay=0.05,
        beta2=0.95,
    )
    return budgets.imagenet("mae", MAEConfig(), optim, backbone, 4096, 800, **changes)


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method mae"""
    return budgets.small("mae", _small(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method mae --recipe quick"""
    return budgets.quick("mae", _small(), _optim(), **changes)


def clips(**changes: Any) -> Config:
    """On tubelets, any of them hidden by itself: ssl-bench pretrain --method mae --recipe clips"""
    return budgets.clips("mae", unmirrored(_small()), _optim(), **changes)


def sound(**changes: Any) -> Config:
    """On spectrograms, with AudioMAE's share hidden: ssl-bench pretrain --method mae --recipe sound"""
    objective = replace(as_sound(_small()), mask_ratio=0.8)
    return budgets.quick_sounds("mae", objective, _optim(), **changes)


def points(**changes: Any) -> Config:
    """On groups of points, after Point-MAE: ssl-bench pretrain --method mae --recipe points"""
    look = AugmentConfig(cloud=CloudConfig((2 / 3, 3 / 2), shift=0.2))
    return budgets.quick_points("mae", replace(_small(), mask_ratio=0.6, augment=look), _optim(), **changes)


def _small() -> MAEConfig:
    return MAEConfig(
        decoder_dim=64,
        decoder_depth=1,
        decoder_heads=4,
    )


def _optim() -> OptimConfig:
    return OptimConfig(lr=2e-3, warmup=0.1, weight_decay=0.05, beta2=0.95)
