"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

ROOT = click.option(
    "--root", type=click.Path(path_type=Path), default="runs", show_default=True, envvar="SSL_BENCH_ROOT",
    help="Folder of runs and records.",
)  # fmt: skip
SETTINGS = click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Print the plan with its steps, FLOPs, memory and time; start nothing."
)
