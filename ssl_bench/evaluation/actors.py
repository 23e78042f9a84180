"""Who acts in a world by an encoder: a search by its dynamics, a search on two levels, or a policy that it has learned.

An actor is asked for the next actions and for nothing else, so `plan` asks everybody in the same words. What a run has
kept says which actor it is. Shapes: e episodes, K frames ahead, A numbers of the actions between two frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_bench.data.world import World
from ssl_bench.encoders.encoder import Encoder
from ssl_bench.errors import UserError
from ssl_bench.evaluation import latents
from ssl_bench.evaluation.latents import FitConfig, Latents, plan_cost
from ssl_bench.evaluation.planner import CEMConfig, Cost, Decide, Search, cem, noises
from ssl_bench.evaluation.protocol import Features
from ssl_bench.models.hierarchy import Hierarchy
from ssl_bench.models.policy import Policy

BOUND = 2.5  # of a macro-action's numbers, which have mean 0 and standard deviation 1 (HWM: 2.5)


class Actor:
    """Acts in a world by what it sees, frames of `size` pixels."""

    told: dict[str, Any]  # what a record keeps of it
    calls: int  # of its network, for one decision

    def __init__(self, world: World, size: int) -> None:
        self.world, self.size = world, size

    def deciding(self, episodes: int, title: str) -> Decide:
        """How it decides in so many episodes, whose random numbers are those of `title`."""
        raise NotImplementedError

    def seen(self, state: np.ndarray) -> Tensor:
        """uint8 [e, 3, size, size]."""
        return torch.from_numpy(self.world.render(state, self.size))


class Planner(Actor):
    """Searches for actions whose predicted latents are near the goal's."""

    def __init__(self, world: World, size: int, found: Latents, config: CEMConfig) -> None:
        super().__init__(world, size)
        self.found, self.config, self.told = found, config, found.told
        self.calls = config.samples * config.iterations * config.horizon

    def deciding(self, episodes: int, title: str) -> Decide:
        def judge(state: np.ndarray, goal: np.ndarray) -> Cost:
            start, end = (self.found.encode(self.seen(s)) for s in (state, goal))
            return plan_cost(self.found.dynamics, start, end, self.config.cost)

        return Search(self.world, episodes, self.config, judge, title)


class TwoLevels(Planner):
    """Searches for macro-actions, then for actions to the first latent that those lead to.

    Each level has half of the iterations and as many steps ahead, so a decision costs as many calls as on one level.
    """

    def __init__(self, world: World, size: int, found: Latents, config: CEMConfig) -> None:
        super().__init__(world, size, found, config)
        if config.iterations < 2:
            raise UserError("Two levels share the iterations of a decision: set cem.iterations to 2 or more.")
        self.told = {**found.told, "levels": 2}

    def deciding(self, episodes: int, title: str) -> Decide:
        c, dynamics = self.config, self.found.dynamics
        assert isinstance(dynamics, Hierarchy)
        upper, width, high = dynamics.upper, dynamics.above.macro, c.iterations // 2
        below = Search(self.world, episodes, c, lambda state, goal: lambda plans: plans, title)

        @torch.no_grad()
        def decide(at: np.ndarray, t: int, state: np.ndarray, goal: np.ndarray) -> Tensor:
            start, end = (self.found.encode(self.seen(s)) for s in (state, goal))
            drawn = (n[torch.from_numpy(at)] for n in noises(c, episodes, width, title, "macro", t))
            shape = (len(at), c.horizon, width)
            cost = plan_cost(upper, start, end, c.cost)
            macros, _, _ = cem(cost, drawn, shape, c.elites, high, cut=lambda plans: plans.clamp(-BOUND, BOUND))
            first = upper.rollout(start[:, None], macros[:, :1].to(start.device))[:, 0]
            return below.plan(at, t, plan_cost(dynamics, start, first, c.cost), c.iterations - high)

        return decide


class Learned(Actor):
    """Does what the policy of its run says."""

    def __init__(self, world: World, size: int, encoder: Encoder, policy: Policy, config: CEMConfig) -> None:
        super().__init__(world, size)
        if policy.actions != world.every * world.action_dim:
            raise UserError(
                f"'{encoder.method}' has learned actions of {policy.actions} numbers, and here they have "
                f"{world.every * world.action_dim}."
            )
        if config.executed > (chunk := policy.config.chunk):
            raise UserError(f"cem.executed={config.executed}, and the policy decides on {chunk} frames: lower it.")
        self.encoder, self.policy, self.told, self.calls = encoder, policy, {"policy": "the run's own"}, 1

    def deciding(self, episodes: int, title: str) -> Decide:
        @torch.no_grad()
        def decide(at: np.ndarray, t: int, state: np.ndarray, goal: np.ndarray) -> Tensor:
            seen, wanted = (self.tokens(self.seen(s)) for s in (state, goal))
            return self.policy(seen, wanted)[0].cpu()

        return decide

    def tokens(self, frames: Tensor) -> Tensor:
        """Patch tokens [e, N, D]."""
        return self.encoder.encode(frames, 1, want_tokens=True)["tokens"].float()


def of(x: Features, config: CEMConfig, fit: FitConfig, levels: int, seed: int) -> Actor:
    """Who acts for an encoder. `levels`: 0 for all that its run has learned, 1 for the first alone."""
    assert x.world is not None
    if (policy := x.encoder.policy) is not None:
        if levels:
            raise UserError(f"'{x.encoder.method}' acts by a policy, which has no levels: leave levels.")
        return Learned(x.world, x.kind.height, x.encoder, policy, config)
    found = latents.of(x, fit, seed)
    has = 2 if isinstance(found.dynamics, Hierarchy) else 1
    if levels > has:
        raise UserError(f"levels={levels}, and '{x.encoder.method}' has learned one level: leave levels, or use hjepa.")
    return searching(x.world, x.kind.height, found, config, levels)


def searching(world: World, size: int, found: Latents, config: CEMConfig, levels: int = 0) -> Planner:
    """By the dynamics of `found`, on as many levels as they have, or on the first alone."""
    kind = TwoLevels if isinstance(found.dynamics, Hierarchy) and levels != 1 else Planner
    return kind(world, size, found, config)
