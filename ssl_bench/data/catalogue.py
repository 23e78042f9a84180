"""The sets known by name (catalogue.toml): what they are, where they lie, how to get them, how to read them.

They lie below $SSL_BENCH_DATA in torchvision's layout and are read through torchvision's own classes. Nothing is ever
downloaded by a job: `ssl-bench data get NAME` does that.
"""

from __future__ import annotations

import gzip
import inspect
import os
import shutil
import tomllib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssl_bench.data import folder
from ssl_bench.data.images import Item, Unreadable
from ssl_bench.data.labels import labelled
from ssl_bench.data.places import cache_folder
from ssl_bench.data.source import CHUNK, Chunk, Content, Source, cut, files
from ssl_bench.errors import UserError, nearest

EMBEDDED = {name: Path(__file__).parent / "embedded" / name for name in ("clothing48", "fsdd30", "ldraw16")}
EMBEDDED_KINDS = {"fsdd30": "sound", "ldraw16": "points"}  # of items; all others are images


@cache
def entries() -> dict[str, dict[str, Any]]:
    """Name -> facts, in the order of the file."""
    return tomllib.loads((Path(__file__).parent / "catalogue.toml").read_text(encoding="utf-8"))


def names() -> list[str]:
    return [name for name in entries() if name not in EMBEDDED]


def root() -> Path:
    """Where the named sets lie: $SSL_BENCH_DATA, or `data` in the cache folder."""
    return Path(os.environ["SSL_BENCH_DATA"]) if os.environ.get("SSL_BENCH_DATA") else cache_folder() / "data"


def entry(name: str) -> dict[str, Any]:
    if name.partition(":")[0] not in names():
        raise UserError(f"Unknown data '{name}'. {nearest(name, names())} See 'ssl-bench list datasets'.")
    return entries()[name.partition(":")[0]]


def source(name: str) -> Source:
    """A named set on this machine, or how to get it."""
    about, place = entry(name), root()
    state = [row for path in about["files"] if (place / path).exists() for row in files(place / path)]
    if not state:
        raise UserError(f"'{name}' is not in {place}. {how(name)} If you have it, set SSL_BENCH_DATA to its folder.")
    base, _, part = name.partition(":")
    if base == "stl10":
        return Source(state, partial(_stl10, place / "stl10_binary", part))
    if part:
        raise UserError(f"'{base}' has no part '{part}': write data.name={base}.")
    if "folder" in about:
        found = folder.source(place / about["folder"])
        return Source(state, found.content)
    return Source(state, partial(_torchvision, base))


def how(name: str) -> str:
    """What to type to get a set, with its size and licence."""
    about = entry(name)
    facts = ", ".join(filter(None, [about.get("size"), f"licence: {about['licence']}", about["source"]]))
    if "by_hand" in about:
        return f"Get it by hand into {root() / about['files'][0]} ({facts}): {about['by_hand']}."
    return f"Get it: ssl-bench data get {name.partition(':')[0]} ({facts})."


def get(name: str) -> None:
    """Download a named set, or unpack it from the system's package."""
    about, place = entry(name), root()
    if "by_hand" in about:
        raise UserError(how(name))
    place.mkdir(parents=True, exist_ok=True)
    if Path(about.get("unpack", "/nowhere")).is_dir():
        target = place / about["files"][0]
        target.mkdir(parents=True, exist_ok=True)
        for packed in sorted(Path(about["unpack"]).glob("*.gz")):
            with gzip.open(packed) as inside, open(target / packed.stem, "wb") as out:
                shutil.copyfileobj(inside, out)
        return
    try:
        for arguments in [*about.get("train", [{}]), *about.get("test", [])]:
            _open(name.partition(":")[0], arguments, download=True)
    except Exception as error:  # torchvision raises many kinds: no network, a moved page, a wrong checksum
        other = f" On Debian and Ubuntu: apt-get install {about['debian']}, and again." if "debian" in about else ""
        raise UserError(
            f"'{name}' could not be downloaded from {about['source']} ({type(error).__name__}: {str(error)[:150]}). "
            f"Put it into {place / about['files'][0]} by hand.{other}"
        ) from error


