"""`ssl-bench claims`: statements people make, judged."""

from __future__ import annotations

from pathlib import Path

import click

from ssl_bench.cli.options import DRY_RUN, KEEP_OLD, ROOT
from ssl_bench.experiments import runner
from ssl_bench.experiments.claims import judged, mark, pick, plan
from ssl_bench.screen import console, say, sheet


@click.command()
@click.argument("words", nargs=-1, metavar="[NAME | FILE.toml | KEY=VALUE]...")
@click.option("--seeds", type=int, default=3, show_default=True, help="Pretraining seeds 0, 1, ... of every arm.")
@click.option("--jobs", type=int, default=0, help="Runs side by side; 0: one per core.")
@click.option("--list", "listed", is_flag=True, help="Print the claims and their sources; start nothing.")
@DRY_RUN
@KEEP_OLD
@ROOT
def claims(
    words: tuple[str, ...], seeds: int, jobs: int, listed: bool, dry_run: bool, keep_old: list[str], root: Path
) -> None:
    """Judge statements people make: runs, intervals, a verdict.

    \b
    Without a name: all of them (results/claims/README.md says how to add one). Runs are shared with `compare`.
    Example: ssl-bench claims four-targets --seeds 3 budget.flops=1e12
    """
    given = [word for word in words if "=" in word]
    chosen = pick([word for word in words if "=" not in word])
    if listed:
        for claim in chosen:
            say(claim.name, "bold")
            say(f"  {claim.statement} [{claim.source}]")
        return
    todo = plan(chosen, seeds, [*given, *keep_old], root)
    rows = list({row.cell.encoder: row for work in todo for members in work.rows.values() for row in members}.values())
    if dry_run:
        from ssl_bench.experiments import forecast

        return forecast.show_matrix(rows, root, jobs)
    for work in todo:
        mark(work, root)
    runner.drive(rows, root, jobs)
    results = [judged(work, given, root) for work in todo]
    if len(results) > 1:
        table = sheet("claim", "verdict")
        for result in results:
            table.add_row(result["name"], result["verdict"])
        console.print(table)
    say(f"verdicts: {root / 'claims'}")
    runner.refuse_failed(rows)
