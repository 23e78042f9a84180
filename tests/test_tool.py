"""The tool as a tool: help, plans before work, what is found and what is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from ssl_bench import cli, forecast
from ssl_bench.errors import UserError

COMMANDS = cli.cli.list_commands(click.Context(cli.cli))
HEAVY = ("torch", "timm", "pandas", "numpy", "rich", "scipy")


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure two steps and no more."""
    monkeypatch.setattr(forecast, "LONG", 0.0)


def call(*arguments: str) -> Result:
    """In this process; a `UserError` comes back as `exception`."""
    return CliRunner().invoke(cli.cli, arguments)


def small(photos: Path, root: Path, steps: int = 4) -> list[str]:
    data = [f"data.name=folder:{photos}", "data.image_size=24", "data.val_fraction=0.2"]
    shape = ["backbone.embed_dim=32", "backbone.depth=2", "backbone.num_heads=2", "backbone.patch_size=6"]
    return ["--root", str(root), *data, *shape, f"budget.steps={steps}", "budget.batch_size=12", "run.threads=1"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    shown = call(name, "--help")
    assert shown.exit_code == 0
    assert "Example: ssl-bench" in shown.output
    command = cli.command(name)
    assert command.name == name
    summary = cli.cli.get_command(click.Context(cli.cli), name)
    assert summary and summary.get_short_help_str(200) == command.get_short_help_str(200), "lists read it unimported"
    assert all(option.help for option in command.params if isinstance(option, click.Option)), "an option without help"


def test_help_imports_nothing_heavy_and_cuts_no_sentence() -> None:
    loaded = f"print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    code = f"import sys\nfrom ssl_bench import cli\ntry: cli.main([])\nexcept SystemExit: pass\n{loaded}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "Commands:" in done.stdout and "quickstart" in done.stdout
    assert not [line for line in done.stdout.splitlines() if line.startswith("  ") and line.endswith("...")]


def test_dry_run_prints_the_plan_and_leaves_nothing(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    plan = call("pretrain", "--method", "mae", "--recipe", "quick", "--dry-run", *small(photos, root))
    assert plan.exit_code == 0, plan.output
    assert "4 steps of 12 images" in plan.output and "FLOP" in plan.output and "Nothing was started" in plan.output
    line = ["--methods", "mae,simclr", "--recipe", "quick", "--seeds", "2", "--protocols", "knn", "--jobs", "2"]
    table = call("compare", *line, "--dry-run", *small(photos, root))
    assert table.exit_code == 0, table.output
    assert table.output.count("new") == 4 and "7 evaluations" in table.output
    assert not root.exists()


def test_an_estimate_counts_what_the_run_will_count(photos: Path, tmp_path: Path) -> None:
    from conftest import tiny

    from ssl_bench.train import pretrain

    config = tiny("mae", f"folder:{photos}", steps=5)
    e, run = forecast.estimate(config), pretrain(config, tmp_path)
    cost = run.compute()
    assert (e.steps, e.images, e.flops, e.device) == (cost["steps"], cost["images"], cost["flops"], cost["device"])
    assert e.seconds > 0 and e.memory > 1e7
    left = sum((run.folder / name).stat().st_size for name in ("last.ckpt", "last.ckpt", "encoder.safetensors"))
    assert e.disk == pytest.approx(left, rel=0.3)


def test_dry_run_checks_what_a_run_checks(photos: Path, tmp_path: Path) -> None:
    wrong = call("pretrain", "--method", "mae", "--dry-run", *small(photos, tmp_path), "optim.lr=-1")
    assert isinstance(wrong.exception, UserError) and "must be positive" in str(wrong.exception)
