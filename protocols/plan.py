"""`plan`: acting in the world by the encoder's latents, with the cross-entropy method. Success by doing it again.

Sealed starts and goals, the same for everybody, and the same random numbers. `success` (far): the goal lies in the
other room, evenly over it, 100 steps; `near`: 25 steps of the policies of the data from the start, 50 steps (as
LeWorldModel reports, whose goals are that near). Success: ever within the world's radius of the goal, the start
included; the actions are done again by the scorer from the sealed starts. Intervals: Wilson, 95 %.
The cost of a plan is the mean squared distance of its latents to the goal's. Whose run has learned dynamics plans with
those; every other encoder gets the same predictor, trained on its frozen features under one budget (`fit`).
Beside the encoder, on the same episodes: `random` actions, a `straight` line, the `oracle`, and `true`: the same CEM in
the world itself, by the distance as the crow flies, which is no path through a door; as far as the world has them.
A run with two levels plans on both, with as many calls of a predictor as on one; `flat` plans by its first level alone.
`pixels`: as `brief`, by raw pixels in place of the run's encoder: a predictor of pixels is fitted and searched, so that
`seconds_far` of one run tells what a decision costs by its latents and by pixels.

Changes: 1 first version. 2 dynamics are fitted by squared errors: by absolute ones they foretold worse than
standing still (evaluation/latents.py).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ssl_bench.config.bounds import refuse_outside
from ssl_bench.config.schema import later
from ssl_bench.data import rollouts
from ssl_bench.data.world import World, sealed_seed
from ssl_bench.encoders.references import raw
from ssl_bench.evaluation import actors
from ssl_bench.evaluation.actors import Actor
from ssl_bench.evaluation.latents import FitConfig
from ssl_bench.evaluation.planner import CEMConfig, Search, act, follow, true_cost
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol
from ssl_bench.evaluation.world_scorers import BUDGETS, Replay


@dataclass(frozen=True)
class PlanConfig:
    episodes: int = 50  # for far goals, and as many for near ones
    cem: CEMConfig = CEMConfig()
    fit: FitConfig = FitConfig()  # of encoders without dynamics
    levels: int = 0  # of a hierarchy that are used; 0: all that the run has learned
    reads: Literal["encoder", "pixels"] = later("encoder")  # by what it plans; pixels: the encoder is not asked

    def check(self) -> None:
        refuse_outside("", self, {"episodes": 2, "levels": 0}, {"levels": 3})
        self.cem.check()
        self.fit.check()


def brief() -> PlanConfig:
    """For slow machines, at about a third of the cost: 50 samples, 3 rounds, and a predictor fitted in 500 steps."""
    return PlanConfig(cem=CEMConfig(samples=50, elites=8, iterations=3), fit=FitConfig(steps=500))


def pixels() -> PlanConfig:
    """The same by raw pixels, whatever the encoder."""
    return replace(brief(), reads="pixels")


def policies(world: World) -> tuple[str, ...]:
    """Who acts: the encoder first, whose name is ""."""
    return ("", "random", *world.known)


def wanderer(world: World, goals: str, episodes: int) -> np.ndarray:
    """Uniform actions, cut to the limit: fp64 [E, steps, A] for the longest budget."""
    rng = np.random.default_rng(sealed_seed(world.name, "random actions", goals))
    return world.clip(rng.uniform(-world.limit, world.limit, (episodes, max(BUDGETS.values()), world.action_dim)))


def beside(name: str, world: World, found: rollouts.Episodes, goals: rollouts.GOALS, cem: CEMConfig) -> np.ndarray:
    """What a policy of `policies` does: [E, budget, A]."""
    budget = BUDGETS[goals]
    if name == "true":
        search = Search(world, len(found), cem, lambda s, g: true_cost(world, s, g, cem.cost), goals)
        return act(world, found, budget, cem.executed, search)
    drawn = iter(wanderer(world, goals, len(found)).swapaxes(0, 1))
    ways = {"random": lambda state, goal: next(drawn), "straight": world.straight, "oracle": world.oracle}
    return follow(world, found, budget, ways[name])


class Acted(Predictor):
    def __init__(self, config: PlanConfig, actor: Actor) -> None:
        super().__init__()
        self.config, self.actor = config, actor
        self.selected = {**actor.told, "calls_per_decision": actor.calls}

    def predict(self, x: Features) -> Tensor:
        """Actions [policies, 2, E, steps, A], zeros after the last."""
        c, world = self.config, self.actor.world
        steps, out = max(BUDGETS.values()), []
        for goals, budget in BUDGETS.items():
            found, started = rollouts.episodes(world, goals, c.episodes, x.sealed), time.perf_counter()
            own = act(world, found, budget, c.cem.executed, self.actor.deciding(c.episodes, goals))
            self.selected[f"seconds_{goals}"] = round(time.perf_counter() - started, 2)
            ways = [own, *(beside(name, world, found, goals, c.cem) for name in policies(world)[1:])]
            out.append(np.stack([np.pad(way, ((0, 0), (0, steps - budget), (0, 0))) for way in ways]))
        return torch.from_numpy(np.stack(out, 1))


class Plan(Protocol):
    version = 2
    input = "world"
    headline = "success"
    scores = "targets"
    scorer = Replay()  # of the world it acts in
    config: PlanConfig

    def fit(self, train: Features, val: Features, seed: int) -> Acted:
        assert train.world is not None
        self.scorer = Replay(train.world.title, policies(train.world))
        c = self.config
        if c.reads == "pixels":
            train = replace(train, encoder=raw(train.encoder))
        return Acted(c, actors.of(train, c.cem, c.fit, c.levels, seed))

    def classes(self, output: Tensor) -> None:
        return None


def flat() -> PlanConfig:
    """Of a hierarchy the first level alone: what its second level is compared with, at equal calls."""
    return PlanConfig(levels=1)
