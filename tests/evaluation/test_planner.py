"""The cross-entropy method against values computed with stable-worldmodel's CEMSolver (addbab4), and acting by it."""

from __future__ import annotations

from itertools import repeat

import numpy as np
import pytest
import torch
from sines import sines

from ssl_bench.data import rollouts, world
from ssl_bench.errors import UserError
from ssl_bench.evaluation.latents import goal_cost
from ssl_bench.evaluation.planner import CEMConfig, Search, act, cem, cutter, noises, true_cost
from ssl_bench.evaluation.world_scorers import BUDGETS, Replay, Surprise, reached, wilson

ROOMS = world.parse("two_room").world


@pytest.mark.parametrize(("iterations", "mean", "first", "std", "cost"), [
    (1, -0.425494, 0.150816, 2.982928, 3.413026), (2, -0.284198, 0.189847, 1.220212, 1.056412),
])  # fmt: skip
def test_cem_has_the_known_values(iterations, mean, first, std, cost):
    goal = sines(9, 3, 2)
    noise = iter([sines(4, 1, 20, 3, 2), sines(5, 1, 20, 3, 2)])
    plan, spread, found = cem(lambda p: (p - goal).square().sum((2, 3)), noise, (1, 3, 2), 5, iterations)
    told = [float(plan.sum()), float(plan[0, 0, 0]), float(spread.sum()), float(found)]
    assert told == pytest.approx([mean, first, std, cost], abs=2e-5)


def test_the_cost_of_a_goal_has_the_known_values():
    """stable-worldmodel's GoalMSE with its reduction `mean`; the others are 8 times as much, the sum over 8 numbers."""
    latents, goal = sines(1, 2, 5, 4, 8), sines(2, 2, 1, 8)
    cost = torch.stack([goal_cost(*pair, "last") for pair in zip(latents, goal, strict=True)])
    assert float(cost[0, 0]) == pytest.approx(1.230723, abs=2e-6)
    assert [float(8 * cost[0, 0]), float(8 * cost[1, 4])] == pytest.approx([9.845786, 11.366531], abs=1e-5)


def test_the_cost_of_dinowm_is_the_sum_of_two_at_the_last_frame():
    """Its objective `last` with weight 1: that of the patch tokens, all numbers alike, and that of the state."""
    visual = goal_cost(sines(1, 3, 4, 5, 8).flatten(2), sines(3, 3, 1, 5, 8).flatten(2), "last")
    state = goal_cost(sines(2, 3, 4, 6), sines(4, 3, 1, 6), "last")
    assert (visual + state).tolist() == pytest.approx([1.553759, 1.853353, 1.844427], abs=2e-6)


def test_plans_are_cut_before_they_are_judged():
    longest = []

    def cost(plans):
        longest.append(float(plans.unflatten(-1, (5, 2)).square().sum(-1).sqrt().max()))
        return plans.sum((2, 3))

    cem(cost, repeat(9 * torch.ones(1, 8, 2, 10)), (1, 2, 10), 2, 3, cut=cutter(ROOMS))
    assert max(longest) <= ROOMS.limit + 1e-5


def test_the_noise_is_everybodys():
    config = CEMConfig(samples=3, elites=2)
    first, again = (next(noises(config, 2, 10, "far", 20)) for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first, next(noises(config, 2, 10, "far", 30)))


def test_cem_in_the_true_world_meets_what_is_near_and_half_of_what_is_far():
    """A prototype of this geometry: .98 and .52 of 50 (sum of the distances), so within .90 to 1 and .39 to .65."""
    share = {}
    for goals, budget in BUDGETS.items():
        found = rollouts.episodes(ROOMS, goals, 150)
        search = Search(ROOMS, 150, CEMConfig(), lambda s, g: true_cost(ROOMS, s, g, "sum"), goals)
        actions = act(ROOMS, found, budget, 2, search)
        share[goals] = float(reached(ROOMS, found, actions).mean())
    assert share["near"] >= 0.87 and 0.39 <= share["far"] <= 0.65


def test_success_is_judged_by_doing_it_again():
    found = rollouts.episodes(ROOMS, "far", 6)
    still = np.zeros((6, 100, 2), np.float32)
    state, oracle = found.start, []
    for _ in range(100):
        oracle.append(ROOMS.oracle(state, found.goal).astype(np.float32))
        state = ROOMS.step(state, oracle[-1].astype(np.float64))
    ways = np.stack([np.stack([np.stack(oracle, 1), still]), np.zeros((2, 6, 100, 2), np.float32)])
    scorer, output = Replay("two_room", ("", "still")), torch.from_numpy(ways)
    metrics = scorer(output, torch.zeros(0), 2)
    assert scorer.bits(output).all() and metrics["success"] == 100 and metrics["success_still"] == 0
    assert metrics["near"] == metrics["near_at_start"]
    output[0, 0, 0, 0] = 7  # longer than the world allows
    with pytest.raises(UserError, match="allows"):
        scorer(output, torch.zeros(0), 2)


def test_wilson_and_auroc():
    assert wilson(0.5, 50) == pytest.approx((0.3664, 0.6336), abs=1e-4)
    assert wilson(0.0, 50) == pytest.approx((0.0, 0.0713), abs=1e-4)
    errors = torch.tensor([[0.0, 1.0, 2.0], [1.0, 3.0, 4.0]])
    assert Surprise(("teleport",))(errors, errors, 2)["teleport"] == pytest.approx(100 * 7.5 / 9)
