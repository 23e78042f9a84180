"""`ssl-bench quickstart`: a small fixed comparison on the embedded photographs."""

from __future__ import annotations

from pathlib import Path

import click

from ssl_bench import screen
from ssl_bench.cli.options import KEEP_OLD, ROOT


@click.command()
@click.option("--fast", is_flag=True, help="One seed and a tenth of the budget: two minutes; ranks nothing.")
@click.option("--jobs", type=int, default=0, help="Runs side by side; 0: one per core.")
@KEEP_OLD
@ROOT
def quickstart(fast: bool, jobs: int, keep_old: list[str], root: Path) -> None:
    """Compare I-JEPA, MAE and DINO on the embedded photographs.

    \b
    Three seeds each, the same ViT, data and training FLOPs; k-NN and linear evaluation; reference rows.
    Example: ssl-bench quickstart --fast
    """
    from ssl_bench.config import budgets
    from ssl_bench.experiments import matrix

    seeds, settings = (1, [f"budget.flops={budgets.FAST_FLOPS:g}"]) if fast else (3, [])
    rows = matrix.plan(
        ["ijepa", "mae", "dino", "supervised"], ["knn", "linear"], seeds, "quick", [*settings, *keep_old], root
    )
    matrix.run(rows, root, jobs)
    say = screen.say
    if fast:
        say("One seed ranks nothing: this shows how the tool works. 'ssl-bench quickstart' trains three.", "yellow")
    say("Next:", "bold")
    say("  ssl-bench report --format markdown          this table, to paste")
    say("  ssl-bench show ijepa --recipe quick         every setting, and why")
    say("  ssl-bench compare --methods ijepa,mae,dino --recipe quick --data folder:PATH     your own images")
