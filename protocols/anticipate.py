"""`anticipate`: what a clip will show, read from features of its beginning.

Definition (the small form, for sets whose label is a motion, such as `movingphotos`): the encoder sees the first half
of the frames; every later one shows the last that was seen, as where a film ends too early. On the mean (or CLS) of its
tokens stands the probe of `linear`, chosen and fitted on clips cut in the same way. The label is that of the whole
clip, so that the motion of the second half is foretold from the first; of films that are labelled as a whole this is
recognition before the end. Beside `linear` it says how much the second half is worth. The controls see the same cut.

Of V-JEPA 2's evaluation (Assran et al. 2025, arXiv 2506.09985; evals/action_anticipation_frozen, on EPIC-KITCHENS) this
leaves out what other encoders lack or these sets do not ask for: the predictor's tokens of the future, the attentive
pooler with queries for verb, noun and action, the focal loss, and recall at 5.

Changes: 1 first version. 2 the probe is that of `linear` version 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from protocols.linear import Linear, LinearConfig
from ssl_bench.errors import UserError
from ssl_bench.evaluation.features import changed
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol
from ssl_bench.screen import paced


@dataclass(frozen=True)
class AnticipateConfig:
    seen: float = 0.5  # share of the frames, rounded to whole ones
    batch_size: int = 256
    linear: LinearConfig = field(default_factory=LinearConfig)

    def check(self) -> None:
        if not 0 < self.seen < 1 or self.batch_size < 1:
            raise UserError(f"anticipate needs seen between 0 and 1, and a batch_size of 1 or more; seen={self.seen}.")
        if self.linear.svm or self.linear.augment:
            raise UserError("linear.svm and linear.augment read whole clips, not beginnings: leave them out.")
        self.linear.check()


def begun(clips: Tensor, seen: float) -> Tensor:
    """Clips [B, T, C, H, W] as far as they are seen: at least one frame, and not the last; then the last seen.

    Films in segments [B, S, T, C, H, W] are cut as wholes.
    """
    if clips.ndim == 6:
        return begun(clips.flatten(1, 2), seen).view(clips.shape)
    frames = clips.shape[1]
    last = min(max(round(seen * frames), 1), frames - 1) - 1
    return clips[:, torch.arange(frames).clamp(max=last)]


class Begun(Predictor):
    """A head on features of beginnings."""

    def __init__(self, head: Predictor, config: AnticipateConfig) -> None:
        super().__init__()
        self.head, self.config, self.selected = head, config, head.selected

    def predict(self, x: Features) -> Tensor:
        return self.head.predict(of_beginnings(x, self.config))


def of_beginnings(x: Features, config: AnticipateConfig) -> Features:
    """The same clips with features of their beginnings."""
    parts = np.split(np.arange(len(x)), range(config.batch_size, len(x), config.batch_size))
    found = [
        changed(x, rows, lambda clips: begun(clips, config.seen))
        for rows in paced("encoding the beginnings", parts, len(parts))
    ]
    return replace(x, pooled={name: torch.cat([part[name] for part in found]) for name in found[0]})


class Anticipate(Protocol):
    version = 2
    input = "images"
    only = "clip"
    votes = True
    config: AnticipateConfig

    def fit(self, train: Features, val: Features, seed: int) -> Begun:
        train, val = (of_beginnings(part, self.config) for part in (train, val))
        return Begun(Linear(self.config.linear).fit(train, val, seed), self.config)
