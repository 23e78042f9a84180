"""What a table is made of: cells, rows, pairs that were compared, and the whole. tables.py builds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from results.beside import control
from results.statistics import Comparison, Sample
from ssl_bench.data import items

REFERENCES = ("random", "pixels", "supervised")  # set apart from the methods, in this order
RAW = ("pixels", *items.RAW)  # rows of raw input
UNTRAINED = ("random", *RAW)  # what no budget was spent on: they stand in the tables of all budgets
MAJORITY = "majority"  # always answering the largest class: a row where the test classes are unbalanced
BALANCED = "balanced"  # mean recall over the classes; beside the headline where they are unbalanced
LABEL_FREE = ("rankme", "lidar", "alpha_req", "alpha", "loss", "uniformity", "alignment", "std")  # they never rank


@dataclass(frozen=True)
class Column:
    """One protocol on one data set."""

    label: str
    key: str
    protocol: str
    variant: str
    version: int
    data: str
    fingerprint: str
    headline: str
    higher: bool
    num_test: int
    num_classes: int
    chance: float | None  # accuracy of always answering the largest class, in percent; None where records do not say

    @property
    def ranks(self) -> bool:
        known = self.headline in (*LABEL_FREE, BALANCED)  # the same predictions do not count twice
        return not known and not control(self.headline)


@dataclass(frozen=True)
class Cost:
    """Mean over the row's runs of what pretraining cost; None where nothing was trained or it is unknown."""

    flops: float | None = None
    hours: float | None = None
    images_per_second: float | None = None
    peak_memory_bytes: float | None = None
    machines: tuple[str, ...] = ()  # what the runs were made on: device, instructions and precision
    eval_seconds: float | None = None


@dataclass(frozen=True)
class Cell:
    """One number: mean and interval in the headline's unit (accuracies in percent)."""

    mean: float
    low: float | None
    high: float | None
    n: int  # pretraining seeds; 0 where nothing was measured, as for `majority`
    over: str  # what the interval runs over: seeds and images, one of them, or none
    values: tuple[float, ...]  # one per pretraining seed
    spread: dict[str, float]  # standard deviation over pretraining, probe and split seeds, where there are several
    collapsed: int  # of the n runs
    best: bool = False  # the highest mean of several seeds
    bold: bool = False  # may be the best of the column, and surely above `random`
    unclear: bool = False  # not told from `random`
    normalised: float | None = None  # (accuracy - largest class) / (supervised - largest class)
    optimism: float | None = None  # points that choosing on the test split would have added
    records: tuple[str, ...] = ()
    sample: Sample | None = field(default=None, repr=False, compare=False)
    leading: bool = False  # may be the best of the column, whether above `random` or not
    above: tuple[bool | None, ...] = ()  # each `random` of its network: surely better, surely worse, or not told (None)


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
    labels_seen: bool = False  # in pretraining
    network: str = ""  # of which the row `random` with the same is the untrained one
    trained_as: str = ""  # hash of method, version, objective and optimizer: the same row on another set

    @property
    def reference(self) -> bool:
        return self.labels_seen or self.method in (*REFERENCES, *UNTRAINED, MAJORITY)


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