def _open(name: str, arguments: dict[str, Any], **more: Any) -> Any:
    import torchvision.datasets

    cls = getattr(torchvision.datasets, entries()[name]["torchvision"])
    if "loader" in inspect.signature(cls.__init__).parameters:
        more["loader"] = Path  # the file's path, not its pixels: damaged files are named, encoded ones kept
    return cls(str(root()), **arguments, **more)


@cache
def _opened(name: str, place: Path, split: str, number: int) -> Any:
    try:
        return _open(name, entries()[name][split][number])
    except Exception as error:
        raise UserError(f"'{name}' in {place} is not whole ({str(error)[:150]}). {how(name)}") from error


def _torchvision(name: str) -> Content:
    about = entries()[name]
    chunks = []
    for split in ("train", "test"):
        for number in range(len(about.get(split, []))):
            count = len(_opened(name, root(), split, number))
            for i in range(0, count, CHUNK):
                rows = range(i, min(i + CHUNK, count))
                chunks.append(Chunk(split, len(rows), partial(_rows, name, split, number, rows)))
    total = sum(size for path in about["files"] for _, size, _ in files(root() / path))
    return Content(chunks, total)


def _rows(name: str, split: str, number: int, rows: range) -> Iterator[Item]:
    data = _opened(name, root(), split, number)
    classes = list(getattr(data, "classes", None) or getattr(data, "categories", []))
    classes = classes if len(set(map(str, classes))) == len(classes) else []
    for i in rows:
        place = f"{name} {split} image {i}"
        try:
            image, label = data[i]
        except Exception as error:
            yield Item(Unreadable(f"{type(error).__name__}: {str(error)[:120]}"), "", place)
            continue
        if isinstance(image, Path):
            place = str(image)
        yield labelled(image, int(label), [str(c) for c in classes], place)


def _stl10(folder: Path, part: str) -> Content:
    """Own reader: torchvision holds all 2.8 GB of unlabelled images in memory. uint8 [N, 3, width, height]."""
    folds = [f"fold{i}" for i in range(10)]
    if part and part not in ("unlabelled", *folds):
        raise UserError(f"'stl10' has no part '{part}'. {nearest(part, ['unlabelled', *folds])}")
    try:
        if part == "unlabelled":
            return Content(*_stl10_chunks(folder, "unlabeled", "train"), labelled=False)
        chosen = None
        if part:
            chosen = np.array((folder / "fold_indices.txt").read_text().splitlines()[int(part[4:])].split(), int)
        train, test = _stl10_chunks(folder, "train", "train", chosen), _stl10_chunks(folder, "test", "test")
        return Content([*train[0], *test[0]], train[1] + test[1])
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"'stl10' in {folder} is not whole ({error}). {how('stl10')}") from error


def _stl10_chunks(folder: Path, file: str, split: str, chosen: np.ndarray | None = None) -> tuple[list[Chunk], int]:
    images = np.memmap(folder / f"{file}_X.bin", np.uint8, "r").reshape(-1, 3, 96, 96)
    classes = (folder / "class_names.txt").read_text().split()
    labels = None if file == "unlabeled" else np.fromfile(folder / f"{file}_y.bin", np.uint8) - 1
    rows = np.arange(len(images)) if chosen is None else chosen

    def make(i: int) -> Item:
        picture: Callable[[], Image.Image] = partial(_stl10_image, images, i)
        return Item(picture, "" if labels is None else classes[labels[i]], f"stl10 {file} image {i}")

    return cut(split, rows.tolist(), make), images.nbytes


def _stl10_image(images: np.ndarray, i: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(images[i].transpose(2, 1, 0)))
