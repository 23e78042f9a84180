"""V-JEPA 2.1 on images: a dense loss, on masked and on visible tokens, at several levels of the encoder.

Mur-Labadia et al., "V-JEPA 2.1: Unlocking Dense Features in Video Self-Supervised Learning", 2026, arXiv 2603.14482.

Without a loss on visible tokens these become registers of global information; with it they keep their place. The
target is several levels of the EMA encoder on the full image, each LayerNormed, concatenated; the student's levels
are fused by an MLP before the predictor, which predicts all tokens at once. Visible tokens weigh less the farther they
are from a masked one.
Every level has a LayerNorm of its own in both encoders, the last one the encoder's; visible tokens are predicted by a
head of their own; their weight is 0 at first, then rises (hard-coded official steps 15,000 to 30,000, here the same
shares of 1000 x 300 steps, so that a short run sees it too).
Adapted to images: I-JEPA's predictor and positions (official: 3-D RoPE, modality vectors, rescaled initialisation); one
mask that is a union of blocks with an exact count (official for images: 10 blocks of 15 %); no skipping of steps with a
loss spike. Read in facebookresearch/vjepa2 16de6c8, be434e4. Evaluated: the target encoder (EMA), mean of the patches.

Changes: 1 first version. 2 a LayerNorm per level (all had shared the encoder's), a head for visible tokens (one had
served both), no second linear map behind the fusion's GELU, and the visible loss starts at 5 % of training (0 before).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.errors import UserError
from ssl_bench.models.predictor import Predictor
from ssl_bench.models.tokenizer import gather
from ssl_bench.models.vit import LayerNorm, ViT, block_flops, init_weights
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views, ema, frozen_copy
from ssl_bench.views import masks
from ssl_bench.views.augment import AugmentConfig, augment


@dataclass(frozen=True)
class VJEPA21Config:
    """Defaults are those of app/vjepa_2_1, but for the mask and the predictor's depth, which depend on the model."""

    augment: AugmentConfig = AugmentConfig(crop_scale=(0.3, 1.0), flip=0.5)  # crop and flip
    mask_ratio: float = 0.75  # share of the patches that is hidden, exactly (ours)
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
        usual = (VJEPA21Config.visible_start, VJEPA21Config.visible_warmup)
        if self.visible == 0 and (self.visible_start, self.visible_warmup) != usual:
            raise UserError("objective.visible_start and visible_warmup have no effect with objective.visible=0.")
        if not 0 <= self.visible_start <= self.visible_warmup <= 1:
            raise UserError("objective.visible_start and visible_warmup must lie in [0, 1], in this order.")
        if self.predictor_dim % self.predictor_heads:
            raise UserError("objective.predictor_dim must be divisible by objective.predictor_heads.")


