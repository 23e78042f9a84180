"""IWM: I-JEPA whose predictor is told what was done to the colours of the source, and must undo it in latent space.

Garrido et al., "Learning and Leveraging World Models in Visual Representation Learning", 2024, arXiv 2403.00504.

Adapted throughout: no official code exists, and only what the abstract says is certain (a predictor conditioned on
photometric transformations, an EMA target, squared L2). Here source and target share one crop; the source is
jittered, grayed, blurred and solarized, the target is not; the parameters of that become an action vector, which an
MLP adds to the mask tokens. Masks, target encoder and schedules are I-JEPA's. Evaluated: the target encoder (EMA).
The predictor is kept beside it: `finetune:predictor` trains it on the frozen encoder, `mrr` tells whether it uses its
actions.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from methods.ijepa import IJEPA, IJEPAConfig, small_objective, small_optim
from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, OptimConfig, to_dict
from ssl_bench.errors import UserError
from ssl_bench.models.kept import ActionPredictor, action_mlp
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Views
from ssl_bench.views.actions import ACTIONS, action_vector
from ssl_bench.views.augment import AugmentConfig, draw, render

OFF_PAPER = {"instance_norm": "instance norm"}  # inherited from I-JEPA, and not of this paper
PHOTOMETRIC = AugmentConfig(
    crop_scale=(0.3, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, jitter_p=0.8, gray_p=0.2,
    blur_p=0.2, solarize_p=0.2,
)  # fmt: skip  # BYOL's strengths; the paper's could not be verified


@dataclass(frozen=True)
class IWMConfig(IJEPAConfig):
    """I-JEPA's settings with a photometric source."""

    augment: AugmentConfig = PHOTOMETRIC  # crop and flip for both, the rest for the source only

    def check(self) -> None:
        super().check()
        if self.predictor_depth == 0:
            raise UserError("iwm needs objective.predictor_depth > 0: without a predictor its actions have no effect.")
        if not (self.augment.jitter_p or self.augment.gray_p or self.augment.blur_p or self.augment.solarize_p):
            raise UserError("iwm needs a photometric transformation in objective.augment; without one, use ijepa.")


class IWM(IJEPA):
    """I-JEPA with actions."""

    paper = "IWM, Garrido et al. 2024, arXiv 2403.00504 (adapted: no official code)"
    sees = "1 crop, its colours changed for the context"
    kinds = ("image",)
    objective: IWMConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        dim = self.objective.predictor_dim
        self.action = action_mlp(ACTIONS, dim)

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        context, targets = self.masks(rng)
        config, size = self.objective.augment, self.info.size
        changed = draw(rng, (images.shape[-2], images.shape[-1]), config)
        plain = dataclasses.replace(changed, jitter=None, gray=None, blur=None, solarize=None)
        source, target = (render(images, d, size, config, self.mean, self.std) for d in (changed, plain))
        actions = action_vector(changed)
        return {"images": target, "source": source, "actions": actions, "context": context, "targets": targets}

    def predict(self, context: Tensor, views: Views) -> Tensor:
        """Target tokens [B, T, m, D] from context tokens and actions [B, 7]."""
        return self.predictor(context, views["context"], views["targets"], self.action(views["actions"]))

    def losses(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Mean squared error against LayerNormed targets."""
        if self.objective.target_norm:
            target = F.layer_norm(target, target.shape[-1:])
        return {"loss": F.mse_loss(predicted, target)}

    def kept(self) -> ActionPredictor:
        o = self.objective
        return ActionPredictor(self.predictor, self.action, o.predictor_heads, to_dict(o))

    def flops(self) -> float:
        return super().flops() + 6.0 * sum(p.numel() for p in self.action.parameters() if p.ndim > 1)


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "built from the abstract",
    "small, quick": "instance norm on targets, EMA from 0.98, predictor of 2 blocks, constant decay, no blur",
}


def paper(backbone: str = "vit_base_patch16", **changes: Any) -> Config:
    """ViT-B/16, ImageNet-1k, 300 epochs, I-JEPA's optimizer: expect no published number, the settings are ours.

    ssl-bench pretrain --method iwm --recipe paper data.name=folder:/data/imagenet
    """
    optim = OptimConfig(lr=1e-3, lr_start=2e-4, lr_end=1e-6, warmup=40 / 300, weight_decay=0.04, weight_decay_end=0.4)
    return budgets.imagenet("iwm", IWMConfig(predictor_depth=12), optim, backbone, 2048, 300, **changes)


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method iwm"""
    return budgets.small("iwm", _small(), small_optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method iwm --recipe quick"""
    return budgets.quick("iwm", _small(), small_optim(), **changes)


def _small() -> IWMConfig:
    colour = replace(PHOTOMETRIC, blur_p=0.0)  # at 28-64 px a blur leaves little to see
    return small_objective(IWMConfig, augment=colour)
