"""What a table is made of: cells, rows, pairs that were compared, and the whole. tables.py builds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from results.rows import REFERENCES, Column, Cost
from results.statistics import Comparison, Sample
from results.unbalanced import MAJORITY


@dataclass(frozen=True)
class Cell:
    """One number: mean and interval in the headline's unit (accuracies in percent)."""

    mean: float
    low: float | None
    high: float | None
    n: int  # pretraining seeds; 0 where nothing was measured, as for `majority`
    over: str  # what the interval runs over: seeds, images or none
    values: tuple[float, ...]  # one per pretraining seed
    spread: dict[str, float]  # standard deviation over pretraining, probe and split seeds, where there are several
    collapsed: int  # of the n runs
    best: bool = False
    tied: bool = False  # cannot be told from the best; the best itself is tied too
    normalised: float | None = None  # (accuracy - chance) / (supervised - chance)
    optimism: float | None = None  # points that choosing on the test split would have added
    records: tuple[str, ...] = ()
    sample: Sample | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Row:
    """One method under one recipe; cells in the order of the table's columns."""

    label: str
    method: str
    recipe: str
    overrides: tuple[str, ...]
    budget: str
    cost: Cost
    cells: tuple[Cell | None, ...]
    collapsed: str  # "2 of 3 runs" or ""

    @property
    def reference(self) -> bool:
        return self.method in (*REFERENCES, MAJORITY)


@dataclass(frozen=True)
class Pair:
    """A comparison of two rows in one column; `result` is first minus second."""

    column: str
    first: str
    second: str
    result: Comparison


@dataclass(frozen=True)
class Table:
    """Everything the renderers need."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    pairs: tuple[Pair, ...]
    published: tuple[dict[str, Any], ...] = ()
