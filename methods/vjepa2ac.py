"""V-JEPA 2-AC: a predictor of the next frame's features under actions, on an encoder that stays as it is.

Assran et al., "V-JEPA 2", 2025, arXiv 2506.09985; `app/vjepa_droid/train.py` at c2963a4 (MIT). Loss: L1 of the next
features, teacher forcing over all frames plus a rollout of two steps with gradient through both; actions as tokens of
their own before each frame's. The encoder is that of any finished run of the shared ViT on frames (`encoder=FOLDER`);
`untrained` is the one that this run's seed gives. `dinowm` is the same with DINO-WM's choices (arXiv 2411.04983):
squared error, actions laid beside the features.
Here a frame's features are cells of its patch tokens, laid end to end and standardised; published: all patch tokens,
each layer-normed. Evaluated: the frozen encoder, mean of the patches; the predictor is kept for planning.

Changes: 1 first version. 2 a run's encoder sees items normalised as in its own training, not as this set is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_bench.config import budgets
from ssl_bench.config.bounds import refuse_outside
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.encoders.encoder import Encoder, check_weights
from ssl_bench.encoders.from_run import from_run
from ssl_bench.errors import UserError
from ssl_bench.models.dynamics import DynamicsConfig, forecast_loss
from ssl_bench.training.method import DataInfo, Method, Views
from ssl_bench.training.run_folder import Run
from ssl_bench.training.world_model import WorldModel, watched

UNTRAINED = "untrained"


@dataclass(frozen=True)
class VJEPA2ACConfig:
    dynamics: DynamicsConfig = DynamicsConfig(reads="cells", cells=4, latent=0, conditioning="tokens")
    encoder: str = UNTRAINED  # folder of a finished run whose encoder is used, or untrained
    rollout: int = 2  # steps that the loss looks ahead
    exponent: float = 1.0  # of the error: 1 is V-JEPA 2-AC's, 2 DINO-WM's

    def check(self) -> None:
        self.dynamics.check()
        refuse_outside("objective.", self, {"rollout": 1, "exponent": 0.1})
        if self.dynamics.latent or self.dynamics.reads == "cls":
            told = "set objective.dynamics.latent=0 and objective.dynamics.reads=cells."
            raise UserError(f"vjepa2ac predicts features of a frozen encoder: {told}")


def adopt(method: Method, folder: str) -> Encoder:
    """Take the encoder of a finished run, of this run's backbone, and the mean and std that it knows its items by."""
    if not (Path(folder) / "encoder.json").exists():
        raise UserError(f"objective.encoder={folder} is no folder of a finished run: give one, as runs/NAME.")
    found, backbone = from_run(Run(Path(folder))), method.config.backbone
    if found.model.config != backbone:
        theirs, ours = vars(found.model.config), vars(backbone)
        differ = ", ".join(f"backbone.{k}={v}" for k, v in theirs.items() if ours[k] != v)
        raise UserError(f"The encoder in {folder} has another backbone: set {differ}.")
    weights = found.model.state_dict()
    check_weights(method.encoder, weights, folder)
    method.encoder.load_state_dict(weights)
    method.info = replace(method.info, mean=found.mean, std=found.std)
    for mine, theirs in ((method.mean, found.mean), (method.std, found.std)):
        mine.copy_(torch.tensor(theirs).view(mine.shape))
    return found


class VJEPA2AC(WorldModel):
    """A frozen encoder and its predictor."""

    paper, sees = "V-JEPA 2, Assran et al. 2025, arXiv 2506.09985", "4 frames and the actions between them"
    evaluated, frozen = "frozen encoder", True
    version = 2
    objective: VJEPA2ACConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        if o.encoder != UNTRAINED:
            adopt(self, o.encoder)
        self.encoder.requires_grad_(False)

    @property
    def window(self) -> int:
        o: VJEPA2ACConfig = self.config.objective
        return max(o.dynamics.history, o.rollout) + 1

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        o, actions = self.objective, views["actions"]
        with torch.no_grad():
            z = self.latents(views["frames"])
        with torch.autocast(z.device.type, enabled=False):
            loss = forecast_loss(self.dynamics, z, actions, o.rollout, o.exponent)
            with torch.no_grad():
                first = self.dynamics(z[:, :1], actions[:, :1])
        return {"loss": loss, **watched(z[:, :2], first, z[:, 1:2])}

    def predictor_flops(self) -> float:
        o = self.objective
        rolled = self.rollout_flops(o.rollout) if o.rollout > 1 else 0.0
        return super().predictor_flops() + rolled + self.dynamics.flops(1)[1] / 3  # the last: forward alone, to watch


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "cells of the tokens as one standardised vector, no robot state, two rooms, no published encoder",
    "small, quick": "cells of the tokens as one vector, no robot state; an untrained encoder unless one is named",
    "dinowm, dinowm_quick": "cells of the tokens as one vector, no proprioception; untrained unless one is named",
}


def paper(backbone: str = "vit_giant_patch16", **changes: Any) -> Config:
    """A predictor of 24 blocks on ViT-g/16 at 256 px (DROID: reach 100 %, grasp a cup 60 %).

    ssl-bench pretrain --method vjepa2ac --recipe paper objective.encoder=runs/NAME
    """
    shape = DynamicsConfig(
        "cells", 16, 0, conditioning="tokens", width=1024, depth=24, heads=16, mlp_ratio=4.0, history=7
    )
    optim = OptimConfig(lr=4.25e-4, lr_start=7.5e-5, warmup=15 / 315, weight_decay=0.04)
    config = budgets.worlds("vjepa2ac", VJEPA2ACConfig(shape), optim, backbone, **changes)
    return replace(config, data=replace(config.data, image_size=256))


def small(**changes: Any) -> Config:
    """Two CPU-minutes. ssl-bench pretrain --method vjepa2ac objective.encoder=runs/NAME"""
    return budgets.small_worlds("vjepa2ac", VJEPA2ACConfig(), small_optim(), **changes)


def quick(**changes: Any) -> Config:
    """A first look: ssl-bench pretrain --method vjepa2ac --recipe quick"""
    return budgets.quick_worlds("vjepa2ac", VJEPA2ACConfig(), small_optim(), **changes)


def dinowm(**changes: Any) -> Config:
    """DINO-WM's loss and actions. ssl-bench pretrain --method vjepa2ac --recipe dinowm objective.encoder=runs/NAME"""
    return replace(budgets.small_worlds("vjepa2ac", _dinowm(), small_optim(), **changes), recipe="dinowm")


def dinowm_quick(**changes: Any) -> Config:
    """A first look at it: ssl-bench pretrain --method vjepa2ac --recipe dinowm_quick"""
    return replace(budgets.quick_worlds("vjepa2ac", _dinowm(), small_optim(), **changes), recipe="dinowm_quick")


def _dinowm() -> VJEPA2ACConfig:
    shape = DynamicsConfig(reads="cells", cells=4, latent=0, conditioning="concat")
    return VJEPA2ACConfig(shape, rollout=1, exponent=2.0)


def small_optim() -> OptimConfig:
    return OptimConfig(lr=2e-3, warmup=0.05, weight_decay=1e-3, clip=1.0)
