"""A data set of `made_sets` -> its files: class folders, parquet files or tar shards."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import made_pictures
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from made_pictures import Picture


@dataclass(frozen=True)
class Row:
    """One image: where it is put, the class it has, how that is written, its file, and why it must be counted bad."""

    part: str  # train, test, val
    label: str
    typed: Any
    picture: Picture
    bad: str = ""
    link: bool = False  # a link that leads nowhere


@dataclass
class Made:
    """A data set on disk, and what is right."""

    kind: str  # folder, parquet, webdataset
    root: Path
    rows: list[Row]
    spelt: dict[str, str]  # part -> the name of its folder or files; "" for the only one
    twist: str = "none"
    name: str = ""  # what a user types
    outcome: str = "table"  # or "sentence", or "either"
    said: list[str] = field(default_factory=list)  # each must be in the notes of a table, or in the sentence
    labelled: bool = True
    wrap: tuple[str, ...] = ()
    table: dict[str, Any] = field(default_factory=dict)  # how a parquet file is written
    names: list[str] = field(default_factory=list)  # of classes that are numbers

    @property
    def parts(self) -> list[str]:
        return list(dict.fromkeys(row.part for row in self.rows))

    @property
    def test(self) -> str:
        """The part that is the test split; "" where it has to be cut from training."""
        with_labels = {row.part for row in self.rows if row.label}
        return next((p for p in ("test", "val") if p in with_labels), "")

    def expected(self, part: str) -> list[tuple[int, str]]:
        """(number of the picture, class) of the images that can be read."""
        return [(id(r.picture), r.label) for r in self.rows if r.part == part and not r.bad]


def _folder(made: Made, rng: np.random.Generator) -> None:
    deep = rng.random() < 0.2
    for i, row in enumerate(made.rows):
        inside = made.root.joinpath(*made.wrap, made.spelt[row.part], str(row.typed))
        inside = inside / f"part{i % 2}" if deep and row.typed else inside
        inside.mkdir(parents=True, exist_ok=True)
        path = inside / f"{i} x{row.picture.suffix}"
        if row.link:
            path.symlink_to("/not/mounted/0.png")
        else:
            path.write_bytes(row.picture.data)


def _files(made: Made, rng: np.random.Generator, suffix: str) -> list[tuple[Path, list[Row]]]:
    """One or two files of each part, named after it or in a folder of its name."""
    out = []
    for part in made.parts or ["train"]:
        rows = [r for r in made.rows if r.part == part]
        rows = [rows[i] for i in rng.permutation(len(rows))] if rng.random() < 0.5 else rows
        word, count = made.spelt.get(part) or "photos", int(rng.integers(1, 3))
        in_folder = rng.random() < 0.3
        for i in range(count):
            name = f"{word}/{i:04d}" if in_folder else f"{word}-{i:05d}-of-{count:05d}"
            path = made.root.joinpath(*made.wrap, name + suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            out.append((path, rows[i::count]))
    return out


def _parquet(made: Made, rng: np.random.Generator) -> None:
    struct = rng.random() < 0.7
    info = {"info": {"features": {"label": {"names": made.names, "_type": "ClassLabel"}}}}
    meta = {"huggingface": json.dumps(info)} if made.names else None
    for path, rows in _files(made, rng, ".parquet"):
        images = [
            {"bytes": r.picture.data, "path": f"{i}.png"} if struct else r.picture.data for i, r in enumerate(rows)
        ]
        labels = pa.array([r.typed for r in rows], type=made.table.get("type"))
        table = pa.table({"image": images, "label": labels, "note": ["x"] * len(rows)})
        pq.write_table(table.replace_schema_metadata(meta), path, row_group_size=int(rng.choice([3, 1000])))


def _shards(made: Made, rng: np.random.Generator) -> None:
    member = str(rng.choice(["cls", "json", "label"]))
    for path, rows in _files(made, rng, ".tar"):
        members: list[tuple[str, bytes]] = []
        for i, row in enumerate(rows):
            key = f"{row.typed}/{i:06d}" if made.table.get("folders") else f"a/{i:06d}"
            text = json.dumps({"label": row.typed, "url": "x"}) if member == "json" else str(row.typed)
            if row.typed is not None and not made.table.get("folders"):
                members.append((f"{key}.{member}", text.encode()))
            members.append((f"{key}{made.table.get('ext', '')}{row.picture.suffix}", row.picture.data))
            if "beside" in made.table:
                members.append((key + made.table["beside"], row.picture.data))
            if made.table.get("twice"):
                members.append((f"{key}{row.picture.suffix}", made.rows[0].picture.data))
        with tarfile.open(path, "w", format=[tarfile.GNU_FORMAT, tarfile.PAX_FORMAT][rng.integers(2)]) as tar:
            for name, data in members:
                about = tarfile.TarInfo(name)
                about.size = len(data)
                tar.addfile(about, io.BytesIO(data))
            if made.table.get("linked") and members:
                for end in (f".{member}", made_pictures.SUFFIX["PNG"][0]):
                    about = tarfile.TarInfo(f"a/linked{end}")
                    about.type, about.linkname = tarfile.LNKTYPE, members[0][0]
                    tar.addfile(about)


WRITE = {"folder": _folder, "parquet": _parquet, "webdataset": _shards}
