"""`ssl-bench list`: methods, protocols, data sets, recipes, encoders, read from the modules themselves."""

from __future__ import annotations

import inspect

import click
from rich.markup import escape
from rich.table import Table

from ssl_bench import find, screen
from ssl_bench.config.schema import DataConfig
from ssl_bench.data import catalogue, registry, world
from ssl_bench.data.items import KINDS, of_kind
from ssl_bench.encoders import known
from ssl_bench.errors import UserError, nearest


@click.command(name="list")
@click.argument("what", type=click.Choice(["methods", "protocols", "datasets", "recipes", "encoders"]))
@click.option("--data", default="", help="Of methods: those that take the items of this set.")
def list_(what: str, data: str) -> None:
    """What there is: methods and the kinds of items they take, protocols, datasets, recipes, encoders.

    \b
    Example: ssl-bench list methods
             ssl-bench list methods --data fsdd30
    """
    if data and what != "methods":
        raise UserError(f"--data says which methods take a set's items and has no effect on {what}: leave it out.")
    if data:
        screen.console.print(methods(data))
        return
    if what == "methods":
        screen.console.print(methods(), "", by_kind())
        return
    tables = {"protocols": protocols, "datasets": datasets, "recipes": recipes}
    screen.console.print({**tables, "encoders": encoders}[what]())


def _asked(name: str) -> str:
    """How a world's options and number of trajectories are typed."""
    options = world.options_of(name)
    return f"{name}:OPTIONS:N, options {', '.join(options)}" if options else f"{name}:N"


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").split("\n")[0]


def _entries(*names: str) -> Table:
    """A table of names and, in the last column, two lines about each: readable at 80 columns."""
    table = screen.sheet(*names, "what it is")
    for column in table.columns[:-1]:
        column.no_wrap = True
    return table


def _about(facts: str, words: str) -> str:
    return escape(facts) + (f"\n[dim]{escape(words)}[/dim]" if words else "")


def methods(data: str = "") -> Table:
    """Name, family, views, evaluated network, kinds of items, paper; of those that run on the set `data`."""
    from ssl_bench.training.method import Method

    if data and data.partition(":")[0].partition("#")[0] not in {name.partition(":")[0] for name in registry.known()}:
        raise UserError(f"Unknown data '{data}'. {nearest(data, registry.known())} See 'ssl-bench list datasets'.")
    table, items = _entries("method"), registry.item(DataConfig(data)) if data else None
    for name in find.names("methods"):
        cls = find.defined(find.module("methods", name), Method)
        if items and items.as_kind(cls.kinds).name not in cls.kinds:
            continue
        seen = f"sees {cls.sees}; evaluated: {cls.evaluated}, {cls.pooling}"
        table.add_row(name, _about(f"{cls.family}; takes {', '.join(cls.kinds)}; {seen}", cls.paper))
    return table


def by_kind() -> Table:
    """Which method runs on which kind of item: its recipe where none is named, or nothing."""
    from ssl_bench.training.method import Method, usual

    kinds = sorted(KINDS, key=lambda kind: kind == "trajectory")
    table = screen.sheet("method", *kinds)
    for name in find.names("methods"):
        takes = find.defined(find.module("methods", name), Method).kinds
        table.add_row(name, *(usual(name, kind) if kind in takes else "" for kind in kinds))
    table.caption = (
        "What runs on which kind of item, and its recipe where none is named: ssl-bench pretrain --method mae --data X."
        " Of trajectories, methods of images take single frames."
    )
    table.caption_justify = "left"
    return table


def protocols() -> Table:
    """Name, first line of the docstring, version, input, variants."""
    from ssl_bench.evaluation.protocol import Protocol, variants

    table = _entries("protocol")
    for name in find.names("protocols"):
        module = find.module("protocols", name)
        cls = find.defined(module, Protocol)
        kinds = ", ".join(f"{name}:{variant}" for variant in variants(module))
        facts = f"version {cls.version}, from {cls.input}" + (f"; variants {kinds}" if kinds else "")
        table.add_row(name, _about(_first_line(module).partition(": ")[2], facts))
    return table


