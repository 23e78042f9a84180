"""ThinkJEPA: the latent frames to come from those just seen, guided by a slow look at the whole past.

"ThinkJEPA", 2026, arXiv 2603.22281; Hai-chao-Zhang/ThinkJEPA at face266 (licence of its own: facts alone were taken).
Loss: squared error of the tokens of the future frames, encoded apart by the same frozen encoder. The dense path is
a V-JEPA predictor, causal over frames; guidance is FiLM with gates that begin at zero (ssl_bench/models/thinker.py).
Their slow path is Qwen3-VL, asked about the observed frames; here it is a small transformer over the encoder's tokens
of every fourth observed frame, learned with the predictor, and its learned tokens stand where the written ones stood.
Left out: the head for hand trajectories and its loss (it learns from states). The first release averaged the guidance
over the batch and encoded past and future in one pass; the later one does not, and ours follows that. Which of them
made the paper's table is not known, and none of its numbers is quoted here.
Recipes of what it is compared with: `alone` (no slow path), `other` (it reads another clip's past), `deeper` (no slow
path, and as much compute in the predictor). The encoder is that of a finished run on such clips
(`objective.encoder=FOLDER`), or the untrained one that this run's seed gives: the same for all four.
Evaluated: the frozen encoder, mean of the tokens; the predictor is kept for `foresight`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from methods.vjepa2ac import UNTRAINED, adopt
from ssl_bench.config import budgets
from ssl_bench.config.schema import BudgetConfig, Config, DataConfig, OptimConfig
from ssl_bench.models.thinker import Thinker, ThinkerConfig, tokens
from ssl_bench.parallel import collectives
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views


@dataclass(frozen=True)
class ThinkJEPAConfig(ThinkerConfig):
    encoder: str = UNTRAINED  # folder of a finished run whose encoder is used, or untrained


def next_clip(x: Tensor) -> Tensor:
    """Rows [B, ...] of this process, each in place of the one before it in the batch of all processes."""
    here = collectives.rank() * len(x)
    return collectives.gather(x).roll(1, 0)[here : here + len(x)]


class ThinkJEPA(Method):
    """A frozen encoder, a predictor, and the slow path that guides it."""

    family, paper = "JEPA", "ThinkJEPA, 2026, arXiv 2603.22281"
    sees, evaluated, pooling = "the last frames seen, and all of the past at a stride", "frozen encoder", "mean"
    kinds = ("clip",)
    fewest = 2  # `other` reads the past of the next clip
    objective: ThinkJEPAConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        self.encoder = self.make_vit()
        if o.encoder != UNTRAINED:
            adopt(self, o.encoder)
        self.encoder.requires_grad_(False)
        self.thinker = Thinker(self.encoder, o)

    def views(self, clips: Tensor, rng: Rng, at: float) -> Views:
        """Whole clips: nothing is drawn."""
        return {"clips": (self.info.item.floats(clips) - self.mean) / self.std}

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        clips, t, guided = views["clips"], self.thinker, self.objective.past != "none"
        recent, future = (tokens(self.encoder, clips, keep) for keep in (t.keep, t.asked))
        past = tokens(self.encoder, clips, t.past) if guided else None
        if past is not None and self.objective.past == "other":
            past = next_clip(past)
        frame = recent.unflatten(1, (len(t.cells.recent), -1))[:, -1]
        out = {
            "loss": F.mse_loss(t(recent, past), future),
            "copy": F.mse_loss(frame.repeat(1, len(t.cells.future), 1), future),
        }
        return {**out, "gate": t.guidance.gates.detach().tanh().abs().mean()} if guided else out

    def kept(self) -> Thinker:
        return self.thinker

    def flops(self) -> float:
        t = self.thinker
        read = [t.keep, t.asked] + ([] if self.objective.past == "none" else [t.past])
        return sum(self.encoder.flops(keep.shape[1]) for keep in read) + 3 * t.flops()


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "no language model: the slow path is learned; no hand trajectories; made clips unless others are named",
    "small, quick, alone, other, deeper": "no language model: the slow path is learned; no hand trajectories; a small"
    " network, an untrained encoder unless one is named",
}  # fmt: skip


def paper(backbone: str = "vit_large_patch16", **changes: Any) -> Config:
    """32 frames seen and 8 to come at 256 px, a predictor of 12 blocks (published: 32 to come, V-JEPA 2's encoder).

    ssl-bench pretrain --method thinkjepa --recipe paper objective.encoder=runs/NAME
    """
    objective = ThinkJEPAConfig(dim=384, depth=12, heads=6, slow_depth=8, thoughts=16, hidden=512)
    data = DataConfig("cues:20000", image_size=256, frames=40, val_fraction=0.01)
    optim = OptimConfig(lr=1e-4, lr_end=1e-4, warmup=0.0, weight_decay=1e-4)
    return budgets.films("thinkjepa", objective, optim, backbone, 16, 22_500, **({"data": data} | changes))


def small(**changes: Any) -> Config:
    """50 epochs. ssl-bench pretrain --method thinkjepa"""
    return _quick("small", ThinkJEPAConfig(), **({"budget": BudgetConfig(batch_size=8, epochs=50)} | changes))


def quick(**changes: Any) -> Config:
    """A first look: ssl-bench pretrain --method thinkjepa --recipe quick"""
    return _quick("quick", ThinkJEPAConfig(), **changes)


def alone(**changes: Any) -> Config:
    """Without the slow path: ssl-bench pretrain --method thinkjepa --recipe alone"""
    return _quick("alone", ThinkJEPAConfig(past="none"), **changes)


def other(**changes: Any) -> Config:
    """With another clip's past, which tells nothing: ssl-bench pretrain --method thinkjepa --recipe other"""
    return _quick("other", ThinkJEPAConfig(past="other"), **changes)


def deeper(**changes: Any) -> Config:
    """Without the slow path, its compute in one more block: ssl-bench pretrain --method thinkjepa --recipe deeper"""
    return _quick("deeper", ThinkJEPAConfig(past="none", depth=3), **changes)


def _quick(recipe: str, objective: ThinkJEPAConfig, **changes: Any) -> Config:
    optim = OptimConfig(lr=2e-3, warmup=0.05, weight_decay=1e-4, clip=1.0)
    return replace(budgets.quick_cues("thinkjepa", objective, optim, **changes), recipe=recipe)
