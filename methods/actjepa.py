"""ACT-JEPA: one network imitates a chunk of actions and foretells the latents of the frames to come.

ACT-JEPA, 2025, arXiv 2501.14622, by its abstract. We found no code, and chunk, weights and sizes are ours. From the
patch tokens of what is seen come the actions up to `policy.chunk` frames ahead (L1) and the latents there (smooth-L1 to
an EMA encoder's, normalised); the targets get no gradient. Goals, since our worlds ask for them: a frame 1 to `reach`
frames ahead in the same trajectory (hindsight, as goal-conditioned imitation has it), shown beside what is seen; what
lies behind it is in no loss. Theirs are experts' actions; here all policies of the data are imitated, walks too.
Evaluated: the encoder, mean of the patches; the policy is kept, and `plan` lets it act: there is no search, and it
knows no dynamics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.config import budgets
from ssl_bench.config.bounds import refuse_outside
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.models.policy import Policy, PolicyConfig
from ssl_bench.parallel import collectives
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Views, ema, frozen_copy, linear
from ssl_bench.training.world_model import Windows


@dataclass(frozen=True)
class ACTJEPAConfig:
    policy: PolicyConfig = PolicyConfig()
    reach: int = 12  # frames that a goal may lie ahead
    latents: float = 1.0  # weight of the latents' error; 0: imitation alone
    momentum: float = 0.98  # EMA at the start, linear to 1 at the end

    def check(self) -> None:
        self.policy.check()
        refuse_outside("objective.", self, {"reach": 1, "latents": 0, "momentum": 0}, {"momentum": 1})


def actjepa_loss(
    actions: Tensor, latents: Tensor, true_actions: Tensor, true_latents: Tensor, ahead: Tensor, weight: float
) -> dict[str, Tensor]:
    """Predicted and true actions [B, K, A] and latents [B, K, D]; of frames up to the goal's, `ahead` [B] of them."""
    counts = (torch.arange(actions.shape[1], device=ahead.device) < ahead[:, None]).to(actions)
    share = collectives.mean(counts.mean())  # in the batch of all processes
    imitation = ((actions - true_actions).abs().mean(-1) * counts).mean() / share
    foresight = (F.smooth_l1_loss(latents, true_latents, reduction="none").mean(-1) * counts).mean() / share
    return {"loss": imitation + weight * foresight, "imitation": imitation, "foresight": foresight}


class ACTJEPA(Windows):
    """Encoder, its EMA, and a policy over both frames' tokens."""

    paper, sees = "ACT-JEPA, 2025, arXiv 2501.14622", "a frame, a goal of up to 12 frames ahead, the actions between"
    objective: ACTJEPAConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = config.objective
        self.encoder = self.make_vit()
        self.teacher = frozen_copy(self.encoder)
        tokens = self.encoder.grid[0] * self.encoder.grid[1]
        self.policy = Policy(self.objective.policy, tokens, config.backbone.embed_dim, self.item.block)

    @property
    def window(self) -> int:
        o: ACTJEPAConfig = self.config.objective
        return max(o.policy.chunk, o.reach) + 1

    def views(self, items: Tensor, rng: Rng, at: float) -> Views:
        """The first frame of each window, the goal's, those of the chunk, and how far ahead the goal lies [B]."""
        found, chunk = super().views(items, rng, at), self.objective.policy.chunk
        ahead = 1 + (rng.rand() * self.objective.reach).long()
        frames, row = found["frames"], torch.arange(len(items), device=items.device)
        return {
            "seen": frames[:, 0], "goal": frames[row, ahead], "future": frames[:, 1 : chunk + 1],
            "actions": found["actions"][:, :chunk], "ahead": ahead,
        }  # fmt: skip

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        tokens = self.encoder(torch.cat([views["seen"], views["goal"]]))[:, self.encoder.num_prefix :]
        with torch.no_grad():
            future = self.teacher(views["future"].flatten(0, 1))[:, self.teacher.num_prefix :].mean(1)
            target = F.layer_norm(future.float(), future.shape[-1:]).unflatten(0, views["future"].shape[:2])
        with torch.autocast(tokens.device.type, enabled=False):
            actions, latents = self.policy(*tokens.float().chunk(2))
            out = actjepa_loss(actions, latents, views["actions"], target, views["ahead"], self.objective.latents)
        return {**out, "target_std": target.flatten(0, 1).std(0).mean(), "still": views["actions"].abs().mean()}

    def after_step(self, at: float) -> None:
        ema(self.teacher, self.encoder, linear(at, self.objective.momentum, 1.0))

    def kept(self) -> Policy:
        return self.policy

    def flops(self) -> float:
        """Two frames through the encoder and the policy, forward and backward; the chunk's through its EMA."""
        future = self.objective.policy.chunk * self.teacher.flops()
        return 3 * (2 * self.encoder.flops() + self.policy.flops()) + future


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "a frame of two rooms for cameras and joints; goals in hindsight; walks are imitated too; sizes are ours",
    "small, quick": "a frame of two rooms at 32 px; goals in hindsight; walks are imitated too; ViT of 2 blocks",
    "imitation": "no latents are foretold; a frame of two rooms at 32 px; goals in hindsight; walks are imitated too",
}


def paper(backbone: str = "vit_tiny_patch16", **changes: Any) -> Config:
    """ViT-Ti/16 at 224 px (reported: Push-T 41 %, with experts' data).

    ssl-bench pretrain --method actjepa --recipe paper
    """
    policy = PolicyConfig(width=192, depth=4, heads=3, mlp_ratio=4.0)
    objective = ACTJEPAConfig(policy, momentum=0.996)
    return budgets.worlds("actjepa", objective, OptimConfig(lr=1e-4, weight_decay=0.01, clip=1.0), backbone, **changes)


def small(**changes: Any) -> Config:
    """Four CPU-minutes. ssl-bench pretrain --method actjepa"""
    return budgets.small_worlds("actjepa", ACTJEPAConfig(), small_optim(), **changes)


def quick(**changes: Any) -> Config:
    """A first look: ssl-bench pretrain --method actjepa --recipe quick"""
    return budgets.quick_worlds("actjepa", ACTJEPAConfig(), small_optim(), **changes)


def imitation(**changes: Any) -> Config:
    """`small` without the latents: what foretelling them is worth. ssl-bench pretrain --method actjepa:imitation"""
    config = budgets.small_worlds("actjepa", ACTJEPAConfig(latents=0.0), small_optim(), **changes)
    return replace(config, recipe="imitation")


def small_optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, warmup=0.05, weight_decay=0.01, clip=1.0)
