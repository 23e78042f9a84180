"""V-JEPA 2.1: a dense loss, on masked and on visible tokens, at several levels of the encoder; of clips and of images.

Mur-Labadia et al., "V-JEPA 2.1: Unlocking Dense Features in Video Self-Supervised Learning", 2026, arXiv 2603.14482.
The target is several levels of the EMA encoder on the whole item, each LayerNormed, concatenated; the student's levels
are fused by an MLP before the predictor, which predicts all tokens at once. Without a loss on visible tokens these
become registers of global information; they weigh less the farther they are from a masked one. Every level has a norm
of its own in both encoders, visible tokens a head; their weight rises from 5 to 10 % of training (steps 15,000 to
30,000 of 1000 x 300, hard-coded there).
Clips: V-JEPA's two masks and rotary positions. Images: absolute positions, one mask that is a union of blocks with an
exact count (official: 10 blocks of 15 %). Left out: one run on both kinds, rescaled initialisation, skipping of steps
with a loss spike. Read in facebookresearch/vjepa2 16de6c8, be434e4. Evaluated: the target encoder, mean of the patches.

Changes: 1 first version. 2 a LayerNorm per level (all had shared the encoder's), a head for visible tokens (one had
served both), no second linear map behind the fusion's GELU, and the visible loss starts at 5 % of training (0 before).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.config import budgets
from ssl_bench.config.bounds import refuse_heads
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.errors import UserError
from ssl_bench.models.predictor import Predictor
from ssl_bench.models.tokenizer import gather
from ssl_bench.models.vit import LayerNorm, block_flops, init_weights
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views, ema, frozen_copy
from ssl_bench.views import masks
from ssl_bench.views.augment import AugmentConfig, augment
from ssl_bench.views.crops import unmirrored
from ssl_bench.views.masks3d import multiblock3d

PARTS = ("keep", "masked", "keep_long", "masked_long")  # of views; a clip has two masks


@dataclass(frozen=True)
class VJEPA21Config:
    """Defaults are those of app/vjepa_2_1, but for the mask and the predictor's depth, which depend on the model."""

    augment: AugmentConfig = AugmentConfig(crop_scale=(0.3, 1.0), flip=0.5)  # crop and flip
    mask_ratio: float = 0.75  # share of an image's patches that is hidden, exactly (ours)
    levels: int = 4  # evenly spaced blocks that are targets, the last included: 3, 6, 9 and 12 of 12
    visible: float = 0.5  # weight of the loss on visible tokens (lambda)
    visible_warmup: float = 0.1  # share of training from which on it is whole: step 30,000 of 300,000
    momentum: float = 0.99925  # EMA, constant
    predictor_depth: int = 12  # blocks; 12 for B, 24 for larger ones
    predictor_dim: int = 384  # width
    predictor_heads: int = 12  # heads
    visible_start: float = 0.05  # share of training before which it is 0: step 15,000; then it rises linearly

    def check(self) -> None:
        self.augment.check()
        if not 0 < self.mask_ratio < 1:
            raise UserError(f"objective.mask_ratio={self.mask_ratio} must lie between 0 and 1.")
        if self.visible == 0 and (self.visible_start, self.visible_warmup) != (0.05, 0.1):
            raise UserError("objective.visible_start and visible_warmup have no effect with objective.visible=0.")
        if not 0 <= self.visible_start <= self.visible_warmup <= 1:
            raise UserError("objective.visible_start and visible_warmup must lie in [0, 1], in this order.")
        refuse_heads("objective.", self)


def distance_weights(keep: Tensor, masked: Tensor, grid: tuple[int, ...]) -> Tensor:
    """1 / sqrt(distance to the nearest masked token) of visible tokens keep [B, n], all axes of the grid alike."""
    visible, hidden = (torch.stack(torch.unravel_index(i, grid), -1).float() for i in (keep, masked))
    return torch.cdist(visible, hidden).amin(-1).rsqrt()


def visible_weight(at: float, peak: float, start: float, end: float) -> float:
    """lambda: 0 until `start`, `peak` from `end` on, a line between."""
    return peak * min(max(at - start, 0.0) / (end - start), 1.0) if end > start else peak * (at >= start)


