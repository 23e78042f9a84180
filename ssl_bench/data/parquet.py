"""Parquet files: one, a glob, or Hugging Face's layout (data/train-00000-of-00004.parquet, or one folder per split).

Columns `image` (bytes, or a struct with `bytes`; of clips `frames`, a list of these, or `video`, a film's bytes) and
`label` (class names, or numbers with names in the metadata); a column `group`, where there is one, says what belongs
together (see groups). `#group=COLUMN` names another, `#group=COLUMN:PATTERN` takes what a regular expression matches
from the start of its text, `#group=none` reads none. `#fold=COLUMN:VALUE`: the rows with that value are the test split,
all others training, whatever the files are called; `#folds=COLUMN`: each of its values in turn (see folds).
`#masks=COLUMN`: masks for every pixel, as the images are stored (mask_files says what their values mean).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ssl_bench.data import groups, labels, mask_files
from ssl_bench.data.images import Item
from ssl_bench.data.items import Kind, of_kind
from ssl_bench.data.source import CHUNK, Chunk, Content, Source, files
from ssl_bench.data.splits import MASKS, NO_CHOICE, Choice, held_out, parts_of, split_lines
from ssl_bench.errors import UserError, nearest

NUMBERS = ("int", "uint", "half", "float", "double")  # types whose names begin so


def source(location: Path, by_hand: Choice = NO_CHOICE) -> Source:
    """Columns `image` (bytes, or a struct with `bytes`) and `label`; the split from the names of files or folders."""
    by_hand.only("train", "test", "splits", "group", "kind", "views", "fold", "folds", *MASKS)
    if every := by_hand.one("folds"):
        raise UserError(
            f"#folds={every} is every fold in turn, for `ssl-bench eval` of an encoder that has seen none of them; "
            f"here name the one that is the test split: #fold={every}:VALUE."
        )
    if by_hand.one("fold") and (by_hand.roles or by_hand.none):
        raise UserError("#fold= says which rows are the test split: leave #train=, #test= and #splits= out.")
    state = files(location, ".parquet")
    if not state:
        raise UserError(f"No .parquet file in {location}.")
    return Source(state, lambda: _content(location, [p for p, _, _ in state], by_hand), by_hand.kind)


def _content(location: Path, paths: list[str], by_hand: Choice) -> Content:
    fold = by_hand.one("fold")
    parts, notes = (dict.fromkeys(paths, "train"), []) if fold else parts_of(paths, location, by_hand)
    paths = [path for path in paths if parts[path]]
    opened = {path: _open(path) for path in paths}
    named = {path: _columns(path, file.schema_arrow, of_kind(by_hand.kind)) for path, file in opened.items()}
    blank = {
        p for p in {parts[q] for q in paths} if all(_no_labels(opened[q], named[q][1]) for q in paths if parts[q] == p)
    }
    roles, unused = held_out(parts.values(), sorted(blank))
    notes += unused + _types(
        {p: str(opened[p].schema_arrow.field(named[p][1]).type) for p in paths if parts[p] in roles},
        {p for p in paths if _class_names(opened[p].schema_arrow.metadata or {}, named[p][1])},
    )
    group, told = _group({path: opened[path].schema_arrow.names for path in paths if parts[path] in roles}, by_hand)
    masks = _masks({path: opened[path].schema_arrow.names for path in paths if parts[path] in roles}, by_hand)
    chunks: list[Chunk] = []
    total = 0
    for path in sorted(paths, key=lambda p: (parts[p] != "train", p)):
        if parts[path] not in roles:
            continue
        meta, test = opened[path].metadata, _fold(path, fold) if fold else []
        own = group if group[0] in opened[path].schema_arrow.names else ("", "")
        columns = Columns(of_kind(by_hand.kind), *named[path], *own, masks)
        total += sum(meta.row_group(g).total_byte_size for g in range(meta.num_row_groups))
        for first, start, stop in _ranges([meta.row_group(g).num_rows for g in range(meta.num_row_groups)]):
            whole = Chunk(roles[parts[path]], stop - start, partial(_rows, path, columns, first, start, stop))
            before = sum(meta.row_group(g).num_rows for g in range(first))
            chunks += _folded(whole, test[before + start : before + stop]) if fold else [whole]
    chunks.sort(key=lambda chunk: chunk.split != "train")
    if fold and len({chunk.split for chunk in chunks}) < 2:
        raise UserError(f"#fold={fold}: {'every row' if chunks[0].split == 'test' else 'no row'} has that value.")
    lines = [f"test: the rows where {fold.replace(':', ' is ', 1)}"] if fold else split_lines(parts, roles)
    read_as = [*lines, *told, *([str(masks[1])] if masks else [])]
    return Content(chunks, total, True, notes, read_as, masks[1].told if masks else None)


def _fold(path: str, fold: str) -> list[bool]:
    """Of each row of a file whether it is of the test split."""
    column, _, value = fold.partition(":")
    file = _open(path)
    if column not in file.schema_arrow.names or not value:
        hint = nearest(column, file.schema_arrow.names)
        raise UserError(f"#fold={fold}: write #fold=COLUMN:VALUE with a column of {path}. {hint}")
    told = [labels.as_text(found) for found in file.read(columns=[column])[column].to_pylist()]
    return [found == labels.as_text(value) for found in _full(told, f"#fold={fold}", column)]


def _full(found: Iterable[str | None], wanted: str, column: str) -> list[str]:
    """The same values; `UserError` where a row has none, for then it is not known which fold it is of."""
    out = list(found)
    if any(value is None for value in out):
        raise UserError(f"{wanted}: some rows have no value in column '{column}': write the fold of every row.")
    return [value for value in out if value is not None]


def values(paths: Sequence[str], column: str, wanted: str) -> set[str]:
    """What a column holds, as text, over all files that have it; `wanted` is how it was asked for."""
    opened = [_open(path) for path in paths]
    known = sorted({name for file in opened for name in file.schema_arrow.names})
    if column not in known:
        raise UserError(f"{wanted}: no column '{column}'. {nearest(column, known)}")
    there = [file.read(columns=[column])[column] for file in opened if column in file.schema_arrow.names]
    told = (labels.as_text(value) for found in there for value in found.unique().to_pylist())
    return set(_full(told, wanted, column))


def _folded(chunk: Chunk, test: Sequence[bool]) -> list[Chunk]:
    """A chunk as that of its training rows and that of its test rows."""
    picked = {"train": [not t for t in test], "test": list(test)}
    return [Chunk(split, sum(own), partial(_picked, chunk, own)) for split, own in picked.items() if any(own)]


def _picked(chunk: Chunk, own: Sequence[bool]) -> Iterator[Item]:
    return (item for item, mine in zip(chunk.read(), own, strict=True) if mine)


def _open(path: str) -> Any:
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, memory_map=True)
    except Exception as error:
        raise UserError(f"{path} is not a readable parquet file: {str(error)[:120]}") from error


def _columns(path: str, schema: Any, kind: type[Kind]) -> tuple[str, str]:
    """The column of items and that of labels."""
    items = kind.columns
    found = [next((n for n in names if n in schema.names), "") for names in (items, labels.LABEL)]
    missing = [names[0] for names, name in zip((items, labels.LABEL), found, strict=True) if not name]
    if missing:
        raise UserError(f"{path} has no column {missing}; it has {schema.names}. {items[0]} and label are needed.")
    if not kind.worded and re.match(r"(list<\w+: |large_list<\w+: )?(large_)?string", str(schema.field(found[0]).type)):
        raise UserError(f"Column '{found[0]}' of {path} holds text: images' bytes are needed, paths are not read.")
    if str(schema.field(found[1]).type).startswith(("list", "large_list", "fixed_size_list", "struct", "map")):
        raise UserError(
            f"Column '{found[1]}' of {path} holds {schema.field(found[1]).type}, several values a row: "
            "one class per image is needed."
        )
    return found[0], found[1]


def _types(found: Mapping[str, str], named: Set[str]) -> list[str]:
    """That 1 and 1.0 are one class, where some files have whole numbers as labels and others have fractions' type.

    `UserError` where some have text and others numbers that no class names (of the files `named`) explain.
    """
    text = next((path for path, kind in found.items() if "string" in kind), "")
    bare = next((p for p, kind in found.items() if p not in named and kind.startswith(NUMBERS)), "")
    if text and bare:
        raise UserError(
            f"Labels are {found[text]} in {text} and {found[bare]} in {bare}, which has no class names: "
            "write them as one type in all files."
        )
    real = {path: kind.startswith(NUMBERS[2:]) for path, kind in found.items()}
    whole = [path for path, kind in found.items() if kind.startswith(NUMBERS[:2])]
    if not whole or not any(real.values()):
        return []
    one, two = next(path for path in found if real[path]), whole[0]
    return [
        f"Labels are {found[one]} in {Path(one).name} and {found[two]} in {Path(two).name}: 1.0 and 1 are one class."
    ]


def _group(columns: Mapping[str, Sequence[str]], by_hand: Choice) -> tuple[tuple[str, str], list[str]]:
    """The column that tells groups ("": none) and the pattern that takes them out of its text; what was read, in words.

    Images of a file that lacks it have no group, which a note tells.
    """
    wanted = by_hand.one("group")
    if wanted == "none":
        return ("", ""), []
    column, _, pattern = (wanted or groups.COLUMN).partition(":")
    if wanted and not any(column in names for names in columns.values()):
        known = sorted({name for names in columns.values() for name in names})
        raise UserError(f"#group={wanted}: no column '{column}'. {nearest(column, known)}")
    if not any(column in names for names in columns.values()):
        return ("", ""), []
    return (column, pattern), [f"groups: column {column}" + (f", '{pattern}' of it" if pattern else "")]


def _masks(columns: Mapping[str, Sequence[str]], by_hand: Choice) -> tuple[str, mask_files.Rules] | None:
    """The column that `#masks=` names, which every file must have, and what its values mean."""
    if not (wanted := by_hand.one("masks")):
        mask_files.idle(by_hand)
        return None
    for path, names in columns.items():
        if wanted not in names:
            raise UserError(f"#masks={wanted}: {path} has no column '{wanted}'. {nearest(wanted, names)}")
    return wanted, mask_files.rules(by_hand)


def _no_labels(file: Any, label: str) -> bool:
    """Whether every label is -1, as in published test splits without labels; from the file's own statistics."""
    meta = file.metadata
    column = next((i for i in range(meta.num_columns) if meta.schema.column(i).path == label), None)
    if column is None or not meta.num_row_groups:
        return False
    found = [meta.row_group(g).column(column).statistics for g in range(meta.num_row_groups)]
    return all(s is not None and s.has_min_max and s.max == -1 for s in found)


