"""`state`: what the encoder's features tell of the state of the world, frame by frame.

Frozen features (the last layer in the encoder's own pooling) of single frames, a ridge regression (its penalty chosen
on the validation part) and an MLP with one hidden layer of 512, on the factors of the world: where the agent is, and,
where the set's options make them differ, walls, doors and the rest. Parts are cut by whole trajectories. Reported:
100 R2 of each factor by the ridge, `_mlp` by the MLP, and `px`, the mean distance in the world's units (64 across).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_bench.config.bounds import refuse_outside
from ssl_bench.evaluation.latents import FRAMES, mlp, ridge
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol
from ssl_bench.evaluation.scorers import explained
from ssl_bench.evaluation.world_scorers import States


@dataclass(frozen=True)
class StateConfig:
    trajectories: int = 400  # of the training part
    penalties: tuple[float, ...] = (1e-6, 1e-4, 1e-2, 1.0)  # of the ridge, on standardised features
    epochs: int = 30  # of the MLP

    def check(self) -> None:
        refuse_outside("", self, {"trajectories": 8, "epochs": 1})


@torch.no_grad()
def pooled(x: Features, count: int = 0) -> Tensor:
    """Features [N, T, D] of the frames of the first `count` (0: all) trajectories of a part."""
    assert x.raw is not None
    out = []
    for rows in np.array_split(np.arange(count or len(x.raw)), max(1, (count or len(x.raw)) * x.kind.length // FRAMES)):
        frames = x.kind.frames(x.raw.batch(rows))
        found = x.encoder.encode(frames.flatten(0, 1), 1)[x.encoder.pooling][:, -1]
        out.append(found.unflatten(0, frames.shape[:2]).float().cpu())
    return torch.cat(out)


class Readout(Predictor):
    def __init__(self, train: Features, val: Features, config: StateConfig, seed: int) -> None:
        super().__init__()
        assert train.targets is not None and val.targets is not None
        count = min(config.trajectories, len(train))
        self.shape = (train.kind.length, train.targets.shape[1] // train.kind.length)
        known = train.targets[:count].reshape(-1, self.shape[1])
        held = val.targets.reshape(-1, self.shape[1])
        x, y = (f.flatten(0, 1) for f in (pooled(train, count), pooled(val)))
        columns = [c for f in train.factors for c in f.columns]
        tried = ridge(x, known, list(config.penalties))
        truth, told = held[:, columns].double(), [(y @ w + b)[:, columns].double() for w, b in tried]
        scores = [float(explained(one, truth).mean()) for one in told]
        best = int(np.argmax(scores))
        weight, bias = tried[best]
        deep = mlp(x, known, seed, epochs=config.epochs)
        self.ways = (lambda new: new @ weight + bias, deep)
        self.selected = {"penalty": config.penalties[best], "frames": len(x)}

    @torch.no_grad()
    def predict(self, x: Features) -> Tensor:
        """States [2, N, T, S]."""
        found = pooled(x)
        return torch.stack([way(found.flatten(0, 1)).unflatten(0, found.shape[:2]) for way in self.ways])


class State(Protocol):
    input = "world"
    headline = "position"
    scores = "targets"
    scorer = States()  # of the world's factors
    config: StateConfig

    def fit(self, train: Features, val: Features, seed: int) -> Readout:
        assert train.world is not None
        self.scorer = States(("", "mlp"), train.factors, train.world.position)
        return Readout(train, val, self.config, seed)

    def classes(self, output: Tensor) -> None:
        return None
