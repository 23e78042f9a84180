"""`ssl-bench speed`: images per second of one method, its share of the machine, and where the time goes."""

from __future__ import annotations

import click
import torch

from ssl_bench import screen
from ssl_bench.cli.options import RECIPE, SETTINGS
from ssl_bench.errors import UserError
from ssl_bench.training.method import configured
from ssl_bench.training.speed import growth, run


@click.command()
@click.argument("method")
@RECIPE
@click.option("--rounds", type=int, default=5, show_default=True, help="Steps timed, after one to warm up.")
@click.option("--growth", "grow", is_flag=True, help="Also how the time grows with batch, depth, width and tokens.")
@SETTINGS
def speed(method: str, recipe: str, rounds: int, grow: bool, settings: tuple[str, ...]) -> None:
    """Images per second of a method on this machine, and where its time goes.

    \b
    Random images stand in for the data set; the ceilings are measured between the steps.
    Example: ssl-bench speed mae --recipe small budget.batch_size=64 run.threads=1
    """
    if rounds < 1:
        raise UserError(f"--rounds={rounds} must be at least 1.")
    config = configured(method, recipe, settings)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    for line in run(config, rounds):
        screen.say(line)
    for line in growth(config, rounds) if grow else ():
        screen.say(line)
