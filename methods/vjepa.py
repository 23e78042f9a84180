"""V-JEPA: predict the latent tokens of large blocks through all frames of a clip from what is left.

Bardes et al., "Revisiting Feature Prediction for Learning Visual Representations from Video", 2024, arXiv 2404.08471.
Tokens are tubelets. Two masks of a clip, of 8 small and of 2 large blocks that last the whole clip; the context is what
they leave. The target encoder (EMA) sees the whole clip, once for both masks; its tokens get a second LayerNorm without
parameters. The loss is L1, averaged over the two masks, all targets of a mask are predicted together, and each mask has
its own mask token. Lists are cut to the shortest of the batch, as published; `cut` says what else can be done.
Evaluated: the target encoder, mean of the tokens (the paper: an attentive probe on them).
"""

from __future__ import annotations

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
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views, ema, frozen_copy, linear
from ssl_bench.views.augment import AugmentConfig, augment
from ssl_bench.views.crops import unmirrored
from ssl_bench.views.masks3d import Blocks, Cut, Masks, additive, multiblock3d


@dataclass(frozen=True)
class VJEPAConfig:
    """Defaults are the released configs'."""

    augment: AugmentConfig = AugmentConfig(crop_scale=(0.3, 1.0), crop_ratio=(0.75, 1.35), flip=0.5)  # all frames alike
    short_blocks: int = 8  # blocks of the first mask
    short_scale: tuple[float, float] = (0.15, 0.15)  # share of the frame that each covers
    long_blocks: int = 2  # blocks of the second mask
    long_scale: tuple[float, float] = (0.7, 0.7)  # share of the frame that each covers
    duration: tuple[float, float] = (1.0, 1.0)  # share of the frames that a block lasts
    aspect: tuple[float, float] = (0.75, 1.5)  # height / width of a block
    cut: Cut = "first"  # lists to the batch's shortest, as published; spread: at random places; pad: nothing is lost
    norm_targets: bool = True  # LayerNorm without parameters on targets
    loss_exponent: float = 1.0  # mean of |error|^p / p
    spread_weight: float = 0.0  # of mean(relu(1 - std of predictions)), 0 in every released config
    momentum: float = 0.998  # EMA at the start
    momentum_end: float = 1.0  # and at the end, linear
    stretch: float = 1.25  # the EMA's line is that of a run so many times longer, and cut (`ipe_scale`)
    predictor_depth: int = 12  # blocks
    predictor_dim: int = 384  # width
    predictor_heads: int = 16  # the encoder's
    own_mask_tokens: bool = True  # one per mask; V-JEPA 2's code uses the first for both

    def check(self) -> None:
        self.augment.check()
        refuse_heads("objective.", self)
        if self.stretch < 1 or self.loss_exponent <= 0:
            raise UserError("objective.stretch must be at least 1, and objective.loss_exponent positive.")

    @property
    def masks(self) -> tuple[Blocks, Blocks]:
        return (
            Blocks(self.short_blocks, self.short_scale, self.duration, self.aspect),
            Blocks(self.long_blocks, self.long_scale, self.duration, self.aspect),
        )


def vjepa_loss(predicted: Tensor, target: Tensor, exponent: float = 1.0, real: Tensor | None = None) -> Tensor:
    """Mean of |predicted - target|^p / p over tokens [B, m, D] that are `real` [B, m] (None: all)."""
    error = (predicted - target).abs().pow(exponent).mean(-1) / exponent
    return error.mean() if real is None else (error * real).sum() / real.sum()


def token_std(predicted: Tensor) -> Tensor:
    """Std over the tokens of each clip [B, m, D] -> [B, D]; below 1 it is what the regulariser pushes up."""
    return (predicted.var(1) + 1e-4).sqrt()


