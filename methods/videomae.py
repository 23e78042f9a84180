"""VideoMAE: reconstruct the cubes of a clip from the tenth of its places that is seen, the same places at all times.

Tong et al., "VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training",
NeurIPS 2022, arXiv 2203.12602; with `decode` below 1 the dual masking of VideoMAE V2 (Wang et al. 2023, 2303.16727).

The encoder sees visible tubelets only; a small decoder gets them, then mask tokens. A target is a cube normalised for
every colour by itself, over its t * p * p numbers, by the unbiased standard deviation plus 1e-6 (image MAE normalises
over pixels and colours together). No flip in pre-training. Positions are a table over the flattened token index.
Evaluated: the encoder; mean of the tokens (the paper fine-tunes from it).
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
from ssl_bench.models.positions import sincos
from ssl_bench.models.tokenizer import gather
from ssl_bench.models.vit import LayerNorm, ViT, block_flops, blocks, init_weights, run
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views
from ssl_bench.views.augment import AugmentConfig, augment
from ssl_bench.views.masks import indices
from ssl_bench.views.masks3d import running_cells, tubes


@dataclass(frozen=True)
class VideoMAEConfig:
    """Defaults are the paper's for Kinetics."""

    augment: AugmentConfig = AugmentConfig(crop_scale=(0.44, 1.0), crop_ratio=(0.75, 1.33), flip=0.0)  # see `views`
    mask_ratio: float = 0.9  # share of the places that is hidden, at all times alike (UCF101: .75)
    decode: float = 1.0  # share of the cubes that is reconstructed: 1, or 0.5 by V2's running cells
    norm_cubes: bool = True  # reconstruct cubes normalised colour by colour
    decoder_dim: int = 384  # half of the encoder's width
    decoder_depth: int = 4  # blocks
    decoder_heads: int = 6  # one per 64 channels

    def check(self) -> None:
        self.augment.check()
        if not 0 < self.mask_ratio < 1 or self.decode not in (0.5, 1.0):
            raise UserError("objective.mask_ratio must lie between 0 and 1, and objective.decode be 1 or 0.5.")
        refuse_heads("objective.", self, "decoder_dim", "decoder_heads")


