"""LeWorldModel: predict the next frame's latent from the actions; SIGReg alone keeps the latents apart.

Maes et al., "LeWorldModel", 2026, arXiv 2603.19312; stable-worldmodel `wm/lewm`, `scripts/train/lewm.py` at
addbab4 (MIT). Encoder, projector and predictor are trained together: no stop-gradient, no EMA, no teacher; the error
goes back into both sides. SIGReg is applied at each time step over the batch (here: of all processes). `similarity`
is off as published and on in `small` and `quick`: without it the latents of two rooms predict as well, and lead a
planner less far (docs/worlds.md); our reading: SIGReg spreads the map evenly through all dimensions.
Evaluated: the encoder, CLS; projector and predictor are kept for planning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from methods.lejepa import sigreg
from ssl_bench.config import budgets
from ssl_bench.config.bounds import refuse_outside
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.errors import UserError
from ssl_bench.models.dynamics import DynamicsConfig
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Views
from ssl_bench.training.world_model import WorldModel, watched


@dataclass(frozen=True)
class LeWMConfig:
    dynamics: DynamicsConfig = DynamicsConfig()
    sigreg: float = 0.09  # weight of SIGReg
    directions: int = 1024  # random directions of SIGReg, drawn anew in every step
    similarity: float = 0.0  # weight of mean((z[t+1] - z[t])^2); 0: LeWM as published
    rollout: int = 1  # steps that the predictor goes on by itself; 1: teacher forcing alone, as published

    def check(self) -> None:
        self.dynamics.check()
        refuse_outside("objective.", self, {"sigreg": 0, "directions": 1, "similarity": 0, "rollout": 1})
        if not self.dynamics.latent:
            raise UserError("objective.dynamics.latent=0 is for frozen encoders: give lewm a projected latent.")


def lewm_loss(
    z: Tensor, predicted: Tensor, directions: Tensor, weight: float, similarity: float = 0.0
) -> dict[str, Tensor]:
    """Latents [B, T, D], predictions [B, T - 1, D] of z[:, 1:], unit directions [D, M]; both sides get a gradient."""
    prediction = (predicted - z[:, 1:]).square().mean()
    terms = {"prediction": prediction, "sigreg": sigreg(z.transpose(0, 1), directions)}
    loss = prediction + weight * terms["sigreg"]
    if similarity:
        terms["similarity"] = (z[:, 1:] - z[:, :-1]).square().mean()
        loss = loss + similarity * terms["similarity"]
    return {"loss": loss, **terms}


class LeWM(WorldModel):
    """Encoder, projector, causal predictor."""

    paper, sees = "LeWorldModel, Maes et al. 2026, arXiv 2603.19312", "4 frames and the actions between them"
    fewest = 2  # SIGReg and BatchNorm over windows
    objective: LeWMConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = config.objective

    @property
    def window(self) -> int:
        o: LeWMConfig = self.config.objective
        return max(o.dynamics.history, o.rollout) + 1

    def views(self, items: Tensor, rng: Rng, at: float) -> Views:
        drawn = torch.randn(
            self.objective.dynamics.latent, self.objective.directions, generator=rng.generator, device=rng.device
        )
        return {**super().views(items, rng, at), "directions": drawn / drawn.norm(dim=0)}

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        o, actions = self.objective, views["actions"]
        z, seen = self.latents(views["frames"]), self.objective.dynamics.history
        with torch.autocast(z.device.type, enabled=False):
            predicted = self.dynamics(z[:, :seen], actions[:, :seen]).float()
            out = lewm_loss(z[:, : seen + 1], predicted, views["directions"], o.sigreg, o.similarity)
            if o.rollout > 1:
                alone = self.dynamics.rollout(z[:, :1], actions[:, : o.rollout])
                out["rollout"] = (alone[:, 1:] - z[:, 2 : o.rollout + 1]).square().mean()
                out["loss"] = out["loss"] + out["rollout"]
        return {**out, **watched(z[:, : seen + 1], predicted, z[:, 1 : seen + 1])}

    def predictor_flops(self) -> float:
        o = self.objective
        return super().predictor_flops() + (self.rollout_flops(o.rollout) if o.rollout > 1 else 0.0)


OFF_PAPER = {"similarity": "temporal similarity"}
DEPARTS = {  # what leaves the paper, by recipe
    "paper": "this harness's two rooms, actions not z-scored, frames normalised by the set's moments",
    "small, quick": "temporal similarity; ViT of 2 blocks at 32 px, latent of 32, 128 directions; the paper's changes",
    "plain": "ViT of 2 blocks at 32 px, latent of 32, 128 directions; the paper's changes",
}  # fmt: skip


def paper(backbone: str = "vit_tiny_patch14", **changes: Any) -> Config:
    """ViT-Ti/14 at 224 px, 10,000 trajectories, 10 epochs: two rooms 87 %, 25 steps ahead with 50 (their world).

    ssl-bench pretrain --method lewm --recipe paper
    """
    shape = DynamicsConfig(
        latent=192, projector=2048, width=192, depth=6, heads=16, channels=64, mlp_ratio=2048 / 192, dropout=0.1
    )
    optim = OptimConfig(lr=5e-5, warmup=0.01, weight_decay=1e-3, decay_all=True, clip=1.0)
    return budgets.worlds("lewm", LeWMConfig(shape), optim, backbone, **changes)


def small(**changes: Any) -> Config:
    """Three CPU-minutes. ssl-bench pretrain --method lewm"""
    return budgets.small_worlds("lewm", LeWMConfig(directions=128, similarity=2.0), small_optim(), **changes)


def quick(**changes: Any) -> Config:
    """A first look: ssl-bench pretrain --method lewm --recipe quick"""
    return budgets.quick_worlds("lewm", LeWMConfig(directions=128, similarity=2.0), small_optim(), **changes)


def plain(**changes: Any) -> Config:
    """`small` with the published loss alone: it predicts, and cannot plan. ssl-bench pretrain --method lewm:plain"""
    return replace(budgets.small_worlds("lewm", LeWMConfig(directions=128), small_optim(), **changes), recipe="plain")


def small_optim() -> OptimConfig:
    return OptimConfig(lr=2e-3, warmup=0.02, weight_decay=1e-3, clip=1.0)
