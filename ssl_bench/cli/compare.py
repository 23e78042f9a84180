"""`ssl-bench compare`: methods x seeds x protocols."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ssl_bench import screen
from ssl_bench.cli.options import (
    DRY_RUN,
    EVAL_DATA,
    PLANNED,
    ROOT,
    SEARCH,
    SETTINGS,
    SHORT,
    SLURM,
)
from ssl_bench.screen import at_root


@click.command()
@EVAL_DATA
@SHORT
@click.option(
    "--methods", default="ijepa,mae,dino", show_default=True, help="Comma-separated; METHOD:RECIPE for one of its own."
)
@click.option("--protocols", default="knn,linear", show_default=True, help="Comma-separated; all: every frozen one.")
@click.option("--seeds", type=int, default=3, show_default=True, help="Pretraining seeds 0, 1, ...")
@click.option(
    "--recipe", default="", help="For methods without one of their own; default: small, or that of the items."
)
@click.option("--jobs", type=int, default=0, help="Runs side by side; 0: one per core.")
@click.option("--no-references", is_flag=True, help="Leave out the rows `random` and `pixels`.")
@SEARCH
@DRY_RUN
@SLURM
@ROOT
@SETTINGS
@PLANNED
def compare(plans: list[list[Any]], root: Path, jobs: int, dry_run: bool) -> None:
    """Methods x seeds x protocols; skips what is there already.

    \b
    Example: ssl-bench compare --methods ijepa,mae,dino --protocols knn,linear --seeds 3 --recipe quick
    Example: ssl-bench compare --methods ijepa,mae --budget hours=0.5
    Example: ssl-bench compare --methods mae,dino --data stl10:unlabelled --eval-data stl10,cifar10
    """
    from dataclasses import replace

    from ssl_bench.data.twins import between
    from ssl_bench.experiments import runner

    if dry_run:
        from ssl_bench.experiments import forecast

        return forecast.show_matrix([row for rows in plans for row in rows], root, jobs)
    for rows in plans if len(plans) > 1 else ():  # a single one is looked at when its rows start
        runner.ready(rows)
    sets = {row.data: replace(row.config.data, name=row.data) for rows in plans for row in rows if row.config}
    for line in between(list(sets.values())):
        screen.say(f"note: {line}", "yellow")
    for rows in plans:
        runner.run(rows, root, jobs, table=rows is plans[-1])
    screen.say(f"next: ssl-bench report --html report.html{at_root(root)}      the page: curves, every number")
