"""`hf:NAME`: a set of the Hugging Face hub, or a folder of one, through the `datasets` library (extra `hf`).

A job never downloads: `ssl-bench data get hf:NAME` does. Where a row holds several labels, name one: hf:NAME#LABEL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from ssl_bench.data.images import Images, Item
from ssl_bench.data.labels import LABEL, labelled
from ssl_bench.data.source import CHUNK, Chunk, Content, Source, files
from ssl_bench.data.splits import Choice, choice, held_out, parts_of, split_lines
from ssl_bench.errors import UserError


def source(name: str) -> Source:
    """State is the files of a local folder, or those that the library keeps of a hub set."""
    name, by_hand = choice(name)
    by_hand.only("train", "test")
    base, _, label = name.partition("#")
    folder = Path(base).expanduser()
    if folder.is_dir():
        state = files(folder)
    else:
        state = [(f"{split}-{data._fingerprint}", len(data), 0) for split, data in sorted(_load(base, False).items())]
    return Source(state, partial(_content, base, label, by_hand))


def get(name: str) -> None:
    """Download a set of the hub."""
    _load(name.partition("#")[0], True)


@cache
def _load(name: str, download: bool) -> dict[str, Any]:
    if not download:  # read by the libraries when they are imported
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"hf:{name} needs the library `datasets`: pip install 'ssl-bench[hf]'.") from error
    folder = Path(name).expanduser()
    try:
        return dict(datasets.load_dataset(str(folder) if folder.is_dir() else name))
    except Exception as error:  # the library raises many kinds
        todo = "" if download or folder.is_dir() else f" If it is not on this machine: ssl-bench data get hf:{name}"
        raise UserError(f"hf:{name} cannot be opened ({type(error).__name__}: {str(error)[:150]}).{todo}") from error


def _columns(name: str, features: Any, wanted: str) -> tuple[str, str]:
    kinds = {column: type(feature).__name__ for column, feature in features.items()}
    images = [c for c, kind in kinds.items() if kind == "Image"] or [c for c in Images.columns if c in kinds]
    labels = [wanted] if wanted else [c for c, kind in kinds.items() if kind == "ClassLabel"]
    labels = labels or [c for c in LABEL if c in kinds]
    if len(images) != 1 or len(labels) > 1 or (wanted and wanted not in kinds):
        raise UserError(
            f"hf:{name} has the columns {kinds}: one image and one label are needed; hf:{name}#LABEL names it."
        )
    return images[0], labels[0] if labels else ""


def _content(name: str, wanted: str, by_hand: Choice) -> Content:
    parts = _load(name, False)
    known, notes = parts_of(list(parts), Path(), by_hand)
    image, label = _columns(name, next(iter(parts.values())).features, wanted)
    blank = [known[p] for p, data in parts.items() if label and _unlabelled(data, label)]
    roles, unused = held_out(known.values(), blank)
    notes += unused
    chunks = []
    total = 0
    for part in sorted(parts, key=lambda p: known[p] != "train"):
        if known[part] in roles:
            total += int(parts[part].data.nbytes)
            for i in range(0, len(parts[part]), CHUNK):
                rows = range(i, min(i + CHUNK, len(parts[part])))
                chunks.append(Chunk(roles[known[part]], len(rows), partial(_rows, name, part, image, label, rows)))
    return Content(chunks, total, bool(label), notes, split_lines(known, roles))


def _unlabelled(data: Any, label: str) -> bool:
    return len(data) > 0 and all(value in (-1, None) for value in data.select(range(min(100, len(data))))[label])


def _rows(name: str, part: str, image: str, label: str, rows: range) -> Iterator[Item]:
    import datasets

    data = _load(name, False)[part].cast_column(image, datasets.Image(decode=False))
    names = list(getattr(data.features[label], "names", None) or []) if label else []
    allowed = [Path(name).expanduser().resolve(), Path(datasets.config.HF_CACHE_HOME).resolve()]
    for i in rows:
        row = data[i]
        picture, place = row[image]["bytes"], f"hf:{name} {part} row {i}"
        path = row[image]["path"]
        if picture is None and path and any(Path(path).resolve().is_relative_to(home) for home in allowed):
            picture, place = Path(path), path  # a folder of images: the library gives their paths
        if label or not isinstance(picture, (bytes, Path)):
            yield labelled(picture, row[label] if label else "any", names, place, path or "")
        else:
            yield Item(picture, "", place, name=path or "")
