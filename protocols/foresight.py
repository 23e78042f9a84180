"""`foresight`: how well the run's predictor sees the frames to come, by frames ahead, without a look in between.

Of clips in which something is followed (`cues`): the predictor that a run has kept (`thinkjepa`) gets the recent frames
and the past as in training, and gives the tokens of the frames to come, which begin after the share `seen` of the clip
for every row. An MLP fitted on tokens of true future frames of the training split, encoded alone, reads places from
them. `px8`: mean distance in pixels of 32 eight frames ahead; `latent8`: mean squared error of the tokens over their
variance in the training split, which compares runs on one frozen encoder and no others. Without `horizons` the first,
the middle and the last frame to come are asked for. Beside it, on the same clips: `copy` (the last seen frame in place
of all that come, encoded as those are), `other` (the slow path reads the next test clip's past) and `seen` (the probe
on the true frame: what no prediction can pass). What has kept no predictor says that all stays: its own numbers are
those of `copy`. Published (ThinkJEPA): the same latent errors, and distances of a trajectory head that learned from
states.

Changes: 1 first version. 2 `copy` is encoded together and at the places of the frames it stands for; before, the last
frame was encoded alone, and a prediction could be nearer by its place and company.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_bench.config.bounds import refuse_outside
from ssl_bench.errors import UserError
from ssl_bench.evaluation.latents import mlp
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol
from ssl_bench.evaluation.world_scorers import Ahead
from ssl_bench.models.thinker import Cells, Thinker, ThinkerConfig, places, tokens
from ssl_bench.models.vit import ViT
from ssl_bench.screen import paced

WAYS = ("", "copy", "other", "seen")


@dataclass(frozen=True)
class ForesightConfig:
    horizons: tuple[int, ...] = ()  # cells of time ahead: frames, where a tubelet is one; (): first, middle, last
    seen: float = 0.8  # share of the clip that is seen; what comes then is asked for
    clips: int = 1000  # of the training split at most, for the probe
    epochs: int = 20  # of the probe
    batch_size: int = 100  # clips at a time: changes no number

    def check(self) -> None:
        refuse_outside("", self, {"clips": 8, "epochs": 1, "batch_size": 1})
        refuse_outside("", self, {"seen": 0.01}, {"seen": 1.0})
        if self.horizons and (min(self.horizons) < 1 or len(set(self.horizons)) < len(self.horizons)):
            raise UserError("horizons needs different numbers of frames, 1 or more, as in 1,4,8.")


class Seer(Predictor):
    def __init__(self, x: Features, config: ForesightConfig) -> None:
        super().__init__()
        e = self.encoder = x.encoder
        if not (e.method == "pixels" or isinstance(e.model, ViT)):
            raise UserError(
                f"foresight reads tokens frame by frame, which '{e.method}' does not give: use a run's encoder."
            )
        self.config, self.thinker = config, e.kept if isinstance(e.kept, Thinker) else None
        self.frames = x.items.batch(np.arange(1)).shape[1]
        length = e.model.grid[0] if e.model is not None else self.frames
        self.cells, self.every = Cells.of(ThinkerConfig(seen=config.seen), length), self.frames // length
        first, count = self.cells.future[0], len(self.cells.future)
        if self.thinker and (learned := self.thinker.cells.future[0]) != first:
            raise UserError(
                f"foresight asks for what comes after {first} of {length} frames or tubelets, and this run has learned "
                f"what comes after {learned}: train it with objective.seen={config.seen:g}, or give all rows "
                f"foresight.seen={self.thinker.config.seen:g}."
            )
        self.horizons = config.horizons or tuple(sorted({1, max(count // 2, 1), count}))
        if max(self.horizons) > count:
            raise UserError(f"horizons={max(self.horizons)} must be at most {count}: so much of {length} is to come.")
        past = self.thinker.config.past if self.thinker else ""
        self.selected = {"predictor": past, "cells": length, "last_seen": first - 1, "horizons": list(self.horizons)}

    def read(self, clips: Tensor, cells: range) -> Tensor:
        """What is seen of some cells [B, n, D], alone; of raw input a row for each frame."""
        ready = self.encoder.prepare(clips)
        if self.encoder.model is None:
            return ready[:, list(cells)].flatten(2)
        return tokens(self.encoder.model, ready, places(cells, self.encoder.model.grid).to(ready.device))

    def by_cell(self, read: Tensor) -> Tensor:
        """[B, n, D] of all cells to come -> a row for each [B, F, n / F * D]."""
        return read.unflatten(1, (len(self.cells.future), -1)).flatten(2)

    def batches(self, rows: Tensor, words: str) -> Iterator[Tensor]:
        parts = list(rows.split(self.config.batch_size))
        return paced(words, parts, len(parts))

    def learn(self, train: Features, places: Tensor, seed: int) -> None:
        """The probe, and the variance of what it reads."""
        rows = torch.linspace(0, len(train) - 1, min(self.config.clips, len(train))).long()
        known = places[rows][:, list(self.cells.future)]
        clips = (train.items.batch(r.numpy()) for r in self.batches(rows, "encoding frames to come"))
        z = torch.cat([self.by_cell(self.read(part, self.cells.future)).cpu() for part in clips])
        self.spread = z.flatten(0, 1).var(0).mean().clamp(min=1e-12)
        self.probe = mlp(z.flatten(0, 1), known.flatten(0, 1), seed, epochs=self.config.epochs)

    @torch.no_grad()
    def ways(self, clips: Tensor, others: Tensor) -> Tensor:
        """[B, 4, F, n / F * D], in the order of `WAYS`; `others`: clips whose past is read in place of one's own."""
        first = self.every * self.cells.future[0]
        still = torch.cat([clips[:, :first], clips[:, first - 1 : first].expand_as(clips[:, first:])], 1)
        copy = self.by_cell(self.read(still, self.cells.future))
        found = [copy] * 3
        if self.thinker is not None:
            cells = self.thinker.cells
            seen, pasts = self.read(clips, cells.recent), (self.read(c, cells.slow) for c in (clips, others))
            own, other = (self.by_cell(self.thinker(seen, past)) for past in pasts)
            found = [own, copy, other]
        return torch.stack([*found, self.by_cell(self.read(clips, self.cells.future))], 1).cpu()

    def predict(self, x: Features) -> Tensor:
        """Places and errors [4, N, H, 2 + 1]."""
        wanted = [h - 1 for h in self.horizons]

        def of(numbers: Tensor) -> Tensor:
            clips, others = (x.items.batch(r.numpy()) for r in (numbers, (numbers + 1) % len(x)))
            found = self.ways(clips, others)[:, :, wanted]
            error = (found - found[:, -1:]).square().mean(3, keepdim=True) / self.spread
            return torch.cat([self.probe(found.flatten(0, 2)).unflatten(0, found.shape[:3]), error], 3)

        return torch.cat([of(r) for r in self.batches(torch.arange(len(x)), "looking ahead")]).transpose(0, 1)


class Foresight(Protocol):
    version = 2
    input = "images"
    only = "clip"
    factor = "track"
    headline = "px8"
    higher_is_better = False
    scores = "targets"
    scorer = Ahead()  # of the clips and the horizons asked for
    config: ForesightConfig

    def fit(self, train: Features, val: Features, seed: int) -> Seer:
        found = Seer(train, self.config)
        columns = next(f.columns for f in train.factors if f.name == self.factor)
        self.headline = f"px{found.every * max(found.horizons)}"
        self.scorer = Ahead(
            WAYS, found.horizons, found.every, (0, 1), 2, columns, found.frames, found.cells.future[0] - 1
        )
        assert train.targets is not None
        found.learn(train, self.scorer.places(train.targets).float(), seed)
        return found

    def classes(self, output: Tensor) -> None:
        return None
