"""A-JEPA: I-JEPA on spectrograms whose masks grow harder: bands and times of the targets leave the context too.

Fei, Fan & Huang, "A-JEPA: Joint-Embedding Predictive Architecture Can Listen", 2023, arXiv 2311.15830. No code was
published, and this claims no parity. From the abstract: an EMA encoder of the whole spectrogram gives the targets;
random blocks turn into time-frequency aware masks over a curriculum. From one secondary reading of the paper, not
checked against another: the curriculum f, its start .01, 4 blocks of .15 to .2, then 3 of .05 to .075, an L2 loss, a
predictor of 16 blocks. Own readings, each a setting: what such a mask takes away (`removes`), whether f is how often it
comes or how far it reaches (`curriculum`), the loss (`loss`), and the EMA's constants (`momentum`: I-JEPA's).
The paper's masking inside attention while fine-tuning is not built. Not Audio-JEPA (Tuncay et al.: audiojepa.py).
Evaluated: the target encoder, mean of the patch tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from methods.ijepa import IJEPA, IJEPAConfig, small_objective, small_optim
from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, DataConfig, OptimConfig
from ssl_bench.errors import UserError
from ssl_bench.rng import Rng
from ssl_bench.training.method import Views
from ssl_bench.views.augment import AugmentConfig, augment
from ssl_bench.views.crops import as_sound
from ssl_bench.views.masks_sound import time_frequency


@dataclass(frozen=True)
class AJEPAConfig(IJEPAConfig):
    """Secondary facts and own readings, as the file's head says."""

    augment: AugmentConfig = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0)
    predictor_depth: int = 16  # secondary
    curriculum: Literal["probability", "extent"] = "probability"  # f: share of hard batches, or of what they remove
    start: float = 0.01  # f at the start; secondary
    removes: Literal["both", "bands", "times"] = "both"  # what leaves the context beside a hard target itself
    hard_targets: int = 3  # blocks of a hard mask; secondary
    hard_scale: tuple[float, float] = (0.05, 0.075)  # share of the spectrogram per hard block; secondary
    loss: Literal["l2", "smooth_l1"] = "l2"  # secondary; the official I-JEPA has smooth_l1

    def check(self) -> None:
        super().check()
        if self.masking != "multiblock" or self.target != "latent":
            raise UserError("ajepa has its own masks and latent targets: leave objective.masking and target out.")
        if not 0 <= self.start <= 1 or self.hard_targets < 1:
            raise UserError("objective.start must lie in [0, 1] and objective.hard_targets be at least 1.")


def competence(at: float, start: float) -> float:
    """How hard the masks are at the fraction `at` of training: sqrt(at (1 - start^2) + start^2), at most 1."""
    return min(1.0, math.sqrt(at * (1 - start**2) + start**2))


class AJEPA(IJEPA):
    """I-JEPA with masks that follow a curriculum."""

    family, paper = "JEPA", "A-JEPA, Fei et al. 2023, arXiv 2311.15830"
    sees = "1 spectrogram, context + 3 or 4 target blocks"
    kinds: ClassVar[tuple[str, ...]] = ("sound",)
    objective: AJEPAConfig

    def masks(self, rng: Rng, at: float = 0.5) -> tuple[Tensor, Tensor]:
        """Context positions [B, n] and target positions [B, T, m]: one kind of mask for a whole batch."""
        o, hard = self.objective, competence(at, self.objective.start)
        often = o.curriculum == "probability"
        if often and float(rng.shared(1)) >= hard:
            return super().masks(rng)
        blocks = o.hard_targets, o.hard_scale, o.target_aspect, o.context_scale
        return time_frequency(rng, self.grid, *blocks, o.removes, 1.0 if often else hard)

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        context, targets = self.masks(rng, at)
        seen = augment(images, rng, self.info.size, self.objective.augment, self.mean, self.std)
        return {"images": seen, "context": context, "targets": targets}

    def losses(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        if self.objective.loss == "smooth_l1":
            return super().losses(predicted, target)
        target = F.layer_norm(target, target.shape[-1:]) if self.objective.target_norm else target
        return {"loss": F.mse_loss(predicted, target)}

    def flops(self) -> float:
        total, draws = 0.0, 64  # hard masks come more often as time goes on
        for i in range(draws):
            rng = Rng(i, self.config.budget.batch_size, device=self.mean.device)
            context, targets = self.masks(rng, (i + 0.5) / draws)
            total += self.flops_of(context.shape[1], *targets.shape[1:])
        return total / draws


OFF_PAPER = {"instance_norm": "instance norm"}  # what makes it another objective, as it stands in its row's name
DEPARTS = {  # what leaves the paper, by recipe
    "paper": "what no code tells is our reading: masks, EMA, loss",
    "small, quick, sound": "masks, loss and EMA are our reading; instance norm, 2-block predictor, crops and gain",
}


def paper(backbone: str = "vit_base_patch16", **changes: Any) -> Config:
    """ViT-B/16, AudioSet-2M, 24 epochs of batch 512: AS-2M 48.6, ESC-50 96.3, fine-tuned (secondary, unchecked).

    ssl-bench pretrain --method ajepa --recipe paper data.name=folder:/data/audioset#kind=sound
    """
    base: dict[str, Any] = {"data": DataConfig("folder:audioset#kind=sound", (128, 1024), 0.01)}
    optim = OptimConfig(lr=2e-4, lr_end=1e-6, warmup=0.1, weight_decay=0.05)
    return budgets.imagenet("ajepa", AJEPAConfig(), optim, backbone, 512, 24, **(base | changes))


def small(**changes: Any) -> Config:
    """0.66 s of sound: ssl-bench pretrain --method ajepa"""
    return budgets.small_sounds("ajepa", as_sound(small_objective(AJEPAConfig)), small_optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method ajepa --recipe quick"""
    return budgets.quick_sounds("ajepa", as_sound(small_objective(AJEPAConfig)), small_optim(), **changes)


sound = quick  # its name in the methods of images
