"""C-JEPA: I-JEPA with VICReg's terms on pooled predictions, against collapse and for the mean of the patches.

Mo and Tong, "Connecting Joint-Embedding Predictive Architecture with Contrastive Self-supervised Learning",
NeurIPS 2024, arXiv 2410.19560. (Not "Causal-JEPA", arXiv 2602.11389.)

Adapted: no official code could be read. Here the predicted tokens of an image are averaged and held against the
average of its targets (invariance), with VICReg's variance and covariance terms over the batch of all processes; the
targets' half of these is a constant, they get no gradient. The weight of the sum is ours. Evaluated: as I-JEPA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.ijepa import IJEPA, IJEPAConfig, small_objective, small_optim
from methods.vicreg import vicreg_terms
from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.parallel import collectives

OFF_PAPER = {"instance_norm": "instance norm"}  # inherited from I-JEPA, and not of this paper


@dataclass(frozen=True)
class CJEPAConfig(IJEPAConfig):
    """I-JEPA's settings and VICReg's; the relative weights are VICReg's (25, 25, 1)."""

    vicreg: float = 1e-3  # weight of the three terms together; not verified against the paper
    invariance: float = 25.0  # squared distance of pooled prediction and pooled target
    variance: float = 25.0  # hinge on every dimension's standard deviation
    covariance: float = 1.0  # squared off-diagonal covariances


class CJEPA(IJEPA):
    """I-JEPA, one more loss."""

    paper = "C-JEPA, Mo and Tong 2024, arXiv 2410.19560"
    fewest = 2  # variance over images
    kinds = ("image",)
    objective: CJEPAConfig

    def losses(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        """I-JEPA's loss and the three terms of the mean tokens; predicted and target [B, T, m, D]."""
        o, logs = self.objective, super().losses(predicted, target)
        if o.target_norm:
            target = F.layer_norm(target, target.shape[-1:])
        z = [collectives.gather(tokens.flatten(1, 2).mean(1)) for tokens in (predicted, target)]
        with torch.autocast(predicted.device.type, enabled=False):
            invariance, variance, covariance = vicreg_terms(*z)
        extra = o.invariance * invariance + o.variance * variance + o.covariance * covariance
        logs |= {"invariance": invariance, "variance": variance, "covariance": covariance}
        return {**logs, "loss": logs["loss"] + o.vicreg * extra}

    def flops(self) -> float:
        return super().flops() + 4 * 2.0 * self.config.backbone.embed_dim**2  # covariances; the targets' forward only


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "mask sampler, weight of the VICReg terms",
    "small, quick": "instance norm on targets, EMA from 0.98, predictor of 2 blocks, constant decay",
}


def paper(backbone: str = "vit_base_patch16", **changes: Any) -> Config:
    """ViT-B/16, ImageNet-1k, 600 epochs: linear 73.7, where I-JEPA has 72.9 (paper). Optimizer: I-JEPA's.

    ssl-bench pretrain --method cjepa --recipe paper data.name=folder:/data/imagenet
    """
    optim = OptimConfig(lr=1e-3, lr_start=2e-4, lr_end=1e-6, warmup=40 / 600, weight_decay=0.04, weight_decay_end=0.4)
    return budgets.imagenet("cjepa", CJEPAConfig(), optim, backbone, 2048, 600, **changes)


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method cjepa"""
    return budgets.small("cjepa", small_objective(CJEPAConfig, vicreg=1e-2), small_optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method cjepa --recipe quick"""
    return budgets.quick("cjepa", small_objective(CJEPAConfig, vicreg=1e-2), small_optim(), **changes)
