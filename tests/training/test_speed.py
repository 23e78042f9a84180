"""`ssl-bench speed` and its parts; no test asserts a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import tiny

from ssl_bench.cli.speed import speed
from ssl_bench.config.schema import BudgetConfig, Config
from ssl_bench.training import cost, measure
from ssl_bench.training.monitor import BANK, FEWEST, Monitor
from ssl_bench.training.speed import STAGES, Stages, bookkeeping, growth, noise, trainer
from ssl_bench.training.train import Trainer

CPU = torch.device("cpu")


def test_cases_run_alternately_after_a_warm_up() -> None:
    calls: list[str] = []
    clock = iter(range(100))
    timing = measure.alternate({n: lambda n=n: calls.append(n) for n in "ab"}, 3, lambda: float(next(clock)))
    assert "".join(calls) == "ab" + "ababab"
    assert timing["a"].seconds == [1.0, 1.0, 1.0] and timing["a"].rates(8) == (8.0, 8.0, 8.0)
    assert measure.ratio(measure.Timing([2.0, 4.0]), measure.Timing([1.0, 1.0])) == (2.0, 3.0, 4.0)


def test_every_second_of_a_step_belongs_to_one_stage() -> None:
    t = trainer(tiny("dino", ""), CPU)
    clock = iter(range(1000))
    stages = Stages(t, lambda: float(next(clock)))
    t.train_step()
    stages.enter("rest")
    assert sum(stages.seconds.values()) == stages.last  # the clock began at 0
    assert set(stages.seconds) == set(STAGES) and all(stages.seconds[s] > 0 for s in STAGES)


def test_a_short_run_looks_at_fewer_images() -> None:
    t = trainer(tiny("mae", ""), CPU)
    t.data = noise(t.config, 1000)
    sizes = []
    for t.steps in (1, 10**6):
        sizes.append(len(Monitor(t).bank))
    assert sizes == [round(FEWEST * BANK), BANK]


@pytest.mark.parametrize("method", ["mae", "ijepa"])
def test_report(method: str) -> None:
    settings = "budget.batch_size=4 backbone=toy monitor_points=0 run.threads=1"
    out = CliRunner().invoke(speed, [method, "--recipe", "quick", "--rounds", "1", *settings.split()])
    assert out.exit_code == 0, out.output
    for part in ("images/s", "matrix products", "peak memory", "EMA", "monitor: off"):
        assert part in out.output


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (BudgetConfig(batch_size=12, hours=1), "2 looks in 7196 steps, 0.1 % of the run"),  # (3600 s - 2 looks) / 0.5 s
        (BudgetConfig(batch_size=12, steps=1), "2 looks in 1 steps, 80.0 % of the run"),  # 2 s of 2.5 s
        (BudgetConfig(batch_size=12, epochs=2), "2 looks in 16 steps, 20.0 % of the run"),  # of 96 photographs
    ],
)
def test_the_monitor_is_a_share_of_the_run_that_pretrain_would_do(
    budget: BudgetConfig, told: str, photos: Path
) -> None:
    config = tiny("mae", f"folder:{photos}", budget=budget, monitor_points=2)
    seconds = count()  # a look takes one
    assert bookkeeping(trainer(config, CPU), config, 0.5, lambda: float(next(seconds))) == f"monitor: {told}"


def test_hours_are_no_number_of_steps() -> None:
    with pytest.raises(ValueError, match=r"budget.hours=0.5 is no number of steps"):
        cost.steps(BudgetConfig(hours=0.5), 100, 1e6)
    assert cost.steps(BudgetConfig(batch_size=10, flops=1e9), 100, 1e6) == 100


def grown(config: Config, seconds: Callable[[Trainer], float], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of `growth` where a step takes exactly `seconds`."""
    passed = [0.0]

    def step(t: Trainer) -> None:
        passed[0] += seconds(t)

    monkeypatch.setattr(Trainer, "train_step", step)
    monkeypatch.setattr(measure, "clock", lambda device: passed[0])
    return list(growth(config, 1))


def sized(depth: int, batch: int, accumulate: int = 1, method: str = "mae") -> Config:
    config = tiny(method, "", budget=BudgetConfig(batch_size=batch, steps=1, accumulate=accumulate))
    return replace(config, backbone=replace(config.backbone, depth=depth))


@pytest.mark.parametrize("method", ["mae", "pointjepa"])  # twice as many points in a group leave half the groups
@pytest.mark.parametrize(("depth", "batch", "accumulate"), [(2, 12, 1), (3, 33, 1), (5, 5, 1), (3, 33, 3)])
def test_exponents_are_of_the_sizes_that_were_built(
    method: str, depth: int, batch: int, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(t: Trainer) -> float:
        shape = t.config.backbone
        return t.config.budget.batch_size * shape.depth * shape.embed_dim * t.method.encoder.num_patches

    lines = grown(sized(depth, batch, accumulate, method), seconds, monkeypatch)
    found = [line.split()[2] for line in lines]
    assert found == ["batch^1.00", "depth^1.00", "width^1.00", "tokens^1.00"], lines
    half = batch // accumulate // 2 * accumulate
    assert f"between {half} and this, {batch}" in lines[0]
    assert f"between {depth // 2} and this, {depth}" in lines[1]
    assert ("3 micro-batches" in lines[0]) == (accumulate == 3)


def test_both_batches_are_in_as_many_micro_batches_as_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(t: Trainer) -> float:
        return t.config.budget.accumulate**2 + t.config.budget.batch_size

    lines = grown(sized(2, 33, accumulate=3), seconds, monkeypatch)
    assert "batch^0.71" in lines[0], "log(42 / 24) / log(33 / 15)"


def test_what_has_no_half_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    told = grown(sized(1, 1), lambda t: 1.0, monkeypatch)
    assert told[0].endswith("batch: not measured (one image in a micro-batch has no half)")
    assert told[1].endswith("depth: not measured (one block has no half)")
    told = grown(sized(2, 2, method="simclr"), lambda t: 1.0, monkeypatch)
    assert "not measured ('simclr' compares the images" in told[0]
