"""PLDM: latents rolled out from the first frame alone; variance, covariance, time and actions keep them apart.

Sobal et al., "Learning from Reward-Free Offline Data: A Case for Planning with Latent Dynamics Models", 2025, arXiv
2502.14819; code at cbaf674 (no licence: facts alone), weights of its `ds_1500k.yaml`. The error of the whole rollout
goes back into both sides. Variance and covariance over the batch of the first frame; variance over time; temporal
similarity; an MLP tells the actions from two latents that follow each other (inverse dynamics), without which nothing
of the agent need be kept. `first_only=false` with the recipe's weights changed is EB-JEPA's loss (arXiv 2602.03604).
Evaluated: the encoder, CLS; projector and predictor are kept for planning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.config import budgets
from ssl_bench.config.bounds import refuse_outside
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.errors import UserError
from ssl_bench.models.dynamics import DynamicsConfig
from ssl_bench.parallel import collectives
from ssl_bench.training.method import DataInfo, Views
from ssl_bench.training.world_model import WorldModel, watched


@dataclass(frozen=True)
class PLDMConfig:
    dynamics: DynamicsConfig = DynamicsConfig(norm="layer")
    rollout: int = 4  # frames that are predicted from the first one (published: 15 single steps)
    variance: float = 3.9843  # hinge on the standard deviation over the batch
    covariance: float = 6.9238  # mean of squared off-diagonal covariances
    time_variance: float = 0.24535  # the hinge over time, within each window
    similarity: float = 0.74242  # mean((z[t+1] - z[t])^2)
    inverse: float = 1.072  # error of the actions that an MLP tells from two latents
    inverse_hidden: int = 256  # published: 512
    first_only: bool = True  # variance and covariance of the first frame alone; false: of all frames (EB-JEPA)

    def check(self) -> None:
        self.dynamics.check()
        weights = ("variance", "covariance", "time_variance", "similarity", "inverse")
        refuse_outside("objective.", self, {**dict.fromkeys(weights, 0), "rollout": 1, "inverse_hidden": 1})
        if self.rollout < 2 and self.time_variance:
            raise UserError(
                "objective.time_variance needs two predicted frames: raise objective.rollout or set it to 0."
            )
        if not self.dynamics.latent:
            raise UserError("objective.dynamics.latent=0 is for frozen encoders: give pldm a projected latent.")


def hinge(z: Tensor, dim: int) -> Tensor:
    """Mean of relu(1 - standard deviation along `dim`)."""
    return F.relu(1 - (z.var(dim) + 1e-4).sqrt()).mean()


def off_diagonal(z: Tensor) -> Tensor:
    """Mean of squared off-diagonal covariances of [N, D]."""
    z = z - z.mean(0)
    covariance = z.T @ z / (len(z) - 1)
    squares = covariance.square().sum() - covariance.diagonal().square().sum()
    return squares / (z.shape[1] * (z.shape[1] - 1))


def pldm_terms(z: Tensor, predicted: Tensor, first_only: bool = True) -> dict[str, Tensor]:
    """Latents [B, T, D] and predictions [B, T - 1, D] of all but the first frame."""
    judged = collectives.gather(z[:, 0] if first_only else z.flatten(0, 1))  # of all processes
    return {
        "prediction": (predicted - z[:, 1:]).square().mean(),
        "variance": hinge(judged, 0), "covariance": off_diagonal(judged),
        "time_variance": hinge(z[:, 1:], 1) if z.shape[1] > 2 else z.new_zeros(()),
        "similarity": (z[:, 1:] - z[:, :-1]).square().mean(),
    }  # fmt: skip


class PLDM(WorldModel):
    """Encoder, projector, causal predictor, inverse dynamics."""

    paper, sees = "PLDM, Sobal et al. 2025, arXiv 2502.14819", "5 frames and the actions between them"
    fewest = 2  # variance over windows
    objective: PLDMConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        two, hidden = 2 * self.dynamics.dim, o.inverse_hidden
        self.inverse = nn.Sequential(nn.Linear(two, hidden), nn.ReLU(), nn.Linear(hidden, self.item.block))

    @property
    def window(self) -> int:
        rollout: int = self.config.objective.rollout
        return rollout + 1

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        o, actions = self.objective, views["actions"]
        z = self.latents(views["frames"])
        with torch.autocast(z.device.type, enabled=False):
            predicted = self.dynamics.rollout(z[:, :1], actions)
            terms = pldm_terms(z, predicted, o.first_only)
            told = self.inverse(torch.cat([z[:, :-1], z[:, 1:]], -1))
            terms["inverse"] = (told - actions).square().mean()
        weights = {name: getattr(o, name) for name in terms if name != "prediction"}
        loss = terms["prediction"] + sum(weight * terms[name] for name, weight in weights.items())
        return {"loss": loss, **terms, **watched(z, predicted, z[:, 1:])}

    def predictor_flops(self) -> float:
        o = self.objective
        inverse = 2.0 * o.inverse_hidden * (2 * self.dynamics.dim + self.item.block)
        return self.rollout_flops(o.rollout) + o.rollout * inverse


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "a ViT and a causal transformer for Impala and GRU, frames 5 steps apart; our two rooms; AdamW",
    "small, quick": "a ViT and a causal transformer for Impala and GRU; 4 frames 5 steps apart predicted",
    "eb_jepa": "EB-JEPA's weights; a ViT and a causal transformer for Impala and GRU; 4 frames 5 steps apart predicted",
}


def paper(backbone: str = "vit_tiny_patch16", **changes: Any) -> Config:
    """The published weights at 64 px (PLDM: 65 px, 3 M transitions). ssl-bench pretrain --method pldm --recipe paper"""
    shape = DynamicsConfig(latent=512, projector=512, width=512, depth=2, heads=8, norm="layer")
    config = budgets.worlds("pldm", PLDMConfig(shape, inverse_hidden=512), small_optim(), backbone, **changes)
    return replace(config, data=replace(config.data, image_size=64))


def small(**changes: Any) -> Config:
    """Three CPU-minutes. ssl-bench pretrain --method pldm"""
    return budgets.small_worlds("pldm", PLDMConfig(), small_optim(), **changes)


def quick(**changes: Any) -> Config:
    """A first look: ssl-bench pretrain --method pldm --recipe quick"""
    return budgets.quick_worlds("pldm", PLDMConfig(), small_optim(), **changes)


def eb_jepa(**changes: Any) -> Config:
    """`small` with EB-JEPA's terms: 16, 8, 12 and 1, over all frames.

    ssl-bench pretrain --method pldm --recipe eb_jepa
    """
    objective = PLDMConfig(variance=16, covariance=8, time_variance=0, similarity=12, inverse=1, first_only=False)
    return replace(budgets.small_worlds("pldm", objective, small_optim(), **changes), recipe="eb_jepa")


def small_optim() -> OptimConfig:
    return OptimConfig(lr=2e-3, warmup=0.1, weight_decay=1e-5, clip=2.0)