def datasets() -> Table:
    """The catalogue, and the ways to name one's own images."""
    table = _entries("data.name")
    for name, about in catalogue.entries().items():
        train, test = about["images"]
        noun = of_kind(catalogue.EMBEDDED_KINDS.get(name, "image")).noun
        counts = f"{train:,} + {test:,} {noun}" if test else f"{train:,} {noun}, test cut here"
        stated = f"; mean {about['mean']}, std {about['std']}" if "mean" in about else ""
        here = "embedded" if name in catalogue.EMBEDDED else f"{about['size']} to download" if "size" in about else ""
        facts = [counts, f"{about['classes']} classes", f"{about['pixels']} px", here, f"licence: {about['licence']}"]
        words = f"{about['what']} ({about['source']}){stated}; pretrain with {about['recipe']}"
        table.add_row(name, _about(", ".join(fact for fact in facts if fact), words))
    own = {
        "factors": "drawn images whose every factor is known; 5,000 (factors:N: N) to train on, a quarter to test",
        "movingphotos": "clips made from the embedded photographs, of ten motions; movingphotos:LEVEL:N, level 0 to 2",
        "cues": "clips in which a disc turns as was told at their beginning; cues:N; data.frames=40, 20, 10 or 5",
        "captions": "the images of factors with questions and answers, 24 of 144 combinations held out; captions:N",
        "expressions": "texts: sums, differences and products in words and as code; expressions:N, a quarter to test",
        **{
            name: f"a world, {world.kind_of(name).default:,} trajectories: "
            f"{_first_line(find.load(f'ssl_bench.data.worlds.{name}'))} {_asked(name)}"
            for name in world.names()
        },
        "folder:PATH": "PATH/<class>/*.jpg, or PATH/train/<class>/* beside PATH/test or PATH/val; or images, no labels",
        "parquet:PATH": "a file, a folder, a glob; columns image (bytes) and label; the split from the files' names",
        "webdataset:PATH": "tar shards of key.jpg and key.cls or key.json; the split from the files' names",
        "PATH#kind=clip": "after one of these: films, folders of frames, lists of frames (column frames, key.0001.jpg)",
        "hf:NAME": "a set of the Hugging Face hub, got before with 'ssl-bench data get hf:NAME' (extra `hf`)",
    }
    own["...#kind=sound"] = "after a path's name: its items are sounds (WAV; with the extra `audio` FLAC, OGG, MP3)"
    own["...#kind=text"] = "after folder:PATH or parquet:PATH: pairs of texts, .txt files or a column pair"
    for name, what in own.items():
        table.add_row(name, what)
    table.caption = (
        f"Sets lie in $SSL_BENCH_DATA (now {catalogue.root()}). Get one: ssl-bench data get NAME. Mean and std are "
        "measured on the training images you have: ssl-bench data check NAME."
    )
    table.caption_justify = "left"
    return table


def encoders() -> Table:
    """Every kind of encoder, and the official files."""
    files = [("file:PATH", f"{name}: {file}", *rest) for _, name, file, *rest in known.FILES]
    table = _entries("encoder")
    for name, what, token, licence, size in (*known.SOURCES, *files):
        facts = {"token": token, "licence": licence, "size": size}
        table.add_row(name, _about(what, "; ".join(f"{key}: {value}" for key, value in facts.items() if value)))
    return table


def recipes() -> Table:
    """Every recipe of every method, with its backbone, budget and first line."""
    table = _entries("method", "recipe")
    for name in find.names("methods"):
        for recipe, function in find.recipes(find.module("methods", name)).items():
            c = function()
            b, v = c.budget, c.backbone
            kind = next(k for k in ("steps", "epochs", "images", "flops") if getattr(b, k))
            shape = f"{v.embed_dim} x {v.depth}, patch {v.patch_size}, {registry.item(c.data).told}"
            shape = f"{shape}, batch {b.batch_size}"
            table.add_row(name, recipe, _about(f"{shape}, {getattr(b, kind):g} {kind}", _first_line(function)))
    return table