class VJEPA(Method):
    """Student, EMA target encoder, predictor."""

    family, paper = "JEPA", "V-JEPA, Bardes et al. 2024, arXiv 2404.08471"
    sees, evaluated, pooling = "1 crop of a clip, 2 masks of it", "target encoder (EMA)", "mean"
    kinds = ("clip",)
    objective: VJEPAConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        self.student = self.make_vit()
        tokens = len(o.masks) if o.own_mask_tokens else 1
        self.predictor = Predictor(
            self.student, o.predictor_dim, o.predictor_depth, o.predictor_heads, mask_tokens=tokens
        )
        nn.init.zeros_(self.predictor.mask_token)
        self.encoder = frozen_copy(self.student)

    def masks(self, rng: Rng) -> list[Masks]:
        return multiblock3d(rng, self.student.grid, self.objective.masks, self.objective.cut)

    def views(self, clips: Tensor, rng: Rng, at: float) -> Views:
        views = {f"{name}_{i}": v for i, masks in enumerate(self.masks(rng)) for name, v in vars(masks).items()}
        crop = augment(clips, rng, self.info.size, self.objective.augment, self.mean, self.std)
        return {"clips": crop, **views}

    @torch.no_grad()
    def targets(self, clips: Tensor) -> Tensor:
        """Tokens [B, N, D] of whole clips."""
        tokens = self.encoder(clips)[:, self.encoder.num_prefix :].float()
        return F.layer_norm(tokens, tokens.shape[-1:]) if self.objective.norm_targets else tokens

    def predict(self, clips: Tensor, masks: Masks, which: int) -> Tensor:
        """Target tokens [B, m, D] from the context of one mask."""
        vit, keep, prefix = self.student, masks.context, self.student.num_prefix
        known = F.pad(masks.context_real, (prefix, 0), value=True)
        angles = vit.angles(vit.patch_embed.grid(clips), keep)
        context = vit.encode(vit.embed(clips, keep), additive(known), angles)[:, prefix:]
        seen = additive(masks.context_real, masks.targets_real)
        asked = masks.targets[:, None]
        which = which if self.objective.own_mask_tokens else 0
        return self.predictor(context, keep, asked, which=which, attn_mask=seen)[:, 0].float()

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        o, whole = self.objective, self.targets(views["clips"])
        losses, spreads, out = [], [], {}
        for i, name in enumerate(("short", "long")):
            masks = Masks(*(views[f"{part}_{i}"] for part in Masks.__dataclass_fields__))
            predicted = self.predict(views["clips"], masks, i)
            target = gather(whole, masks.targets)
            losses.append(vjepa_loss(predicted, target, o.loss_exponent, masks.targets_real))
            spreads.append(token_std(predicted).mean())
            for part, real in (("context", masks.context_real), ("targets", masks.targets_real)):
                out[f"{name}_{part}"] = real.float().sum(1).mean() / self.student.num_patches
        loss, spread = torch.stack(losses).mean(), torch.stack(spreads).mean()
        out |= {"short_loss": losses[0], "long_loss": losses[1], "predicted_std": spread}
        if o.spread_weight:
            loss = loss + o.spread_weight * (1 - spread).clamp(min=0)
        return {"loss": loss, **out}

    def after_step(self, at: float) -> None:
        o = self.objective
        ema(self.encoder, self.student, linear(at / o.stretch, o.momentum, o.momentum_end))

    def flops(self) -> float:
        draws = [self.masks(Rng(s, self.config.budget.batch_size, device=self.mean.device)) for s in range(16)]
        total = self.student.flops()
        for i in range(len(self.objective.masks)):
            n, m = (round(sum(getattr(d[i], k).shape[1] for d in draws) / 16) for k in ("context", "targets"))
            total += 3 * (self.student.flops(n) + self.predictor.flops(n, 1, m))
        return total


DEPARTS = {"paper": "initialisation, no flips on sets that name directions",  # what leaves the paper, by recipe
           "small, quick": "2-block predictor; unless set, tubelets of 2 x 4 x 4, EMA from 0.98",
           "clips": "2-block predictor, CLS, tubelets of all frames, crops of 70 % or more, lr 5e-4"}  # fmt: skip


def paper(backbone: str = "vit_large_patch16", **changes: Any) -> Config:
    """ViT-L/16, VideoMix2M, 16 frames of 224 px, 90k steps: K400 80.8, SSv2 69.5 (attentive, 16x8x3 and 16x2x3).
    ssl-bench pretrain --method vjepa --recipe paper objective.augment.flip=0.5 (schedules end at 80 %, as there)
    """
    optim = OptimConfig(
        lr=6.25e-4, lr_start=2e-4,
        lr_end=7.5e-5,  # where a cosine to 1e-6 over 1.25 times the run stands at its end
        warmup=40 / 300, weight_decay=0.04,
        weight_decay_end=0.366,  # likewise of 0.4
        clip=10.0,
    )  # fmt: skip
    return budgets.films("vjepa", unmirrored(VJEPAConfig()), optim, backbone, 3072, 90_000, **changes)


def small(**changes: Any) -> Config:
    """8 frames of 32 px. ssl-bench pretrain --method vjepa"""
    return budgets.small_clips("vjepa", small_objective(VJEPAConfig), small_optim(), **changes)


def quick(**changes: Any) -> Config:
    """A first look at motion: ssl-bench pretrain --method vjepa --recipe quick"""
    return budgets.quick_clips("vjepa", small_objective(VJEPAConfig), small_optim(), **changes)


def clips(**changes: Any) -> Config:
    """What is compared on motion, the best of three settings (results/README.md): --method vjepa --recipe clips"""
    objective = small_objective(VJEPAConfig, momentum=0.998)
    objective = replace(objective, augment=replace(objective.augment, crop_scale=(0.7, 1.0)))
    return budgets.clips("vjepa", objective, replace(small_optim(), lr=5e-4), True, **changes)


def small_objective(settings: type[VJEPAConfig], **changes: Any) -> Any:
    """What V-JEPA and V-JEPA 2 change for small clips."""
    base = settings(predictor_depth=2, predictor_dim=64, predictor_heads=2, momentum=0.98, stretch=1.0)
    return replace(unmirrored(base), **changes)


def small_optim() -> OptimConfig:
    return OptimConfig(lr=2e-3, lr_start=2e-4, lr_end=1e-6, warmup=0.1, weight_decay=0.05)
