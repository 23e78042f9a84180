"""The cross-entropy method (CEM), and acting by it: plan, do the first part, look, plan anew.

Facts of stable-worldmodel's CEMSolver (addbab4, MIT): the first sample is the mean, what is called variance there is
the elites' standard deviation, the plan is the mean of the last elites and not the best sample. Ours: samples are cut
to what the world allows before they are judged, so that nothing is planned that cannot be done; no momentum; a warm
start unless `warm` is false. Shapes: E episodes, S samples, K frames ahead, A numbers of the actions between two
frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ssl_bench.config.bounds import refuse_outside
from ssl_bench.data.rollouts import Episodes
from ssl_bench.data.world import World
from ssl_bench.errors import UserError
from ssl_bench.rng import mix

Cost = Callable[[Tensor], Tensor]  # plans [E, S, K, A] -> [E, S]


@dataclass(frozen=True)
class CEMConfig:
    samples: int = 100
    elites: int = 10
    iterations: int = 6
    horizon: int = 5  # frames that are planned
    executed: int = 2  # of them that are done before the next plan
    std: float = 1.0  # of the first samples, in units of an action
    warm: bool = True  # the search begins at what is left of the last plan, then no action; false: at no action
    cost: Literal["sum", "last"] = "sum"  # of the distance to the goal, over all planned frames or at the last

    def check(self) -> None:
        least = {"samples": 2, "elites": 2, "iterations": 1, "horizon": 1, "executed": 1, "std": 1e-6}
        refuse_outside("", self, least)
        if self.elites > self.samples or self.executed > self.horizon:
            raise UserError("elites must not exceed samples, nor executed the horizon.")


def cem(
    cost: Cost, noise: Iterator[Tensor], shape: tuple[int, int, int], elites: int, iterations: int, std: float = 1.0,
    cut: Callable[[Tensor], Tensor] = lambda plans: plans, first: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Mean and std [E, K, A] of the last elites, and their mean cost [E], for plans of `shape` [E, K, A].

    `noise` gives standard normal [E, S, K, A] for each iteration; `cut` makes plans possible; the search begins around
    `first` [E, K, A], or around no action.
    """
    mean, spread = torch.zeros(shape) if first is None else first, torch.full(shape, std)
    best = torch.zeros(shape[0])
    for _ in range(iterations):
        drawn = next(noise)
        plans = torch.cat([mean[:, None], mean[:, None] + spread[:, None] * drawn[:, 1:]], 1)
        plans = cut(plans)
        found = cost(plans)
        values, which = found.topk(elites, dim=1, largest=False)
        chosen = plans.gather(1, which[:, :, None, None].expand(-1, -1, *shape[1:]))
        mean, spread, best = chosen.mean(1), chosen.std(1), values.mean(1)
    return mean, spread, best


def noises(config: CEMConfig, episodes: int, block: int, *seed: int | str) -> Iterator[Tensor]:
    """The same for whoever plans: a function of `seed` and the number of the draw."""
    generator = torch.Generator().manual_seed(mix("cem", *seed))
    while True:
        yield torch.randn(episodes, config.samples, config.horizon, block, generator=generator)


def cutter(world: World) -> Callable[[Tensor], Tensor]:
    """Plans whose every action the world allows."""

    def cut(plans: Tensor) -> Tensor:
        steps = plans.unflatten(-1, (world.every, world.action_dim))
        length = steps.square().sum(-1, keepdim=True).sqrt()
        return (steps * (world.limit / length.clamp(min=1e-12)).clamp(max=1)).flatten(-2)

    return cut


# Numbers of some episodes [e], steps done, their states and goals [e, S] -> what is done next [e, K, A].
Decide = Callable[[np.ndarray, int, np.ndarray, np.ndarray], Tensor]
Judge = Callable[[np.ndarray, np.ndarray], Cost]  # states and goals [e, S] of some episodes -> what plans cost there


class Search:
    """Decides by CEM."""

    def __init__(self, world: World, episodes: int, config: CEMConfig, judge: Judge, title: str) -> None:
        self.world, self.episodes, self.config, self.judge, self.title = world, episodes, config, judge, title
        self.left = torch.zeros(episodes, config.horizon, world.every * world.action_dim)  # of the last plan

    def __call__(self, at: np.ndarray, t: int, state: np.ndarray, goal: np.ndarray) -> Tensor:
        return self.plan(at, t, self.judge(state, goal), self.config.iterations)

    def plan(self, at: np.ndarray, t: int, cost: Cost, iterations: int) -> Tensor:
        """[e, K, A] for the episodes `at`."""
        c, rows, (_, horizon, block) = self.config, torch.from_numpy(at), self.left.shape
        drawn = (n[rows] for n in noises(c, self.episodes, block, self.title, t))
        shape, first = (len(at), horizon, block), self.left[rows] if c.warm else None
        plan, _, _ = cem(cost, drawn, shape, c.elites, iterations, c.std, cutter(self.world), first)
        self.left[rows, : horizon - c.executed] = plan[:, c.executed :]
        self.left[:, horizon - c.executed :] = 0
        return plan


def act(world: World, found: Episodes, budget: int, executed: int, decide: Decide) -> np.ndarray:
    """What is done in every episode: actions fp32 [E, budget, A] of the world; none any more once the goal is met.

    `executed` frames of what was decided are done before anything is decided anew.
    """
    done, state = world.success(found.start, found.goal), found.start
    actions = np.zeros((len(found), budget, world.action_dim), np.float32)
    for t in range(0, budget, executed * world.every):
        at = np.flatnonzero(~done)
        if not len(at):
            break
        plan = torch.zeros(len(found), executed, world.every * world.action_dim)
        plan[torch.from_numpy(at)] = cutter(world)(decide(at, t, state[at], found.goal[at])[:, :executed])
        steps = plan.unflatten(-1, (world.every, world.action_dim)).flatten(1, 2).numpy()
        for i in range(min(executed * world.every, budget - t)):
            actions[:, t + i] = np.where(done[:, None], 0, steps[:, i])
            state = world.step(state, actions[:, t + i].astype(np.float64))
            done = done | world.success(state, found.goal)
    return actions


def follow(
    world: World, found: Episodes, budget: int, policy: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """What a policy (state, goal -> action) does in every episode: fp32 [E, budget, A]."""
    return world.played(found.start, budget, lambda state: policy(state, found.goal))[0]


def true_cost(world: World, state: np.ndarray, goal: np.ndarray, how: str) -> Cost:
    """Of plans in the world itself: the distance of places at the planned frames, as the crow flies."""

    def cost(plans: Tensor) -> Tensor:
        e, s, k, _ = plans.shape
        steps = plans.reshape(e * s, k, world.every, world.action_dim).double().numpy()
        at, ends = np.repeat(state, s, 0), np.repeat(goal, s, 0)
        far = []
        for frame in range(k):
            for i in range(world.every):
                at = world.step(at, steps[:, frame, i])
            far.append(world.distance(at, ends))
        each = torch.from_numpy(np.stack(far, 1)).float().reshape(e, s, k)
        return each.sum(2) if how == "sum" else each[:, :, -1]

    return cost
