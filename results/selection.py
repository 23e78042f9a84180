"""Label-free metrics judged as selectors: would picking a run by them, without labels, have picked a good one?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from results.parts import LABEL_FREE
from results.records import Record
from results.rows import column_key, newest

# How each metric is read: a higher score is the better pick. alpha-ReQ calls a decay of 1 good.
SCORES: dict[str, Callable[[float], float]] = {
    "rankme": lambda v: v,
    "lidar": lambda v: v,
    "alpha_req": lambda v: -abs(v - 1),
    "alpha": lambda v: -abs(v - 1),
    "loss": lambda v: -v,
    "knn": lambda v: v,  # online k-NN needs labels of training images, and is shown as the bar to reach
    "std": lambda v: v,
}


@dataclass(frozen=True)
class Selector:
    """One metric as a selector of runs for one column."""

    metric: str
    column: str
    runs: int
    spearman: float | None  # rank correlation with accuracy; None where one of them does not vary
    kendall: float | None
    picked: str  # the run it picks
    regret: float  # points lost against the best run
    random_regret: float  # points lost on average by picking a run blindly


def judge(metric: str, column: str, values: Mapping[str, float], accuracy: Mapping[str, float]) -> Selector | None:
    """Over the runs that have both; None with fewer than three."""
    names = sorted(values.keys() & accuracy.keys())
    if len(names) < 3:
        return None
    read = SCORES.get(metric, lambda v: v)
    scores = np.array([read(values[n]) for n in names])
    found = np.array([accuracy[n] for n in names])
    varies = np.ptp(scores) > 0 and np.ptp(found) > 0
    best = scores == scores.max()  # several equal picks: the mean of what they give
    return Selector(
        *(metric, column, len(names)),
        spearman=float(stats.spearmanr(scores, found).statistic) if varies else None,
        kendall=float(stats.kendalltau(scores, found).statistic) if varies else None,
        picked=names[int(scores.argmax())],
        regret=float(found.max() - found[best].mean()),
        random_regret=float(found.max() - found.mean()),
    )


def selectors(
    records: Sequence[Record], labels: Mapping[str, str], extra: Mapping[str, Mapping[str, float]] | None = None
) -> list[Selector]:
    """Every metric against every accuracy column.

    `labels`: column key -> label. Metrics come from the records (RankMe of the collapse check and label-free
    protocols); `extra` adds more by run, such as the final loss and online k-NN of the run folders.
    """
    metrics: dict[str, dict[str, float]] = {name: dict(values) for name, values in (extra or {}).items()}
    accuracy: dict[str, dict[str, float]] = {}
    for r in newest(records):
        if not r.run:
            continue
        if isinstance(r.collapse["rankme"], (int, float)):
            metrics.setdefault("rankme", {})[r.run] = float(r.collapse["rankme"])
        if r.headline in LABEL_FREE:
            for name in sorted(r.metrics.keys() & SCORES.keys()):
                metrics.setdefault(name, {})[r.run] = r.metrics[name]
        elif r.method != "supervised":
            key = column_key(r)
            accuracy.setdefault(key, {})[r.run] = r.value if r.higher_is_better else -r.value
    if len({r.method for r in records if r.run and r.method != "supervised"}) > 1:
        metrics.pop("loss", None)  # losses of different objectives share no unit
    found = [
        judge(metric, labels[key], values, accuracy[key])
        for metric, values in sorted(metrics.items())
        for key in sorted(accuracy)
        if key in labels
    ]
    return [s for s in found if s is not None]
