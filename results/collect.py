"""Folding record files into JSON lines, and the generated files in `results/` that must match them."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from results import render, searches, tables, trials
from results.page import bundle, page
from results.parts import Table
from results.records import dumps, read, sha, unique
from results.sets import by_data, by_table
from ssl_bench.files import write_atomic

FOLDER = Path(__file__).resolve().parent
SEARCHES = "search/trials.md"
FORMATS: dict[str, Callable[[Table], str]] = {
    "md": render.to_markdown,
    "csv": render.to_csv,
    "tex": render.to_latex,
    "json": render.to_json,
}


def collect(source: Path, folder: Path = FOLDER) -> tuple[int, int]:
    """Fold `source/*.json` into `folder/records/<data set>.jsonl`: (records now there, of them new).

    Idempotent, and safe while jobs write into `source`: what is not whole yet is not there yet, and comes next time.
    Nothing is deleted.
    """
    target = folder / "records"
    with _alone(target):
        before = read(target)
        merged = unique([*before, *read(source)])
        for name, members in sorted(by_data(merged).items()):
            text = "".join(dumps(r) + "\n" for r in members)
            path = target / f"{slug(name)}.jsonl"
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                write_atomic(path, text)
    return len(merged), len(merged) - len(before)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One collector at a time; the kernel drops the lock of one that dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def generated(folder: Path) -> dict[str, str]:
    """Every generated file, by its path below `folder`: per data set and budget a table in each format; the page; the
    searches. The budget of the most records needs no name.
    """
    records = read(folder / "records") if (folder / "records").exists() else []
    searched = trials.read(folder / trials.FILE)
    out = {"report.html": page(records)} if records else {}
    if searched:
        out[SEARCHES] = searches.to_markdown(searched)
    for name, budgets in by_table(records).items():
        for i, (budget, equal) in enumerate(budgets.items()):
            table, path = tables.build(equal), slug(name) + ("-" + slug(re.sub("[ ,]+", "-", budget)) if i else "")
            out |= {f"tables/{path}.{suffix}": renderer(table) for suffix, renderer in FORMATS.items()}
    return out


def regenerate(folder: Path = FOLDER) -> list[Path]:
    """Write every generated file from `folder/records`; those of data sets that are gone are removed."""
    wanted = generated(folder)
    for path in _there(folder):
        if path.relative_to(folder).as_posix() not in wanted:
            path.unlink()
    for name, text in wanted.items():
        write_atomic(folder / name, text)
    return [folder / name for name in wanted]


def stale(folder: Path = FOLDER) -> list[str]:
    """What in `folder` is not what its records give, in sentences. Empty: all fresh. Damaged records raise."""
    wanted = generated(folder)
    out = []
    for name, text in wanted.items():
        path = folder / name
        if not path.exists():
            out.append(f"{path} is missing.")
            continue
        found, text = (t.replace(bundle(), "") for t in (path.read_text(encoding="utf-8"), text))
        if found != text:
            out.append(f"{path} is stale: {_first_difference(found, text)}.")
    extra = [p for p in _there(folder) if p.relative_to(folder).as_posix() not in wanted]
    return out + [f"{path} comes from no record." for path in extra]


def _there(folder: Path) -> list[Path]:
    """Files that only `regenerate` writes."""
    tables_ = [p for suffix in FORMATS for p in (folder / "tables").glob(f"*.{suffix}")]
    return sorted([*tables_, *folder.glob("report.html"), *folder.glob(SEARCHES)])


def _first_difference(found: str, wanted: str) -> str:
    for number, (a, b) in enumerate(zip(found.split("\n"), wanted.split("\n"), strict=False), 1):
        if a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            start = max(0, at - 20)
            return f"line {number} has '{a[start : at + 20]}', the records give '{b[start : at + 20]}'"
    return "its length differs"


def slug(name: str) -> str:
    """A file name from any text."""
    plain = re.sub(r"[^A-Za-z0-9.+-]+", "-", name).strip("-.")[:60]
    return plain if plain == name else f"{plain or 'data'}-{sha(name)[:6]}"
