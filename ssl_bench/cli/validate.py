"""`ssl-bench validate`: a run scored on validation images."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from ssl_bench.cli.options import ROOT
from ssl_bench.evaluation.validate import figures
from ssl_bench.training import run_folder


@click.command()
@click.argument("source")
@click.option("--protocol", "protocols", multiple=True, required=True, help="As for `eval`; repeatable.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the probe.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
@click.option("--threads", type=int, default=0, help="CPU threads; 0: all.")
@ROOT
def validate(source: str, protocols: tuple[str, ...], seed: int, device: str, threads: int, root: Path) -> None:
    """Score a run on validation images; the test split stays shut.

    \b
    For choosing settings by yourself: look here as often as you like, and at `eval` once.
    Example: ssl-bench validate ijepa-quick-s0 --protocol knn --protocol linear
    """
    from ssl_bench import screen

    if threads:
        torch.set_num_threads(threads)
    run = run_folder.find_run(root, source)
    found = figures(run, protocols, root, seed, device)
    for name in protocols:
        entry = found[name]
        what = f"{entry['headline']} of {run.name} on {entry['num_val']} validation images"
        screen.say(f"{name}: {what}: {entry['value']:.2f}", "bold")
