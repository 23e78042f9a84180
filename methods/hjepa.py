"""H-JEPA, its second level: over any world model, a predictor of many steps at once, by macro-actions.

LeCun's hierarchy has no code of his. As HWM reads it (2026, arXiv 2604.03208; facts of its code at e197375, which has
no licence): both levels in one latent space; the second predicts the first one's latents `upper.every` frames on, from
what an MLP makes of all actions between them; squared error, one by one and rolled out; the first level gets no
gradient of it. A planner searches for macro-actions, and then for actions to the first latent that those lead to.
The first level is that of any finished run (`level1=FOLDER`), left as it is; or learned beside the second, by LeWM's
loss with temporal similarity (HWM: PLDM's). Evaluated: the encoder of the first level; both levels are kept for
planning, and `plan:flat` plans by the first alone at equal calls.

Changes: 1 first version. 2 a first level of another run sees frames normalised as in its own training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from methods.lewm import LeWM, LeWMConfig, small_optim
from methods.lewm import paper as lewm_paper
from methods.vjepa2ac import adopt
from ssl_bench.config import budgets
from ssl_bench.config.schema import Config
from ssl_bench.errors import UserError
from ssl_bench.models.dynamics import Dynamics, DynamicsConfig
from ssl_bench.models.hierarchy import Hierarchy, UpperConfig
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Views
from ssl_bench.training.world_model import WorldModel, watched

BESIDE = "beside"


@dataclass(frozen=True)
class HJEPAConfig(LeWMConfig):
    """LeWM's settings are those of a first level that is learned beside the second."""

    upper: UpperConfig = UpperConfig()
    level1: str = BESIDE  # folder of a finished run whose encoder and dynamics are the first level, or beside

    def check(self) -> None:
        self.dynamics.check()
        self.upper.check()
        if self.level1 == BESIDE:
            super().check()
        elif (self.similarity, self.rollout) != (0.0, 1):
            told = "use the recipes above and above_quick, or set objective.similarity=0 and objective.rollout=1."
            raise UserError(f"A first level from objective.level1={self.level1} is not trained: {told}")


class HJEPA(LeWM):
    """A world model and a second level over it."""

    version = 2
    paper = "HWM, 2026, arXiv 2604.03208"
    sees = "4 frames, 3 more at 5, 10 and 15 frames, and the actions between them"
    objective: HJEPAConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        if not o.level1:
            raise UserError(
                "The recipes above and above_quick take a finished run's first level: set objective.level1."
            )
        self.given = o.level1 != BESIDE
        if self.given:
            self.levels.load_state_dict(self._first_level(o.level1), strict=False)
            for part in (self.encoder, *self.levels.lower):
                part.requires_grad_(False)
            self.train()

    def made(self, shape: DynamicsConfig, features: int) -> Dynamics:
        return Hierarchy(shape, features, self.item.block, self.config.objective.upper)

    @property
    def levels(self) -> Hierarchy:
        assert isinstance(self.dynamics, Hierarchy)
        return self.dynamics

    def _first_level(self, folder: str) -> dict[str, Tensor]:
        """The dynamics of a finished run, once its encoder is this one's."""
        found = adopt(self, folder).dynamics
        if found is None:
            raise UserError(f"objective.level1={folder} has learned no dynamics: give a run of lewm, pldm or vjepa2ac.")
        ours, theirs = vars(self.dynamics.config), vars(found.config)
        if differ := ", ".join(f"objective.dynamics.{k}={v}" for k, v in theirs.items() if ours[k] != v):
            raise UserError(f"The dynamics in {folder} are of another shape: set {differ}.")
        weights: dict[str, Tensor] = found.state_dict()
        return weights

    @property
    def window(self) -> int:
        above: UpperConfig = self.config.objective.upper
        return max(super().window, above.every * above.steps + 1)

    def train(self, mode: bool = True) -> HJEPA:
        """A first level that is not trained stays as it is, the statistics of its norms too."""
        super().train(mode)
        if self.given:
            for part in (self.encoder, *self.levels.lower):
                part.eval()
        return self

    def views(self, items: Tensor, rng: Rng, at: float) -> Views:
        return WorldModel.views(self, items, rng, at) if self.given else super().views(items, rng, at)

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        above, frames, actions = self.objective.upper, views["frames"], views["actions"]
        reach = above.every * above.steps
        out = {} if self.given else super().forward({**views, "frames": frames[:, : super().window]}, at)
        with torch.no_grad():
            z = self.latents(frames[:, : reach + 1 : above.every])
        with torch.autocast(z.device.type, enabled=False):
            upper = self.levels.upper_loss(z, macros := self.levels.macros(actions[:, :reach]))
            with torch.no_grad():
                first = self.levels.upper(z[:, :1], macros[:, :1].detach())
        seen = watched(z[:, :2], first, z[:, 1:2])
        if self.given:
            return {"loss": upper, **seen}
        return {**out, "loss": out["loss"] + upper, "upper": upper, "upper_over_copy": seen["error_over_copy"]}

    def flops(self) -> float:
        """The first level as LeWM's, where it is trained; forward alone on the frames that the second looks at."""
        above = self.objective.upper
        project, _ = self.dynamics.flops(1)
        frame = self.encoder.flops() + project
        lower = 0.0 if self.given else 3 * (super().window * frame + self.predictor_flops())
        watching = self.levels.upper.flops(1)[1]  # forward alone
        return lower + (above.steps + 1) * frame + 3 * self.levels.upper_flops() + watching


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "the first level is learned beside the second, by LeWM's loss; standardised macro-actions; our two rooms",
    "small, quick": "the first level is learned beside the second, by LeWM's loss; standardised macro-actions",
    "above, above_quick": "the first level is a run's (level1=FOLDER); standardised macro-actions; two rooms",
}


def paper(backbone: str = "vit_tiny_patch14", **changes: Any) -> Config:
    """LeWM as published, and macro-actions of 10 steps, 6 ahead, as HWM (a real arm: pick and place 70 %, flat 0 %).

    ssl-bench pretrain --method hjepa --recipe paper
    """
    above = UpperConfig(every=2, steps=6, dynamics=DynamicsConfig(latent=0, width=512, heads=8, history=6))
    config = lewm_paper(backbone, **changes)
    return replace(config, method="hjepa", objective=HJEPAConfig(**vars(config.objective), upper=above))


def small(**changes: Any) -> Config:
    """Both levels in four CPU-minutes. ssl-bench pretrain --method hjepa"""
    objective = HJEPAConfig(directions=128, similarity=2.0)
    return budgets.small_worlds("hjepa", objective, small_optim(), **changes)


def quick(**changes: Any) -> Config:
    """A first look: ssl-bench pretrain --method hjepa --recipe quick"""
    objective = HJEPAConfig(directions=128, similarity=2.0)
    return budgets.quick_worlds("hjepa", objective, small_optim(), **changes)


def above(**changes: Any) -> Config:
    """The second level alone. ssl-bench pretrain --method hjepa --recipe above objective.level1=runs/NAME"""
    return replace(budgets.small_worlds("hjepa", HJEPAConfig(level1=""), small_optim(), **changes), recipe="above")


def above_quick(**changes: Any) -> Config:
    """A first look at it: ssl-bench pretrain --method hjepa --recipe above_quick objective.level1=runs/NAME"""
    return replace(
        budgets.quick_worlds("hjepa", HJEPAConfig(level1=""), small_optim(), **changes), recipe="above_quick"
    )
