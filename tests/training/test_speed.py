"""`ssl-bench speed` and its parts; no test asserts a time."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from conftest import tiny

from ssl_bench.cli.speed import speed
from ssl_bench.training import measure
from ssl_bench.training.monitor import BANK, FEWEST, Monitor
from ssl_bench.training.speed import STAGES, Stages, noise, trainer

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