def cubes(clips: Tensor, tubelet: int, patch: int, normalise: bool = True) -> Tensor:
    """Targets [B, N, t*p*p*C] of clips [B, T, C, H, W] in [0, 1], numbers in the order frame, row, column, colour."""
    b, t, c, h, w = clips.shape
    grid = clips.reshape(b, t // tubelet, tubelet, c, h // patch, patch, w // patch, patch)
    x = grid.permute(0, 1, 4, 6, 2, 5, 7, 3).reshape(b, -1, tubelet * patch * patch, c)
    if normalise:
        x = (x - x.mean(2, keepdim=True)) / (x.var(2, keepdim=True).sqrt() + 1e-6)
    return x.flatten(2)


def videomae_loss(predicted: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean squared error over cubes [B, m, K]; of V2, over those that are `counted` [B, m] (decoded and not seen)."""
    error = (predicted - target).square().mean(-1)
    return error.mean() if counted is None else (error * counted).sum() / counted.sum()


class Decoder(nn.Module):
    """Visible tokens, then mask tokens -> the cubes of the latter. Only pre-training has one."""

    def __init__(self, vit: ViT, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.depth = depth
        self.embed = nn.Linear(vit.config.embed_dim, dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(sincos(dim, vit.grid, "sincos_1d")[None], requires_grad=False)
        self.blocks = blocks(dim, depth, heads)
        self.norm = LayerNorm(dim)
        self.head = nn.Linear(dim, vit.patch_embed.proj.weight[0].numel())
        init_weights(self)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def forward(self, tokens: Tensor, keep: Tensor, asked: Tensor) -> Tensor:
        """tokens [B, n, D] at positions keep [B, n] -> cubes [B, m, K] at positions asked [B, m]."""
        pos = self.pos_embed.expand(len(tokens), -1, -1)
        seen = self.embed(tokens) + gather(pos, keep)
        x = run(self.blocks, torch.cat([seen, (self.mask_token + gather(pos, asked)).to(seen.dtype)], 1))
        return self.head(self.norm(x[:, -asked.shape[1] :]))

    def flops(self, visible: int, asked: int) -> float:
        """Forward FLOPs per clip."""
        dim = self.embed.out_features
        ends = 2.0 * dim * (visible * self.embed.in_features + asked * self.head.out_features)
        return ends + block_flops(visible + asked, dim, self.depth)


class VideoMAE(Method):
    """Encoder on the visible tubelets, decoder on all or half of them."""

    family, paper = "generative", "VideoMAE, Tong et al. 2022, arXiv 2203.12602"
    sees, evaluated, pooling = "1 crop of a clip, 10 % of its places", "encoder", "mean"
    kinds = ("clip",)
    objective: VideoMAEConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        self.encoder = self.make_vit()
        self.decoder = Decoder(self.encoder, o.decoder_dim, o.decoder_depth, o.decoder_heads)

    def views(self, clips: Tensor, rng: Rng, at: float) -> Views:
        """The official multi-scale corner crop (sides .66 to 1) is a random crop of about that scale here."""
        o, grid = self.objective, self.encoder.grid
        keep, mask = tubes(rng, grid, o.mask_ratio)
        decoded = mask
        if o.decode < 1:
            decoded = ~running_cells(grid, (4 * rng.rand()).long())
        asked = indices(decoded, int(decoded[0].sum()))
        crop = augment(clips, rng, self.info.size, o.augment, self.mean, self.std)
        return {"clips": crop, "keep": keep, "asked": asked, "counted": mask.gather(1, asked)}

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        c, clips, asked = self.config.backbone, views["clips"], views["asked"]
        tokens = self.encoder(clips, views["keep"])[:, self.encoder.num_prefix :]
        predicted = self.decoder(tokens, views["keep"], asked).float()
        pixels = clips * self.std + self.mean  # as there, what is normalised is not what was normalised before
        target = gather(cubes(pixels, c.tubelet, c.patch_size, self.objective.norm_cubes), asked)
        return {"loss": videomae_loss(predicted, target, views["counted"].float())}

    def flops(self) -> float:
        o, n = self.objective, self.encoder.num_patches
        keep, mask = tubes(Rng(0, 1), self.encoder.grid, o.mask_ratio)
        asked = int(mask.sum()) if o.decode == 1 else n // 2
        return 3 * (self.encoder.flops(keep.shape[1]) + self.decoder.flops(keep.shape[1], asked))


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "initialisation, random resized crops in place of multi-scale corner crops",
    "small, quick": "decoder of one block",
    "clips": "decoder of one block, CLS, tubelets of all frames",
}


def paper(backbone: str = "vit_base_patch16", **changes: Any) -> Config:
    """ViT-B/16, Kinetics-400, 1600 epochs of 16 frames of 224 px: K400 81.5, SSv2 70.8, fine-tuned.

    ssl-bench pretrain --method videomae --recipe paper
    """
    optim = OptimConfig(
        lr=1.5e-4 * 2048 / 256,  # 1.5e-4 by batch / 256
        lr_start=1e-6 * 2048 / 256, lr_end=1e-5 * 2048 / 256, warmup=40 / 1600, weight_decay=0.05, beta2=0.95,
    )  # fmt: skip
    steps = 1600 * 240_000 // 2048  # of the about 240,000 films of the training split
    config = budgets.films("videomae", VideoMAEConfig(), optim, backbone, 2048, steps, **changes)
    return replace(config, backbone=replace(config.backbone, pos_embed="sincos_1d"))


def small(**changes: Any) -> Config:
    """8 frames of 32 px. ssl-bench pretrain --method videomae"""
    return budgets.small_clips("videomae", _small(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """A first look at motion: ssl-bench pretrain --method videomae --recipe quick"""
    return budgets.quick_clips("videomae", _small(), _optim(), **changes)


def clips(**changes: Any) -> Config:
    """What is compared on motion, with a CLS token: ssl-bench pretrain --method videomae --recipe clips"""
    return budgets.clips("videomae", _small(), _optim(), True, **changes)


def _small() -> VideoMAEConfig:
    return VideoMAEConfig(decoder_dim=64, decoder_depth=1, decoder_heads=2)


def _optim() -> OptimConfig:
    return OptimConfig(lr=2e-3, warmup=0.1, weight_decay=0.05, beta2=0.95)
