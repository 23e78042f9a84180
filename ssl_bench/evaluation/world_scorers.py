"""Scorers of the protocols on worlds. Success is judged here, by doing again what was done: no protocol can claim it.

Shapes: P policies, E episodes, A numbers of an action, N trajectories, T frames, S numbers of a state, H horizons.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from ssl_bench.data import rollouts
from ssl_bench.data.factors import Factor
from ssl_bench.data.world import World, parse
from ssl_bench.evaluation.scorers import Scorer, explained

BUDGETS: dict[rollouts.GOALS, int] = {"far": 100, "near": 50}  # steps; the oracle needs 50 at most across the rooms


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share of n trials (Wilson 1927)."""
    middle, wide = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return float((middle - wide) / (1 + z * z / n)), float((middle + wide) / (1 + z * z / n))


def reached(world: World, found: rollouts.Episodes, actions: np.ndarray) -> np.ndarray:
    """Whether each episode is ever at its goal under actions [E, steps, A], its start included: bool [E]."""
    state = found.start
    ever = world.success(state, found.goal)
    for t in range(actions.shape[1]):
        state = world.step(state, actions[:, t])
        ever = ever | world.success(state, found.goal)
    return ever


@dataclass(frozen=True)
class Replay(Scorer):
    """Of the actions of policies [P, 2, E, steps, A], for far and near goals; the first policy is the encoder's own.

    Each is done again from the sealed starts. Success: ever within the world's radius of the goal.
    """

    title: str = ""  # of the world, which is looked up: nobody brings an easier one
    names: tuple[str, ...] = ()  # of the policies, "" for the first
    sealed: bool = True

    def _bits(self, actions: np.ndarray, goals: rollouts.GOALS) -> np.ndarray:
        world = parse(self.title).world
        found = rollouts.episodes(world, goals, actions.shape[0], self.sealed)
        return reached(world, found, actions[:, : BUDGETS[goals]])

    def judging(self, sealed: bool) -> Replay:
        return replace(self, sealed=sealed)

    def bits(self, output: Tensor, classes: Tensor | None = None, truth: Tensor | None = None) -> np.ndarray:
        """One per far episode."""
        return self._bits(output[0, 0].double().numpy(), "far")

    def __call__(self, output: Tensor, truth: Tensor, num_classes: int) -> dict[str, float]:
        world, metrics = parse(self.title).world, dict[str, float]()
        for which, goals in enumerate(BUDGETS):
            title = "success" if goals == "far" else "near"
            for policy, name in zip(output.double().numpy(), self.names, strict=True):
                share = float(self._bits(policy[which], goals).mean())
                key = f"{title}_{name}" if name else title
                metrics[key] = 100 * share
                if not name:
                    low, high = wilson(share, policy.shape[1])
                    metrics |= {f"{key}_low": 100 * low, f"{key}_high": 100 * high}
            found = rollouts.episodes(world, goals, output.shape[2], self.sealed)
            metrics[f"{title}_at_start"] = 100 * float(world.success(found.start, found.goal).mean())
        return metrics


@dataclass(frozen=True)
class States(Scorer):
    """Of states [P, N, T, S], one for each probe: 100 R2 of each factor, and the distance of positions in pixels."""

    names: tuple[str, ...] = ()  # of the probes, "" for the first
    factors: tuple[Factor, ...] = ()
    position: tuple[int, ...] = ()

    def __call__(self, output: Tensor, truth: Tensor, num_classes: int) -> dict[str, float]:
        truth, metrics = truth.reshape(output.shape[1:]).flatten(0, 1).double(), {}
        for name, one in zip(self.names, output.flatten(1, 2).double(), strict=True):
            tail = f"_{name}" if name else ""
            for f in self.factors:
                metrics[f.name + tail] = float(explained(one[:, f.columns], truth[:, f.columns]).mean())
            gap = (one - truth)[:, list(self.position)].square().sum(1).sqrt()
            metrics["px" + tail] = float(gap.mean())
        return metrics


@dataclass(frozen=True)
class Horizons(Scorer):
    """Of positions and latent errors [P, N, H, 2 + 1] at some frames ahead: mean distance in pixels and mean error."""

    names: tuple[str, ...] = ()  # of the ways to foretell, "" for the first
    horizons: tuple[int, ...] = ()  # frames
    every: int = 1  # steps between frames
    position: tuple[int, ...] = ()
    width: int = 0  # numbers of a state

    def __call__(self, output: Tensor, truth: Tensor, num_classes: int) -> dict[str, float]:
        states = truth.reshape(len(truth), -1, self.width).double()[:, :, list(self.position)]
        metrics = {}
        for name, one in zip(self.names, output.double(), strict=True):
            for i, frame in enumerate(self.horizons):
                gap = (one[:, i, :-1] - states[:, frame]).square().sum(1).sqrt()
                tail = f"{self.every * frame}{'_' * bool(name)}{name}"
                metrics[f"px{tail}"], metrics[f"latent{tail}"] = float(gap.mean()), float(one[:, i, -1].mean())
        return metrics


@dataclass(frozen=True)
class Ahead(Horizons):
    """The same of clips whose disc is followed: `columns` of the targets are x and y in every frame of a film."""

    columns: tuple[int, ...] = ()
    frames: int = 0  # of a clip
    last: int = 0  # cell of time that was seen last; horizons count from it

    def places(self, truth: Tensor) -> Tensor:
        """Where it is in each cell of time [N, T, 2]: the mean of the frames of a cell."""
        film = truth[:, list(self.columns)].reshape(len(truth), -1, 2)
        return film[:, :: film.shape[1] // self.frames].unflatten(1, (-1, self.every)).mean(2)

    def __call__(self, output: Tensor, truth: Tensor, num_classes: int) -> dict[str, float]:
        return super().__call__(output, self.places(truth)[:, self.last :].flatten(1), num_classes)


@dataclass(frozen=True)
class Surprise(Scorer):
    """Of errors [2 K, n], for each kind of event those of true frames, then of impossible ones: 100 AUROC of each."""

    names: tuple[str, ...] = ()

    def __call__(self, output: Tensor, truth: Tensor, num_classes: int) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for name, (usual, odd) in zip(self.names, output.double().unflatten(0, (-1, 2)), strict=True):
            above = (odd[:, None] > usual).double() + 0.5 * (odd[:, None] == usual).double()
            metrics[name] = 100 * float(above.mean())
        return {"mean": sum(metrics.values()) / len(metrics), **metrics}


WORLDS = (Replay, States, Horizons, Ahead, Surprise)
