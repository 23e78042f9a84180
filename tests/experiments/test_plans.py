"""Pictures of runs in worlds: where the plan went, what was foretold, read by the nearest known latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny

from ssl_bench.data import rollouts
from ssl_bench.data.dataset import open_data
from ssl_bench.data.world import parse
from ssl_bench.encoders.from_run import from_run
from ssl_bench.experiments import pictures, plans
from ssl_bench.training.pretrain import pretrain

ROOMS = parse("two_room").world


def test_a_latent_is_read_as_the_nearest_of_the_bank():
    bank = plans.Bank(torch.tensor([[0.0, 0], [1, 0], [0, 2]]), torch.arange(3), np.zeros((3, 2)))
    assert bank.nearest(torch.tensor([[[0.9, 0.1], [0.1, 1.2]], [[0, 0.4], [9, 0]]])).tolist() == [[1, 2], [0, 1]]


def test_the_plan_is_drawn_where_it_went():
    start, goal = np.array([[10.0, 40, 32, 18]]), np.array([[24.0, 40, 32, 18]])
    actions = np.zeros((1, 20, 2), np.float32)
    actions[0, :10, 0] = 1.0
    told = np.array([[[15.0, 50], [20, 50], [25, 50]]])
    image = plans.drawing(ROOMS, rollouts.Episodes(start, goal), actions, told, 0)
    scale = plans.SIDE / ROOMS.span

    def colour(x: float, y: float) -> tuple[int, ...]:
        return tuple((image[:, round(y * scale), round(x * scale)] * 255).round().int().tolist())

    assert colour(10, 40) == plans.START and colour(17, 40) == colour(20, 40) == plans.WALKED
    assert colour(24, 40 - ROOMS.radius + 0.3) == plans.GOAL
    assert colour(15, 50) == colour(20, 50) == plans.FORETOLD
    assert colour(25, 50) == (0, 0, 0)  # nothing was done any more when that was foretold
    assert colour(30, 40) == (0, 0, 0) and colour(62, 62) == (0, int(255 * plans.DIM), 0)


def test_a_run_that_has_learned_actions_has_its_plans_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plans, "SHOWN", 1)
    run = pretrain(tiny("lewm", "", steps=2), tmp_path)
    found = pictures.of_run(run, 3)
    titles = [picture.title for picture in found]
    assert titles[1].startswith("Plans: ") and titles[2] == "Rollouts: true frames above foretold ones"
    assert [p.webp for p in pictures.of_run(run, 3)] == [p.webp for p in found]


def test_a_run_of_an_image_method_has_none(tmp_path: Path):
    run = pretrain(tiny("mae", "two_room:60", steps=2), tmp_path)
    assert plans.of_run(from_run(run), open_data(run.config().data)) == []