def distance_weights(keep: Tensor, masked: Tensor, width: int) -> Tensor:
    """1 / sqrt(distance to the nearest masked patch) of visible patches keep [B, n], in patches of a grid's rows."""
    visible, hidden = (torch.stack((i // width, i % width), -1).float() for i in (keep, masked))
    return torch.cdist(visible, hidden).amin(-1).rsqrt()


def visible_weight(at: float, peak: float, start: float, end: float) -> float:
    """lambda: 0 until `start`, `peak` from `end` on, a line between."""
    return peak * min(max(at - start, 0.0) / (end - start), 1.0) if end > start else peak * (at >= start)


def dense_loss(predicted: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """L1 on masked and on visible tokens: [B, n + m, D] with the n visible ones first, weights [B, n] of these."""
    error = (predicted - target).abs().mean(-1)
    n = weights.shape[1]
    return error[:, n:].mean(), (error[:, :n] * weights).mean()


def levels(vit: ViT, norms: nn.ModuleList, images: Tensor, keep: Tensor | None = None) -> Tensor:
    """Patch tokens [B, n, L, D] of L evenly spaced blocks, each through its own norm, the last through the ViT's."""
    x, depth, found, each = vit.embed(images, keep), len(vit.blocks), [], [*norms, vit.norm]
    wanted = [(i + 1) * depth // len(each) - 1 for i in range(len(each))]
    for i, block in enumerate(vit.blocks):
        x = block(x)
        if i in wanted:
            found.append(each[wanted.index(i)](x)[:, vit.num_prefix :])
    return torch.stack(found, 2)


class VJEPA21(Method):
    """Student and EMA target encoder with their levels' norms, fusion, I-JEPA's predictor with two heads."""

    family, paper = "JEPA", "V-JEPA 2.1, Mur-Labadia et al. 2026, arXiv 2603.14482 (adapted to images)"
    sees, evaluated, pooling = "1 crop, 25 % of its patches", "target encoder (EMA)", "mean"
    version = 2
    objective: VJEPA21Config

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        dim = config.backbone.embed_dim
        if not 0 < o.levels <= config.backbone.depth:
            raise UserError(f"objective.levels={o.levels} must lie in 1 to backbone.depth={config.backbone.depth}.")
        self.student, self.encoder = self.make_vit(), frozen_copy(self.make_vit(drop_path=0.0))
        self.encoder.load_state_dict(self.student.state_dict())
        self.norms = nn.ModuleList([LayerNorm(dim) for _ in range(o.levels - 1)])
        self.target_norms = frozen_copy(self.norms)
        self.fuse = nn.Sequential(nn.Linear(o.levels * dim, dim), nn.GELU())  # the predictor's first map follows
        self.predictor = Predictor(self.student, o.predictor_dim, o.predictor_depth, o.predictor_heads, o.levels * dim)
        self.visible_head = nn.Linear(o.predictor_dim, o.levels * dim)
        for module in (self.fuse, self.visible_head):
            init_weights(module)

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        n = self.student.num_patches
        count = int(n * self.objective.mask_ratio)
        mask = masks.beit_blocks(rng, self.student.grid, count / n, max(1, n // 12), (0.75, 1.5), exact=True)
        crop = augment(images, rng, self.info.size, self.objective.augment, self.mean, self.std)
        return {"images": crop, "keep": masks.indices(~mask, n - count), "masked": masks.indices(mask, count)}

    @torch.no_grad()
    def targets(self, images: Tensor) -> Tensor:
        """[B, N, levels * D]: every level through its own norm, then LayerNormed by itself, without parameters."""
        tokens = levels(self.encoder, self.target_norms, images).float()
        return F.layer_norm(tokens, tokens.shape[-1:]).flatten(2)

    def predict(self, images: Tensor, keep: Tensor, masked: Tensor) -> Tensor:
        """Visible and then masked tokens [B, n + m, levels * D]."""
        context = self.fuse(levels(self.student, self.norms, images, keep).flatten(2))
        tokens = self.predictor.norm(self.predictor.tokens(context, keep, masked[:, None])[:, 0])
        n = keep.shape[1]
        return torch.cat([self.visible_head(tokens[:, :n]), self.predictor.head(tokens[:, n:])], 1)

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        o, keep, masked = self.objective, views["keep"], views["masked"]
        target = gather(self.targets(views["images"]), torch.cat([keep, masked], 1))
        predicted = self.predict(views["images"], keep, masked).float()
        hidden, visible = dense_loss(predicted, target, distance_weights(keep, masked, self.student.grid[1]))
        weight = visible_weight(at, o.visible, o.visible_start, o.visible_warmup)
        return {"loss": hidden + weight * visible, "masked_loss": hidden, "visible_loss": visible}

    def after_step(self, at: float) -> None:
        ema(self.encoder, self.student, self.objective.momentum)
        ema(self.target_norms, self.norms, self.objective.momentum)

    def flops(self) -> float:
        o, dim, n = self.objective, self.config.backbone.embed_dim, self.student.num_patches
        keep = n - int(n * o.mask_ratio)
        fuse = 2.0 * keep * o.levels * dim**2
        ends = 2.0 * o.predictor_dim * (keep * dim + n * o.levels * dim)
        predictor = ends + block_flops(n, o.predictor_dim, o.predictor_depth)
        return self.student.flops() + 3 * (self.student.flops(keep) + fuse + predictor)


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "images alone, absolute positions, one mask of an exact size",
    "small, quick": "images alone, absolute positions, 2 levels (official: 4), 60 % hidden",
}


def paper(backbone: str = "vit_base_patch16", **changes: Any) -> Config:
    """V-JEPA 2.1's optimizer and predictor on ImageNet-1k: expect no published number, the originals train on video.

    ssl-bench pretrain --method vjepa21 --recipe paper data.name=folder:/data/imagenet
    """
    optim = OptimConfig(lr=6e-4, lr_start=1e-4, lr_end=1e-6, warmup=0.04, weight_decay=0.04)  # there constant
    return budgets.imagenet("vjepa21", VJEPA21Config(), optim, backbone, 2048, 300, **changes)


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method vjepa21"""
    return budgets.small("vjepa21", _small(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method vjepa21 --recipe quick"""
    return budgets.quick("vjepa21", _small(), _optim(), **changes)


def _small() -> VJEPA21Config:
    return VJEPA21Config(
        mask_ratio=0.6, levels=2, momentum=0.99, predictor_depth=2, predictor_dim=64, predictor_heads=4
    )


def _optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, lr_end=1e-6, warmup=0.1, weight_decay=0.05)
