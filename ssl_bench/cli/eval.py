"""`ssl-bench eval`: protocols on a run or on another encoder."""

from __future__ import annotations

from pathlib import Path

import click

from ssl_bench.cli.options import (
    HARDWARE,
    ROOT,
    Hardware,
)
from ssl_bench.screen import at_root


@click.command()
@click.argument("source", required=False)
@click.option(
    "--protocol", "protocols", multiple=True, required=True,
    help="A name from `ssl-bench list protocols`; repeatable. `all`: every protocol on the frozen encoder, from one "
    "pass over the data; fine-tuning stays apart: --protocol all --protocol finetune.",
)  # fmt: skip
@click.option("--data", default=None, help="Data to evaluate on; default: what the run was pretrained on.")
@click.option("--image-size", default=None, metavar="N|HxW", help="Pixels of the evaluated images: a side, or 32x96.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the probe (and of `random`).")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Repeatable; for one: linear.strengths=9.")
@HARDWARE
@ROOT
def eval(
    source: str | None, protocols: tuple[str, ...], data: str | None, image_size: str | None, seed: int,
    settings: tuple[str, ...], hardware: Hardware, root: Path,
) -> None:  # fmt: skip
    """Evaluate a run (default: the newest) or another encoder.

    \b
    Example: ssl-bench eval --protocol linear
    """
    from ssl_bench import screen
    from ssl_bench.config.overrides import parse
    from ssl_bench.config.schema import Size
    from ssl_bench.data import folds
    from ssl_bench.evaluation import protocol
    from ssl_bench.evaluation.evaluate import data_of, evaluate_all, help_with
    from ssl_bench.evaluation.folds import evaluate_folds
    from ssl_bench.experiments.recorded import replaced, values
    from ssl_bench.parallel import processes
    from ssl_bench.training import code

    names = protocol.expand(name for entry in protocols for name in entry.split(","))
    for name, own in protocol.assign(names, settings).items():  # told before any work, and before "there is no run"
        protocol.load(name, own)
    if source is None:
        from ssl_bench.training import run_folder

        source = run_folder.find_run(root).name
        screen.say(f"newest finished run: {source}")
    where = data_of(source, root, data, None if image_size is None else parse(image_size, Size, "--image-size"))
    work = (source, names, where, root, seed, settings, hardware.device)
    told, there = "", values(root)
    made = evaluate_folds if folds.asked(where.name) else evaluate_all
    with processes.group(hardware.devices, hardware.device, help_with, hardware.threads, *work):
        processes.use_threads(hardware.threads)
        for record in made(*work, tell=lambda p: screen.say(f"{p} ...")):
            screen.show_record(record)
            if before := replaced(there, record):
                screen.say(f"  note: {before}", "yellow")
            now = code.training(record.method) if record.run else {}
            if record.run and not told and (names := code.differing(record.code["training"], now)):
                told = f"{record.run} was trained by other code than is here now: {code.files(names)} changed since."
                screen.say(f"  note: {told} The record has both.", "yellow")
    screen.say("next: ssl-bench report" + at_root(root))
