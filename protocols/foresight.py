"""`foresight`: how well the run's predictor sees the frames to come, by frames ahead, without a look in between.

Of clips in which something is followed (`cues`): the predictor that a run has kept (`thinkjepa`) gets the recent frames
and the past as in training, and gives the tokens of the frames to come. An MLP fitted on tokens of true future frames
of the training split, encoded alone, reads places from them. `px8`: mean distance in pixels of 32 eight frames ahead;
`latent8`: mean squared error of the tokens over their variance in the training split, which compares runs on one frozen
encoder and no others. Beside it, on the same clips: `copy` (the last seen frame stays), `other` (the slow path reads
the next test clip's past) and `seen` (the probe on the true frame: what no prediction can pass). What has kept no
predictor says that all stays: its own numbers are those of `copy`. Published (ThinkJEPA): the same latent errors, and
distances of a trajectory head that learned from states.

Changes: 1 first version.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_bench.config.schema import refuse_outside
from ssl_bench.errors import UserError
from ssl_bench.evaluation.latents import mlp
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol
from ssl_bench.evaluation.world_scorers import Ahead
from ssl_bench.models.thinker import Cells, Thinker, ThinkerConfig, tokens
from ssl_bench.models.vit import ViT
from ssl_bench.screen import paced

WAYS = ("", "copy", "other", "seen")


@dataclass(frozen=True)
class ForesightConfig:
    horizons: tuple[int, ...] = (1, 4, 8)  # cells of time ahead: frames, where a tubelet is one
    clips: int = 1000  # of the training split at most, for the probe
    epochs: int = 20  # of the probe
    batch_size: int = 100  # clips at a time: changes no number

    def check(self) -> None:
        refuse_outside("", self, {"clips": 8, "epochs": 1, "batch_size": 1})
        if not self.horizons or min(self.horizons) < 1:
            raise UserError("horizons needs numbers of frames, 1 or more, as in 1,4,8.")


class Seer(Predictor):
    def __init__(self, x: Features, config: ForesightConfig) -> None:
        super().__init__()
        e = self.encoder = x.encoder
        if e.model is not None and not (isinstance(e.model, ViT) and len(e.model.grid) == 3):
            raise UserError(
                f"foresight reads tokens frame by frame, which '{e.source}' does not give: use a run's encoder."
            )
        self.config, self.thinker = config, e.kept if isinstance(e.kept, Thinker) else None
        self.frames = x.items.batch(np.arange(1)).shape[1]
        length = e.model.grid[0] if e.model is not None else self.frames
        self.cells = self.thinker.cells if self.thinker else Cells.of(ThinkerConfig(), length)
        self.every = self.frames // length
        if max(config.horizons) > len(self.cells.future):
            raise UserError(
                f"horizons={','.join(map(str, config.horizons))} must be at most {len(self.cells.future)}, the cells "
                f"of time to come in clips of {self.frames} frames: set foresight.horizons, or data.frames higher."
            )
        self.selected = {"predictor": self.thinker.config.past if self.thinker else "", "cells": length}

    def read(self, clips: Tensor, cells: range) -> Tensor:
        """What is seen of some cells [B, n, D], alone; of raw input a row for each frame."""
        ready = self.encoder.prepare(clips)
        if self.encoder.model is None:
            return ready[:, list(cells)].flatten(2)
        return tokens(self.encoder.model, ready, cells)

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
        seen, last = self.read(clips, self.cells.recent), range(self.cells.future[0] - 1, self.cells.future[0])
        copy = self.by_cell(self.read(clips, last).repeat(1, len(self.cells.future), 1))
        found = [copy] * 3
        if self.thinker is not None:
            own, other = (self.by_cell(self.thinker(seen, self.read(c, self.cells.slow))) for c in (clips, others))
            found = [own, copy, other]
        return torch.stack([*found, self.by_cell(self.read(clips, self.cells.future))], 1).cpu()

    def predict(self, x: Features) -> Tensor:
        """Places and errors [4, N, H, 2 + 1]."""
        wanted = [h - 1 for h in self.config.horizons]

        def of(numbers: Tensor) -> Tensor:
            clips, others = (x.items.batch(r.numpy()) for r in (numbers, (numbers + 1) % len(x)))
            found = self.ways(clips, others)[:, :, wanted]
            error = (found - found[:, -1:]).square().mean(3, keepdim=True) / self.spread
            return torch.cat([self.probe(found.flatten(0, 2)).unflatten(0, found.shape[:3]), error], 3)

        return torch.cat([of(r) for r in self.batches(torch.arange(len(x)), "looking ahead")]).transpose(0, 1)


class Foresight(Protocol):
    input = "images"
    only = "clip"
    factor = "track"
    headline = "px8"
    higher_is_better = False
    scores = "targets"
    scorer = Ahead()  # of the clips and the horizons asked for
    config: ForesightConfig

    def fit(self, train: Features, val: Features, seed: int) -> Seer:
        found, c = Seer(train, self.config), self.config
        columns = next(f.columns for f in train.factors if f.name == self.factor)
        self.headline = f"px{found.every * max(c.horizons)}"
        self.scorer = Ahead(WAYS, c.horizons, found.every, (0, 1), 2, columns, found.frames, found.cells.future[0] - 1)
        assert train.targets is not None
        found.learn(train, self.scorer.places(train.targets).float(), seed)
        return found

    def classes(self, output: Tensor) -> None:
        return None
