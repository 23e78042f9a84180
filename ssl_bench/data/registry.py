"""A data set's name -> its source.

`data.name` is a name of the catalogue, `factors`, `movingphotos`, `expressions`, a world (`two_room`), `folder:PATH`,
`parquet:PATH`, `webdataset:PATH` or `hf:NAME`; `#train=NAME#test=NAME` after it says which file or folder is which
split (see splits), `#kind=clip` that its items are no images, `#views=2x3` how films are seen by evaluations. No torch
here; a kind of source is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_bench.config.schema import DataConfig
from ssl_bench.data import catalogue, folder, world
from ssl_bench.data.catalogue import EMBEDDED, EMBEDDED_KINDS
from ssl_bench.data.items import Kind, asked
from ssl_bench.data.source import WILD, Source, is_pattern
from ssl_bench.data.splits import choice
from ssl_bench.errors import UserError, nearest

if TYPE_CHECKING:
    from ssl_bench.data.factors import Factor

GENERATED = {  # name -> the module that makes it: `source(rest)`, its KIND of item, FACTORS, DIRECTED
    "factors": "ssl_bench.data.factors",
    "movingphotos": "ssl_bench.data.movingphotos",
    "cues": "ssl_bench.data.cues",
    "expressions": "ssl_bench.data.expressions",
    "captions": "ssl_bench.data.captions",
}
KINDS = {"folder": "PATH", "parquet": "PATH", "webdataset": "PATH", "hf": "NAME"}


def find(name: str) -> Source:
    """The source of a data set's name. `UserError` with the nearest name, or with how to get the set."""
    kind, _, rest = name.partition(":")
    if (base := name.partition("#")[0]) in EMBEDDED:
        settings = f"#kind={EMBEDDED_KINDS.get(base, 'image')}{name[len(base) :]}"
        return _of_path("parquet", f"{EMBEDDED[base]}{settings}")
    if "#views=" in name and kind not in KINDS:
        raise UserError(
            f"#views= cuts films into segments and crops, and '{name.partition('#')[0]}' has none: leave it out."
        )
    if kind in GENERATED:
        found: Source = _made(kind).source(rest)
        return found
    if kind in world.names():
        from ssl_bench.data import rollouts

        return rollouts.source(name)
    if kind in KINDS and rest:
        if kind == "hf":
            from ssl_bench.data import huggingface

            return huggingface.source(rest)
        return _of_path(kind, rest)
    if kind in catalogue.names():
        return catalogue.source(name)
    raise _unknown(name)


def named(name: str) -> bool:
    """Whether a name is one of `find`'s, by its beginning; nothing is opened."""
    kind, _, rest = name.partition(":")
    mine = (*GENERATED, *world.names(), *catalogue.names())
    return name.partition("#")[0] in EMBEDDED or kind in mine or bool(kind in KINDS and rest)


def several(text: str) -> list[str]:
    """Names of sets with commas between them; one inside a name (`#classes=sky,tree`, a path) parts nothing."""
    out: list[str] = []
    for piece in text.split(","):
        if out and {":", "#"} & set(out[-1]) and not named(piece):
            out[-1] += f",{piece}"
        else:
            out.append(piece)
    return list(dict.fromkeys(out))


def _unknown(name: str) -> UserError:
    if name and Path(name).expanduser().exists():
        kind = {".parquet": "parquet", ".tar": "webdataset"}.get(Path(name).suffix, "folder")
        return UserError(f"'{name}' is a path: write {kind}:{name}.")
    return UserError(f"Unknown data '{name}'. {nearest(name, known())} See 'ssl-bench list datasets'.")


def location(rest: str) -> Path:
    """The folder or file that a name `KIND:PATH` means; of a pattern, the folder above its first wildcard."""
    path = Path(choice(rest)[0]).expanduser()
    while is_pattern(path):
        path = path.parent
    return path


def known() -> list[str]:
    """Every name, for hints."""
    return [
        *EMBEDDED,
        *GENERATED,
        *world.names(),
        *catalogue.names(),
        *(f"{kind}:{what}" for kind, what in KINDS.items()),
    ]


def item(config: DataConfig) -> Kind:
    """The items of a set under these settings, by its name alone: nothing is opened."""
    if config.name and not named(config.name):
        raise _unknown(config.name)
    return asked(config, kind(config.name))


def kind(name: str) -> str:
    """The kind of a set's items."""
    made, rest = name.partition(":")[::2]
    if made in world.names():
        return "trajectory"
    if made in GENERATED:
        return str(_made(made).KIND)
    return choice(rest)[1].kind if made in KINDS else EMBEDDED_KINDS.get(name.partition("#")[0], "image")


def directed(name: str) -> bool:
    """Whether the labels of a set say left and right, so that no item may be mirrored."""
    made = name.partition(":")[0]
    return made in GENERATED and bool(_made(made).DIRECTED)


def factors(name: str) -> tuple[Factor, ...]:
    """What the numbers are that a set with known factors has of each item."""
    made = name.partition(":")[0]
    if made in world.names():
        return world.parse(name).world.factors
    found: tuple[Factor, ...] = _made(made).FACTORS if made in GENERATED else ()
    return found


def flows(name: str, split: str, side: int) -> Callable[[np.ndarray], np.ndarray] | None:
    """What gives the exact motion from the first frame to the second, fp32 [N, 2, side, side] in pixels, of clips of a
    split by their targets [N, F]; None for sets whose motion nobody knows.
    """
    made, rest = name.partition(":")[::2]
    found = getattr(_made(made), "flows", None) if made in GENERATED else None
    return found and partial(found, rest, split, side=side)


def _made(name: str) -> Any:
    return importlib.import_module(GENERATED[name])


def _of_path(kind: str, rest: str) -> Source:
    rest, by_hand = choice(rest)
    location = Path(rest).expanduser()
    if not (location.exists() or (kind != "folder" and WILD.search(rest))):
        raise UserError(
            f"No such path: {location}. Give an existing {'folder' if kind == 'folder' else 'file or folder'}."
        )
    if kind == "folder":
        if not location.is_dir():
            raise UserError(f"{location} is a file: folder: needs a folder with one sub-folder per class.")
        return folder.source(location, by_hand)
    from ssl_bench.data import parquet, webdataset

    return (parquet if kind == "parquet" else webdataset).source(location, by_hand)
