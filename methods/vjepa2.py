"""V-JEPA 2: V-JEPA with rotary positions, one mask token, a constant EMA and a constant rate after the warm-up.

Assran et al., "V-JEPA 2: Self-Supervised Video Models Enable Understanding, Prediction and Planning", 2025, arXiv
2506.09985. Objective, masks and loss are V-JEPA's (vjepa.py).

Every block of encoder and predictor turns queries and keys by time, row and column. The released weights use a form
that is not a rotation (`backbone.pos_embed=rope_tiled`); the repaired one of V-JEPA 2.1 (`rope`) is used here. Left
out: the second phase, 12k steps on 64 frames at a falling rate, which goes on from a finished run.
Evaluated: the target encoder, mean of the tokens (the paper: an attentive probe of depth 4).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from methods.vjepa import VJEPA, VJEPAConfig, small_objective, small_optim
from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.views.crops import unmirrored


@dataclass(frozen=True)
class VJEPA2Config(VJEPAConfig):
    """What V-JEPA 2 changes."""

    momentum: float = 0.99925  # EMA, constant
    momentum_end: float = 0.99925  # the same
    stretch: float = 1.0  # no line to cut
    predictor_heads: int = 12  # of the released predictors
    own_mask_tokens: bool = False  # trained with the first of several (the wrapper passes the frame group's index)


class VJEPA2(VJEPA):
    """V-JEPA's student, teacher and predictor with other settings."""

    paper = "V-JEPA 2, Assran et al. 2025, arXiv 2506.09985"
    objective: VJEPA2Config


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "initialisation, repaired rotary positions, no second phase",
    "small, quick": "repaired rotary positions, predictor of 2 blocks; unless set, tubelets of 2 x 4 x 4, EMA 0.99",
    "clips": "repaired rotary positions, predictor of 2 blocks, tubelets of all frames, EMA from 0.99",
}


def paper(backbone: str = "vit_large_patch16", **changes: Any) -> Config:
    """ViT-L/16, 22 million films, 16 frames of 256 px, 240k steps at a constant rate: SSv2 73.7 (attentive, depth 4).

    ssl-bench pretrain --method vjepa2 --recipe paper
    """
    optim = OptimConfig(
        lr=5.25e-4, lr_start=1e-4,
        lr_end=5.25e-4,  # constant after the warm-up
        warmup=12 / 240, weight_decay=0.04,
    )  # fmt: skip
    return _rotary(budgets.films("vjepa2", unmirrored(VJEPA2Config()), optim, backbone, 3072, 240_000, 256, **changes))


def small(**changes: Any) -> Config:
    """8 frames of 32 px. ssl-bench pretrain --method vjepa2"""
    return _rotary(budgets.small_clips("vjepa2", _small(), small_optim(), **changes))


def quick(**changes: Any) -> Config:
    """A first look at motion: ssl-bench pretrain --method vjepa2 --recipe quick"""
    return _rotary(budgets.quick_clips("vjepa2", _small(), small_optim(), **changes))


def clips(**changes: Any) -> Config:
    """What is compared on motion: ssl-bench pretrain --method vjepa2 --recipe clips"""
    return _rotary(budgets.clips("vjepa2", _small(), small_optim(), **changes))


def _rotary(config: Config) -> Config:
    """The same with rotary positions; what is given by hand stays."""
    if config.backbone.pos_embed != "sincos":
        return config
    return replace(config, backbone=replace(config.backbone, pos_embed="rope"))


def _small() -> VJEPA2Config:
    found: VJEPA2Config = small_objective(VJEPA2Config, momentum=0.99, momentum_end=0.99)
    return found
