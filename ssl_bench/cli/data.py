"""`ssl-bench data get` fetches a named set, `ssl-bench data check` reads one and says what it found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ssl_bench.cli.options import SETTINGS


@dataclass(frozen=True)
class _Asked:
    """So that settings are written as for every other command: data.channels=1."""

    data: Any


@click.group(name="data")
def command() -> None:
    """Get a data set, or check one before training on it.

    \b
    Example: ssl-bench data get cifar10
    Example: ssl-bench data check folder:photos --image-size 96
    """


@command.command()
@click.argument("name")
def get(name: str) -> None:
    """Download a set of `ssl-bench list datasets` into $SSL_BENCH_DATA. Nothing else ever downloads images.

    \b
    Example: ssl-bench data get cifar10
    Example: ssl-bench data get hf:uoft-cs/cifar100
    """
    from ssl_bench import screen
    from ssl_bench.data import catalogue, huggingface

    if name.startswith("hf:"):
        huggingface.get(name.removeprefix("hf:"))
    else:
        about = catalogue.entry(name)
        screen.say(f"{name}: {about.get('size', 'size unknown')}, licence: {about['licence']}, {about['source']}")
        catalogue.get(name)
    screen.say(f"ready: data.name={name}", "bold")


@command.command()
@click.argument("name")
@SETTINGS
@click.option("--image-size", metavar="N|HxW", help="Pixels; same as data.image_size=N.")
@click.option("--store", type=click.Choice(["auto", "decoded", "encoded"]), default="auto", show_default=True)
@click.option(
    "--bad-limit",
    type=float,
    default=0.001,
    show_default=True,
    help="Accept so many unreadable images.",
)
@click.option("--sheet", type=click.Path(path_type=Path, dir_okay=False), help="Also draw some training images: a PNG.")
def check(
    name: str, settings: tuple[str, ...], image_size: str | None, store: str, bad_limit: float, sheet: Path | None
) -> None:  # fmt: skip
    """Read every image once, build the store, and report: splits, classes, unreadable images, duplicates.

    \b
    Example: ssl-bench data check folder:photos data.image_size=32x96 data.channels=1
    Example: ssl-bench data check folder:photos#train=Training#test=holdout --sheet photos.png
    """
    import json
    import shlex
    import time

    from ssl_bench import screen
    from ssl_bench.config.overrides import override
    from ssl_bench.config.schema import DataConfig, RunConfig
    from ssl_bench.data import summary
    from ssl_bench.data.items import written
    from ssl_bench.data.store import accept, ensure
    from ssl_bench.data.store import settings as as_typed

    began = time.monotonic()
    given = [*settings, *([] if image_size is None else [f"data.image_size={image_size}"])]
    config = override(_Asked(DataConfig(name)), given).data
    config.check()
    RunConfig(bad_limit=bad_limit).check()
    folder = ensure(config, store)
    seconds = time.monotonic() - began
    meta = json.loads((folder / "meta.json").read_text())
    used = sum(p.stat().st_size for p in folder.iterdir())
    summary.first_use(folder, meta)
    for i, line in enumerate(summary.lines(meta)):
        screen.say(line, "" if i else "bold")
    items = written(meta)
    rate = f", {meta['images'] / meta['seconds']:,.0f} {items.noun}/s" if meta["seconds"] else ""
    screen.say(f"  {meta['kind']} store, {screen.quantity(used, 'B')} in {folder}, built in {meta['seconds']} s{rate}")
    screen.say(f"  this check took {seconds:.1f} s")
    for note in meta["notes"]:
        screen.say(f"  note: {note}", "yellow")
    accept(folder, meta, bad_limit)
    if sheet is not None:
        _draw(config, bad_limit, sheet)
        screen.say(f"  training {items.noun} of each class: {sheet}")
    other = "" if meta["labelled"] else " --eval-data LABELLED"
    begin = f"compare {items.compared}" if items.views == (1, 1) else "eval RUN --protocol linear,attentive"
    typed = as_typed(meta["asked"]) if items.views == (1, 1) else ""  # eval has the run's own
    screen.say(f"next: ssl-bench {begin} --data {shlex.quote(name)}{other}{typed}")


def _draw(config: Any, bad_limit: float, path: Path, each: int = 8) -> None:
    """Some training images of each class, at random but the same every time."""
    import numpy as np

    from ssl_bench.config.schema import RunConfig
    from ssl_bench.data.dataset import open_data
    from ssl_bench.data.summary import sheet
    from ssl_bench.errors import UserError

    data = open_data(config, RunConfig(bad_limit=bad_limit)).pictured()
    labels, rng = data.train.labels.numpy(), np.random.default_rng(0)
    rows = {}
    for i, title in enumerate(data.classes if data.labelled else ("",)):
        at = np.flatnonzero(labels == i) if data.labelled else np.arange(len(labels))
        if len(at):
            rows[title] = data.item.pictures(data.train.batch(rng.permutation(at)[:each]).numpy())
    try:
        sheet(rows, path)
    except OSError as error:
        raise UserError(f"The sheet {path} cannot be written: {error.strerror or error}.") from error
