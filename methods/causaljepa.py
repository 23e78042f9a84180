"""Causal-JEPA: objects as slots; some are hidden at all times but the first, and told from the others and the actions.

Nam et al., "Causal-JEPA", 2026, arXiv 2602.11389; galilai-group/cjepa at 1415830. (`cjepa` here is another paper of
that short name.) Loss: squared error of the slots hidden in the history and of all slots in the future, with equal
weight. Theirs are slots of a frozen VideoSAUR or SAVi, and get no gradient. Here the world shows each object in a
channel of its own (`World.objects`), and a slot is the mean patch token of the picture with that object alone: no
state is used. The encoder is learned with the predictor: the error goes back into both sides, PLDM's variance and
covariance of each slot keep it from collapsing (with an EMA's slots as targets it began to collapse in 50 steps).
The released predictor hides the same slots for ever (its generator begins anew in each call); here each window draws
its own. Left out: the robot's state as a node, Hungarian matching (slots are in order).
Evaluated: the encoder, mean of the patches, on whole frames, which it has not seen. `plan`, `rollout` and `surprise`
fit dynamics on it, as on methods of images: the slot predictor wants a frame taken apart, which no protocol does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.pldm import hinge, off_diagonal
from ssl_bench.config import budgets
from ssl_bench.config.bounds import refuse_outside
from ssl_bench.config.schema import Config, DataConfig, OptimConfig
from ssl_bench.data.world import parse
from ssl_bench.errors import UserError
from ssl_bench.models.slots import SlotPredictor
from ssl_bench.parallel import collectives
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Views
from ssl_bench.training.world_model import Windows


@dataclass(frozen=True)
class CausalJEPAConfig:
    history: int = 3  # frames that are seen
    future: int = 1  # frames behind them, of which no slot is seen
    masked: int = 1  # slots that are hidden in the history, but for the first frame; 0: the future alone is predicted
    depth: int = 2  # blocks of the predictor, as wide as a slot
    heads: int = 4  # of its attention
    hidden: int = 128  # width of its MLPs
    dropout: float = 0.0  # of its attention and MLPs; published: 0.1
    variance: float = 4.0  # weight of the hinge on the standard deviation of each object's slots (PLDM: 3.98)
    covariance: float = 7.0  # weight of their mean squared off-diagonal covariances (PLDM: 6.92)

    def check(self) -> None:
        refuse_outside("objective.", self, {"history": 1, "future": 1, "depth": 1, "heads": 1, "hidden": 1})
        refuse_outside("objective.", self, {"masked": 0, "dropout": 0, "variance": 0, "covariance": 0}, {"dropout": 1})
        if self.masked and self.history == 1:
            raise UserError("objective.masked hides slots from the second frame on: set objective.history=2 or more.")


def hide(rng: Rng, history: int, future: int, slots: int, masked: int) -> Tensor:
    """bool [B, T, S]: `masked` slots of each window at all times but the first, and every slot of the future."""
    rank = rng.rand(slots).argsort(1).argsort(1)  # a random order of each window's slots
    hidden = (rank < masked)[:, None].repeat(1, history + future, 1)
    hidden[:, 0], hidden[:, history:] = False, True
    return hidden


def causaljepa_loss(predicted: Tensor, target: Tensor, hidden: Tensor, history: int) -> dict[str, Tensor]:
    """Slots [B, T, S, D] and which are hidden [B, T, S], as many in each window; what is seen is in no term."""
    error = (predicted - target).square().mean(-1)
    past = hidden[:, :history]
    told = (error[:, :history] * past).sum() / past.sum().clamp(min=1)
    foretold = error[:, history:].mean()
    return {"loss": told + foretold, "masked": told, "future": foretold}


class CausalJEPA(Windows):
    """An encoder of single objects, and a predictor over the slots of all frames."""

    paper, sees = "Causal-JEPA, Nam et al. 2026, arXiv 2602.11389", "objects apart in 3 frames, and the next frame's"
    fewest = 2  # variance over windows
    objective: CausalJEPAConfig
    alone: Tensor  # bool [S, C, 1, 1]: the channels of each object's picture

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        channels = list(parse(config.data.name).world.objects.values())
        if not channels:
            raise UserError(
                f"'{config.data.name}' does not show each object in a channel of its own, as causaljepa needs it: take "
                "two_room, two_room:block or two_room:distractor."
            )
        if o.masked >= len(channels):
            raise UserError(f"objective.masked={o.masked} of {len(channels)} objects hides them all: set it lower.")
        if config.backbone.embed_dim % o.heads:
            raise UserError(f"objective.heads={o.heads} must divide backbone.embed_dim={config.backbone.embed_dim}.")
        alone = F.one_hot(torch.tensor(channels), info.item.channels).bool()
        self.register_buffer("alone", alone[..., None, None], persistent=False)
        self.encoder = self.make_vit()
        self.predictor = SlotPredictor(
            self.window, config.backbone.embed_dim, o.depth, o.heads, o.hidden, o.dropout, self.item.block
        )

    @property
    def window(self) -> int:
        o: CausalJEPAConfig = self.config.objective
        return o.history + o.future

    def views(self, items: Tensor, rng: Rng, at: float) -> Views:
        """Frames and actions of each window, and which slots are hidden."""
        o = self.objective
        return {**super().views(items, rng, at), "hidden": hide(rng, o.history, o.future, len(self.alone), o.masked)}

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        o, hidden, frames = self.objective, views["hidden"], views["frames"]
        pictures = torch.where(self.alone, frames[:, :, None], -self.mean / self.std)  # [B, T, S, C, H, W]
        tokens = self.encoder(pictures.flatten(0, 2))[:, self.encoder.num_prefix :]
        slots = tokens.float().mean(1).unflatten(0, hidden.shape)
        with torch.autocast(slots.device.type, enabled=False):
            out = causaljepa_loss(self.predictor(slots, hidden, views["actions"]), slots, hidden, o.history)
            each = [collectives.gather(z) for z in slots.permute(2, 0, 1, 3).flatten(1, 2)]  # S times [B T, D]
            variance = torch.stack([hinge(z, 0) for z in each]).mean()
            covariance = torch.stack([off_diagonal(z) for z in each]).mean()
        loss = out["loss"] + o.variance * variance + o.covariance * covariance
        return {**out, "loss": loss, "variance": variance, "covariance": covariance}

    def flops(self) -> float:
        """Of every object of every frame, and the predictor, forward and backward."""
        slots = len(self.alone)
        return 3 * (self.window * slots * self.encoder.flops() + self.predictor.flops(slots, self.item.block))


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "the encoder is learned (published: frozen slots), by PLDM's terms; the world's objects; no robot state",
    "small, quick": "the encoder is learned, by PLDM's terms; the world's objects at 32 px; ViT of 2 blocks",
}


def paper(backbone: str = "vit_tiny_patch16", **changes: Any) -> Config:
    """Push-T's predictor: 6 blocks of 16 heads, 3 frames and the next (their world; here a room with a block).

    ssl-bench pretrain --method causaljepa --recipe paper
    """
    objective = CausalJEPAConfig(depth=6, heads=16, hidden=2048, dropout=0.1)
    data = {"data": DataConfig("two_room:block:10000", image_size=224)}
    return budgets.worlds("causaljepa", objective, OptimConfig(lr=5e-4), backbone, **(data | changes))


def small(**changes: Any) -> Config:
    """Four CPU-minutes. ssl-bench pretrain --method causaljepa"""
    return budgets.small_worlds("causaljepa", CausalJEPAConfig(), small_optim(), **(block() | changes))


def quick(**changes: Any) -> Config:
    """A first look: ssl-bench pretrain --method causaljepa --recipe quick"""
    return budgets.quick_worlds("causaljepa", CausalJEPAConfig(), small_optim(), **(block() | changes))


def block() -> dict[str, Any]:
    """Three objects: the dot, the walls, and what the dot pushes."""
    return {"data": DataConfig("two_room:block", image_size=32)}


def small_optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, warmup=0.05, weight_decay=0.01, clip=1.0)
