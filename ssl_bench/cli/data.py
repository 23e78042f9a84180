"""`ssl-bench data get` fetches a named set, `ssl-bench data check` reads one and says what it found."""

from __future__ import annotations

import click


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
@click.option("--image-size", default="48", show_default=True, metavar="N|HxW", help="Pixels, as data.image_size.")
@click.option("--store", type=click.Choice(["auto", "decoded", "encoded"]), default="auto", show_default=True)
@click.option("--bad-limit", type=float, default=0.001, show_default=True, help="Accept so many unreadable images.")
def check(name: str, image_size: str, store: str, bad_limit: float) -> None:
    """Read every image once, build the store, and report: splits, classes, unreadable images, duplicates.

    \b
    Example: ssl-bench data check folder:photos --image-size 96
    """
    import json
    import shlex
    import time

    from ssl_bench import screen
    from ssl_bench.config.overrides import parse
    from ssl_bench.config.schema import DataConfig, Size
    from ssl_bench.data.store import accept, ensure

    began = time.monotonic()
    config = DataConfig(name, parse(image_size, Size, "--image-size"))
    folder = ensure(config, store)
    seconds = time.monotonic() - began
    meta = json.loads((folder / "meta.json").read_text())
    used = sum(p.stat().st_size for p in folder.iterdir())
    counts = ", ".join(f"{count:,} {part}" for part, count in meta["split"].items() if count)
    classes = f"{len(meta['classes'])} classes" if meta["labelled"] else "no labels"
    screen.say(f"{name} at {image_size} px: {counts}, {classes}", "bold")
    screen.say(f"  fingerprint {meta['fingerprint']}, mean {meta['mean']}, std {meta['std']}")
    rate = f", {meta['images'] / meta['seconds']:,.0f} images/s" if meta["seconds"] else ""
    screen.say(f"  {meta['kind']} store, {screen.quantity(used, 'B')} in {folder}, built in {meta['seconds']} s{rate}")
    screen.say(f"  this check took {seconds:.1f} s")
    for note in meta["notes"]:
        screen.say(f"  note: {note}", "yellow")
    accept(folder, meta, bad_limit)
    size = "" if config.image_size == DataConfig().image_size else f" data.image_size={image_size}"
    other = "" if meta["labelled"] else " --eval-data LABELLED"
    screen.say(f"next: ssl-bench compare --recipe quick --data {shlex.quote(name)}{other}{size}")
