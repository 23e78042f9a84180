"""`ssl-bench pretrain`: one run; the same command again goes on."""

from __future__ import annotations

from pathlib import Path

import click

from ssl_bench.cli.options import (
    DEVICES,
    DRY_RUN,
    ON_NAN,
    RECIPE,
    ROOT,
    SETTINGS,
    SHORT,
    SLURM,
)
from ssl_bench.screen import at_root


@click.command()
@SHORT
@click.option("--method", required=True, help="A name from `ssl-bench list methods`, or your own module: my_lab.idea.")
@RECIPE
@click.option("--seed", type=int, default=None, help="Same as seed=N.")
@DEVICES
@ON_NAN
@DRY_RUN
@SLURM
@ROOT
@SETTINGS
def pretrain(
    method: str, recipe: str, seed: int | None, devices: list[str], on_nan: list[str], dry_run: bool, root: Path,
    settings: tuple[str, ...],
) -> None:  # fmt: skip
    """Pretrain one run; the same command again goes on.

    \b
    Settings are typed KEY=VALUE pairs: see `ssl-bench show METHOD` for all of them.
    Example: ssl-bench pretrain --method mae --data folder:photos --budget epochs=50 optim.lr=1e-3
    """
    from ssl_bench import screen
    from ssl_bench.training.method import configured
    from ssl_bench.training.pretrain import pretrain as run_pretraining

    changes = [*settings, *([] if seed is None else [f"seed={seed}"]), *devices, *on_nan]
    config = configured(method, recipe, changes)
    if dry_run:
        from ssl_bench.experiments import forecast

        return forecast.show_run(config, root)
    with screen.RunDisplay() as display:
        run = run_pretraining(config, root, display)
    if not screen.speaks():
        return
    cost, status = run.compute(), run.status()
    screen.say(f"finished {run.name}", "bold green")
    screen.say(
        f"  {cost['steps']:,} steps, {cost['images']:,} images, {screen.clock(cost['seconds'])} on {cost['device']}, "
        f"{cost['images_per_second']:.0f} images/s, {screen.quantity(cost['flops'], 'FLOP')}, "
        f"peak memory {screen.quantity(cost['peak_memory_bytes'], 'B')}"
    )
    if skipped := cost.get("skipped_steps"):
        screen.say(f"  skipped for non-finite values: steps {', '.join(map(str, skipped))}", "yellow")
    if "knn" in status and "untrained_knn" in status:
        knn, untrained = 100 * status["knn"], 100 * status["untrained_knn"]
        told = f"  k-NN of a few held-out images: {knn:.1f} %, of the untrained network {untrained:.1f} %"
        advice = "" if knn > untrained else "; if `eval` says so too, try a lower optim.lr or a longer budget"
        screen.say(told + advice, "yellow" if advice else "")
    if status.get("collapsed"):
        screen.say(f"  COLLAPSED: {status['collapse_reason']}. Its numbers will carry a flag.", "bold red")
    screen.say(f"  next: ssl-bench eval {run.name} --protocol knn --protocol linear" + at_root(root))
