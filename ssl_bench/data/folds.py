"""Official folds: `NAME#folds=COLUMN` is a set whose test split is every fold in turn, and all other rows its training.

Folds by source (a recording, a speaker) are part of a set and never drawn here. It is for evaluating an encoder that
has seen none of the rows: one that was pretrained on a fold's training rows has seen the test rows of all the others.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ssl_bench.config.schema import DataConfig
from ssl_bench.data import registry
from ssl_bench.data.source import natural
from ssl_bench.errors import UserError

MARK = re.compile(r"#folds=([^#]*)")
MOST = 100  # values of a column that tells folds


def asked(name: str) -> bool:
    """Whether a set's name asks for every fold."""
    return MARK.search(name) is not None


def each(data: DataConfig) -> list[DataConfig]:
    """The same set with one fold as its test split, for every value of the column, in natural order."""
    from ssl_bench.data import parquet

    found = MARK.search(data.name)
    assert found is not None
    column, plain = found[1], MARK.sub("", data.name)
    paths = [path for path, _, _ in registry.find(plain).state]
    if not all(path.endswith(".parquet") for path in paths):
        raise UserError(f"{found[0]} names a column of parquet files, and '{plain}' has none: leave it out.")
    values = sorted(parquet.values(paths, column, found[0]), key=natural)
    if not 2 <= len(values) <= MOST:
        raise UserError(f"{found[0]}: column '{column}' has {len(values):,} values, and folds are 2 to {MOST}.")
    return [replace(data, name=MARK.sub(f"#fold={column}:{value}", data.name)) for value in values]