def dense_loss(predicted: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """L1 on masked and on visible tokens: [B, n + m, D] with the n visible ones first, weights [B, n] of these."""
    error = (predicted - target).abs().mean(-1)
    n = weights.shape[1]
    return error[:, n:].mean(), (error[:, :n] * weights).mean()


class VJEPA21(Method):
    """Student and EMA target encoder with their levels' norms, fusion, I-JEPA's predictor with two heads."""

    family, paper = "JEPA", "V-JEPA 2.1, Mur-Labadia et al. 2026, arXiv 2603.14482"
    sees, evaluated, pooling = "1 crop, 25 % of its patches; of a clip 2 masks", "target encoder (EMA)", "mean"
    kinds = ("image", "clip")
    version = 2
    objective: VJEPA21Config

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        dim = config.backbone.embed_dim
        if not 0 < o.levels <= config.backbone.depth:
            raise UserError(f"objective.levels={o.levels} must lie in 1 to backbone.depth={config.backbone.depth}.")
        if info.item.name == "clip" and o.mask_ratio != VJEPA21Config.mask_ratio:
            raise UserError("objective.mask_ratio is of images and has no effect on clips: leave it out.")
        self.student, self.encoder = self.make_vit(), frozen_copy(self.make_vit(drop_path=0.0))
        self.encoder.load_state_dict(self.student.state_dict())
        self.norms = nn.ModuleList([LayerNorm(dim) for _ in range(o.levels - 1)])
        self.target_norms = frozen_copy(self.norms)
        self.fuse = nn.Sequential(nn.Linear(o.levels * dim, dim), nn.GELU())  # the predictor's first map follows
        self.predictor = Predictor(self.student, o.predictor_dim, o.predictor_depth, o.predictor_heads, o.levels * dim)
        self.visible_head = nn.Linear(o.predictor_dim, o.levels * dim)
        init_weights(nn.ModuleList([self.fuse, self.visible_head]))

    def masks(self, rng: Rng) -> list[tuple[Tensor, Tensor]]:
        """Visible and masked tokens, [B, n] and [B, m], of each mask: one of an image, two of a clip."""
        n, grid = self.student.num_patches, self.student.grid
        if len(grid) == 3:
            return [(m.context, m.targets) for m in multiblock3d(rng, grid)]
        count = int(n * self.objective.mask_ratio)
        mask = masks.beit_blocks(rng, grid, count / n, max(1, n // 12), (0.75, 1.5), exact=True)
        return [(masks.indices(~mask, n - count), masks.indices(mask, count))]

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        drawn = dict(zip(PARTS, itertools.chain(*self.masks(rng)), strict=False))
        return {"images": augment(images, rng, self.info.size, self.objective.augment, self.mean, self.std), **drawn}

    @torch.no_grad()
    def targets(self, images: Tensor) -> Tensor:
        """[B, N, levels * D]: every level through its own norm, then LayerNormed by itself, without parameters."""
        tokens = self.encoder.levels(images, self.target_norms).float()
        return F.layer_norm(tokens, tokens.shape[-1:]).flatten(2)

    def predict(self, images: Tensor, keep: Tensor, masked: Tensor) -> Tensor:
        """Visible and then masked tokens [B, n + m, levels * D]."""
        context = self.fuse(self.student.levels(images, self.norms, keep).flatten(2))
        tokens = self.predictor.norm(self.predictor.tokens(context, keep, masked[:, None])[:, 0])
        n = keep.shape[1]
        return torch.cat([self.visible_head(tokens[:, :n]), self.predictor.head(tokens[:, n:])], 1)

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        o, images, losses = self.objective, views["images"], []
        whole = self.targets(images)
        parts = [views[part] for part in PARTS if part in views]
        for keep, masked in zip(parts[::2], parts[1::2], strict=True):
            predicted, target = self.predict(images, keep, masked).float(), gather(whole, torch.cat([keep, masked], 1))
            losses.append(torch.stack(dense_loss(predicted, target, distance_weights(keep, masked, self.student.grid))))
        hidden, visible = torch.stack(losses).mean(0)
        weight = visible_weight(at, o.visible, o.visible_start, o.visible_warmup)
        return {"loss": hidden + weight * visible, "masked_loss": hidden, "visible_loss": visible}

    def after_step(self, at: float) -> None:
        ema(self.encoder, self.student, self.objective.momentum)
        ema(self.target_norms, self.norms, self.objective.momentum)

    def flops(self) -> float:
        o, dim, total = self.objective, self.config.backbone.embed_dim, self.student.flops()
        draws = [self.masks(Rng(s, self.config.budget.batch_size, device=self.mean.device)) for s in range(16)]
        for parts in zip(*draws, strict=True):  # those of a clip vary from batch to batch
            keep, masked = (round(sum(part[i].shape[1] for part in parts) / len(parts)) for i in (0, 1))
            linear = keep * o.levels * dim**2 + o.predictor_dim * dim * (keep + (keep + masked) * o.levels)
            predictor = 2.0 * linear + block_flops(keep + masked, o.predictor_dim, o.predictor_depth)
            total += 3 * (self.student.flops(keep) + predictor)
        return total


_SMALL = VJEPA21Config(mask_ratio=0.6, levels=2, momentum=0.99, predictor_depth=2, predictor_dim=64, predictor_heads=4)
_OPTIM = OptimConfig(lr=1e-3, lr_end=1e-6, warmup=0.1, weight_decay=0.05)
DEPARTS = {  # what leaves the paper, by recipe
    "paper": "images alone, absolute positions, one mask of an exact size",
    "small, quick": "images alone, absolute positions, 2 levels (official: 4), 60 % hidden",
    "clips": "clips alone, 2 levels (official: 4), predictor of 2 blocks, tubelets of all frames",
}


def paper(backbone: str = "vit_base_patch16", **changes: Any) -> Config:
    """V-JEPA 2.1's optimizer and predictor on ImageNet-1k: expect no published number, the originals train on video.

    ssl-bench pretrain --method vjepa21 --recipe paper data.name=folder:/data/imagenet
    """
    optim = OptimConfig(lr=6e-4, lr_start=1e-4, lr_end=1e-6, warmup=0.04, weight_decay=0.04)  # there constant
    return budgets.imagenet("vjepa21", VJEPA21Config(), optim, backbone, 2048, 300, **changes)


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method vjepa21"""
    return budgets.small("vjepa21", _SMALL, _OPTIM, **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method vjepa21 --recipe quick"""
    return budgets.quick("vjepa21", _SMALL, _OPTIM, **changes)


def clips(**changes: Any) -> Config:
    """Clips, with rotary positions: ssl-bench pretrain --method vjepa21 --recipe clips"""
    objective = replace(unmirrored(_SMALL), mask_ratio=VJEPA21Config.mask_ratio)
    config = budgets.clips("vjepa21", objective, _OPTIM, **changes)
    return replace(config, backbone=replace(config.backbone, pos_embed="rope"))