def _ranges(groups: list[int]) -> Iterator[tuple[int, int, int]]:
    """(first row group, start, stop): small row groups together, large ones in at most 64 pieces."""
    g = 0
    while g < len(groups):
        first, rows = g, groups[g]
        while (g := g + 1) < len(groups) and rows + groups[g] <= CHUNK:
            rows += groups[g]
        step = max(CHUNK, -(-rows // 64))  # each piece reads its row group from the start
        yield from ((first, start, min(start + step, rows)) for start in range(0, rows, step))


@dataclass(frozen=True)
class Columns:
    """What is read of a file's rows, and how."""

    items: type[Kind]
    item: str
    label: str
    group: str  # "": none
    pattern: str  # of the group's text
    masks: tuple[str, mask_files.Rules] | None

    @property
    def names(self) -> list[str]:
        return [self.item, self.label, *filter(None, [self.group]), *([self.masks[0]] if self.masks else [])]

    def read(self, batch: Any, i: int, classes: list[str], place: str) -> Item:
        """Row i of a batch."""
        data, file = self.items.cell(batch.column(self.item)[i].as_py())
        item = labels.labelled(data, batch.column(self.label)[i].as_py(), classes, place, file)
        if self.group:
            item = replace(item, group=groups.named(batch.column(self.group)[i].as_py(), self.pattern, place))
        if self.masks and isinstance(item.image, bytes):
            mask = batch.column(self.masks[0])[i].as_py()
            mask = mask.get("bytes") if isinstance(mask, dict) else mask
            item = mask_files.attached(item, mask, item.image, self.masks[1])
        return item


def _rows(path: str, columns: Columns, first: int, start: int, stop: int) -> Iterator[Item]:
    """Rows start to stop, counted from row group `first` on."""
    file = _open(path)
    names = _class_names(file.schema_arrow.metadata or {}, columns.label)
    before = sum(file.metadata.row_group(g).num_rows for g in range(first))
    at, wanted = 0, list(range(first, file.metadata.num_row_groups))
    try:
        for batch in file.iter_batches(128, row_groups=wanted, columns=columns.names, use_threads=False):
            for i in range(max(start - at, 0), min(stop - at, len(batch))):
                yield columns.read(batch, i, names, f"{path} row {before + at + i}")
            at += len(batch)
            if at >= stop:
                return
    except OSError as error:
        raise UserError(f"{path} is not a readable parquet file: {str(error)[:120]}") from error


def _class_names(metadata: dict[bytes, bytes], label: str = "label") -> list[str]:
    """Class names from the metadata of our own files or of Hugging Face's; [] if there are none."""
    own = json.loads(metadata.get(b"dataset_info", b"{}"))
    hub = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {}).get(label, {})
    return own.get("classes") or own.get("class_names") or hub.get("names") or []
