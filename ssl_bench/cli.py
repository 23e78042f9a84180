"""The command line: parse, resolve, call. Imports that cost time happen inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ssl_bench import __version__
from ssl_bench.errors import UserError, printable
from ssl_bench.lazy import Group
from ssl_bench.options import (
    DEVICES,
    DRY_RUN,
    EVAL_DATA,
    HARDWARE,
    ON_NAN,
    PLANNED,
    ROOT,
    SEARCH,
    SETTINGS,
    SHORT,
    SLURM,
    Hardware,
    at_root,
)

# Commands that live beside the code they call: name -> "module:attribute", imported when they are asked for.
ELSEWHERE: dict[str, str] = {
    "report": "ssl_bench.report:command",
    "data": "ssl_bench.data_command:command",
    "speed": "ssl_bench.speed:speed",
    "list": "ssl_bench.listing:list_",
    "show": "ssl_bench.listing:show",
    "runs": "ssl_bench.keeping:list_runs",
    "prune": "ssl_bench.keeping:prune",
    "export": "ssl_bench.export:command",
    "doctor": "ssl_bench.doctor:doctor",
    "jobs": "slurm.jobs:jobs",
    "validate": "ssl_bench.validate:validate",
    "claims": "ssl_bench.claims:claims",
}


@click.group(
    cls=Group,
    elsewhere=ELSEWHERE,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="ssl-bench")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Which self-supervised objective gives the better representation, for your data and your budget?

    \b
    ssl-bench quickstart                       a comparison on real photographs, in minutes
    ssl-bench pretrain --method ijepa          one run
    ssl-bench eval --protocol linear           evaluate the newest finished run
    ssl-bench report                           the table of all records
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@cli.command()
@click.option("--fast", is_flag=True, help="One seed and a tenth of the budget: two minutes, for a first look.")
@click.option("--jobs", type=int, default=0, help="Runs side by side; 0: one per core.")
@ROOT
def quickstart(fast: bool, jobs: int, root: Path) -> None:
    """Compare I-JEPA, MAE and DINO on the embedded photographs.

    \b
    Two seeds each, the same ViT, data and training FLOPs; k-NN and linear evaluation; reference rows.
    Example: ssl-bench quickstart --fast
    """
    from ssl_bench import budgets, compare

    seeds, settings = (1, [f"budget.flops={budgets.FAST_FLOPS:g}"]) if fast else (2, [])
    rows = compare.plan(["ijepa", "mae", "dino", "supervised"], ["knn", "linear"], seeds, "quick", settings, root)
    compare.run(rows, root, jobs)
    say = _screen().say
    say("Next:", "bold")
    say("  ssl-bench report --format markdown          this table, to paste")
    say("  ssl-bench show ijepa --recipe quick         every setting, and why")
    say("  ssl-bench compare --methods ijepa,mae,dino --recipe quick --data folder:PATH     your own images")


@cli.command()
@SHORT
@click.option("--method", required=True, help="A name from `ssl-bench list methods`, or your own module: my_lab.idea.")
@click.option("--recipe", default="small", show_default=True, help="A recipe of the method: `ssl-bench list recipes`.")
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
    from ssl_bench import compare, screen
    from ssl_bench.config import resolve
    from ssl_bench.train import pretrain as run_pretraining

    changes = [*settings, *([] if seed is None else [f"seed={seed}"]), *devices, *on_nan]
    config = resolve(compare.recipe(method, recipe)(), changes)
    if dry_run:
        from ssl_bench import forecast

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
    if status.get("collapsed"):
        screen.say(f"  COLLAPSED: {status['collapse_reason']}. Its numbers will carry a flag.", "bold red")
    screen.say(f"  next: ssl-bench eval {run.name} --protocol knn --protocol linear" + at_root(root))


@cli.command()
@click.argument("source", required=False)
@click.option(
    "--protocol", "protocols", multiple=True, required=True,
    help="A name from `ssl-bench list protocols`; repeatable. `all`: every protocol on the frozen encoder, from one "
    "pass over the data; fine-tuning stays apart: --protocol all --protocol finetune.",
)  # fmt: skip
@click.option("--data", default=None, help="Data to evaluate on; default: what the run was pretrained on.")
@click.option("--image-size", type=int, default=None, help="Pixels per side of the evaluated images.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the probe (and of `random`).")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Repeatable; for one: linear.epochs=5.")
@HARDWARE
@ROOT
def eval(
    source: str | None, protocols: tuple[str, ...], data: str | None, image_size: int | None, seed: int,
    settings: tuple[str, ...], hardware: Hardware, root: Path,
) -> None:  # fmt: skip
    """Evaluate a run (default: the newest) or another encoder.

    \b
    Example: ssl-bench eval --protocol linear
    """
    from ssl_bench import launch, protocol, screen
    from ssl_bench.evaluate import data_of, evaluate_all, help_with

    names = protocol.expand(name for entry in protocols for name in entry.split(","))
    for name, own in protocol.assign(names, settings).items():  # told before any work, and before "there is no run"
        protocol.load(name, own)
    if source is None:
        from ssl_bench import runs

        source = runs.find_run(root).name
        screen.say(f"newest finished run: {source}")
    where = data_of(source, root, data, image_size)
    work = (source, names, where, root, seed, settings, hardware.device)
    with launch.group(hardware.devices, hardware.device, help_with, hardware.threads, *work):
        launch.use_threads(hardware.threads)
        for record in evaluate_all(*work, tell=lambda p: screen.say(f"{p} ...")):
            screen.show_record(record)
    screen.say("next: ssl-bench report" + at_root(root))


@cli.command()
@EVAL_DATA
@SHORT
@click.option(
    "--methods", default="ijepa,mae,dino", show_default=True, help="Comma-separated; METHOD:RECIPE for one of its own."
)
@click.option("--protocols", default="knn,linear", show_default=True, help="Comma-separated; all: every frozen one.")
@click.option("--seeds", type=int, default=3, show_default=True, help="Pretraining seeds 0, 1, ...")
@click.option("--recipe", default="small", show_default=True, help="For methods without one of their own.")
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
    from ssl_bench import compare as matrix

    if dry_run:
        from ssl_bench import forecast

        return forecast.show_matrix([row for rows in plans for row in rows], root, jobs)
    for rows in plans[1:]:  # the first is looked at when its rows start
        matrix.ready(rows)
    for rows in plans:
        matrix.run(rows, root, jobs, table=rows is plans[-1])
    _screen().say(f"next: ssl-bench report --html report.html{at_root(root)}      the page: curves, every number")


def _screen() -> Any:
    from ssl_bench import screen

    return screen


def main(arguments: list[str] | None = None) -> None:
    """Entry point: a `UserError` is one sentence and exit code 2."""
    run: Callable[..., Any] = cli.main
    try:
        run(args=arguments, prog_name="ssl-bench", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nstopped. The same command goes on from the last checkpoint.", err=True)
        sys.exit(130)
    except UserError as error:
        click.echo(f"{_screen().speaker()}error: {printable(str(error))}", err=True)
        sys.exit(2)
