"""Several data sets (or protocols) at once: ranks, tests over data sets, robust aggregates.

Scores are a matrix [data sets, methods], or per data set the values of every seed. rliable's definitions (Agarwal et
al. 2021, 2108.13264) for the interquartile mean and the probability of improvement; Demsar 2006 for ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from results.parts import Column, Table
from results.rows import kind
from results.statistics import holm


@dataclass(frozen=True)
class Ranking:
    """Mean ranks (1 is best) with Friedman's p and Nemenyi's critical difference; groups that it cannot separate."""

    names: tuple[str, ...]
    mean_ranks: tuple[float, ...]
    tasks: int
    friedman_p: float | None  # None with fewer than three methods or two tasks
    critical_difference: float
    cliques: tuple[tuple[str, ...], ...]


def ranks(scores: np.ndarray, higher: bool = True) -> np.ndarray:
    """[tasks, methods] -> ranks per task, ties averaged, 1 is best."""
    return stats.rankdata(-scores if higher else scores, axis=1)


def nemenyi(methods: int, tasks: int, alpha: float = 0.05) -> float:
    """Critical difference of mean ranks: q / sqrt(2) of the studentised range times sqrt(k (k + 1) / (6 N))."""
    q = stats.studentized_range.ppf(1 - alpha, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * tasks)))


def ranking(names: Sequence[str], scores: np.ndarray, higher: bool = True, alpha: float = 0.05) -> Ranking:
    """Friedman and Nemenyi on [tasks, methods]."""
    tasks, methods = scores.shape
    order = np.argsort(means := ranks(scores, higher).mean(axis=0), kind="stable")
    p = float(stats.friedmanchisquare(*scores.T).pvalue) if methods > 2 and tasks > 1 else None
    distance = nemenyi(methods, tasks, alpha)
    sorted_names, sorted_means = [names[i] for i in order], means[order]
    cliques: list[tuple[str, ...]] = []
    for start in range(methods):
        end = int(np.searchsorted(sorted_means, sorted_means[start] + distance, side="right"))
        group = tuple(sorted_names[start:end])
        if len(group) > 1 and not any(set(group) <= set(other) for other in cliques):
            cliques.append(group)
    return Ranking(tuple(sorted_names), tuple(map(float, sorted_means)), tasks, p, distance, tuple(cliques))


def wilcoxon(names: Sequence[str], scores: np.ndarray, baseline: str) -> dict[str, float]:
    """Holm-corrected p of Wilcoxon's signed-rank test over tasks, every method against the baseline."""
    base = scores[:, list(names).index(baseline)]
    others = [n for n in names if n != baseline]
    found = []
    for name in others:
        difference = scores[:, list(names).index(name)] - base
        found.append(float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0)
    return dict(zip(others, holm(found), strict=True))


def iqm(values: Sequence[np.ndarray] | np.ndarray) -> float:
    """Interquartile mean over all tasks and seeds: the lowest and highest quarter are dropped."""
    return float(stats.trim_mean(np.concatenate([np.ravel(v) for v in values]), 0.25))


def iqm_interval(values: Sequence[np.ndarray], draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % stratified bootstrap interval: seeds are drawn again within every task."""
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([v[rng.integers(len(v), size=(draws, len(v)))] for v in values], axis=1)
    found = stats.trim_mean(drawn, 0.25, axis=1)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def improvement(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """P(a random seed of a beats one of b), ties half, averaged over tasks: Mann-Whitney's U / (n m)."""
    return float(np.mean([stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)) for x, y in zip(a, b, strict=True)]))


def matrix(table: Table, columns: Sequence[str] | None = None) -> tuple[list[str], list[str], np.ndarray]:
    """Methods, columns and means [columns, methods] of the methods that have every asked-for column with n > 1.

    One seed never makes a ranking.
    """
    wanted = [i for i, c in enumerate(table.columns) if c.ranks and (columns is None or c.label in columns)]
    rows = [
        r
        for r in table.rows
        if not r.reference and wanted and all((c := r.cells[i]) is not None and c.n > 1 for i in wanted)
    ]
    means = [[c.mean if (c := r.cells[i]) is not None else np.nan for r in rows] for i in wanted]
    signs = np.array([1.0 if table.columns[i].higher else -1.0 for i in wanted])
    scores = np.array(means).reshape(len(wanted), len(rows)) * signs[:, None]
    return [r.label for r in rows], [table.columns[i].label for i in wanted], scores


def agreement(table: Table) -> dict[tuple[str, str], float]:
    """Spearman's rank correlation of the methods between every two columns: does the ranking depend on the protocol?"""
    names, columns, scores = matrix(table)
    if len(names) < 3:
        return {}
    pairs = [(i, j) for i in range(len(columns)) for j in range(i + 1, len(columns))]
    found = {(columns[i], columns[j]): _spearman(scores[i], scores[j]) for i, j in pairs}
    return {pair: value for pair, value in found.items() if value is not None}


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    return float(stats.spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else None


def seed_values(table: Table, columns: Sequence[str]) -> Mapping[str, list[np.ndarray]]:
    """Per method the seeds' values in every column, for `iqm` and `improvement`."""
    wanted = [i for i, c in enumerate(table.columns) if c.label in columns]
    out = {}
    for row in table.rows:
        cells = [row.cells[i] for i in wanted]
        if not row.reference and all(c is not None for c in cells):
            out[row.label] = [np.array(c.values) for c in cells if c is not None]
    return out


@dataclass(frozen=True)
class Summary:
    """One protocol over several data sets."""

    protocol: str
    data: tuple[str, ...]
    ranking: Ranking
    iqm: dict[str, tuple[float, float, float]]  # interquartile mean over data sets and seeds, with its interval
    baseline: str  # the best by mean rank, unless one was chosen
    wilcoxon: dict[str, float]  # Holm-corrected p of every other method against it
    improvement: dict[str, float]  # P(a seed of the baseline beats a seed of the other method)
    notes: tuple[str, ...]  # who is left out and why; budgets, where they differ


def summaries(found: Mapping[str, Table], baseline: str = "") -> list[Summary]:
    """From one table per data set: every protocol on two data sets or more, for the methods that stand in all of them.

    A protocol is the same where version, settings and headline are, a method where its objective and optimizer are;
    rows of one table that differ in network or budget alone are left out, for none of them is the one.
    """
    kinds: dict[str, dict[str, Column]] = {}  # what is measured -> data set -> its column
    for data, table in sorted(found.items()):
        for column in table.columns:
            if column.ranks:
                kinds.setdefault(kind(column), {})[data] = column
    kinds = {what: columns for what, columns in sorted(kinds.items()) if len(columns) > 1}
    titles = {what: _title(columns) for what, columns in kinds.items()}
    often = Counter(titles.values())
    out = []
    for what, columns in kinds.items():
        labels = {data: column.label for data, column in columns.items()}
        tables = {data: _by_training(found[data], label) for data, label in labels.items()}
        parts = {data: matrix(table, [labels[data]]) for data, table in tables.items()}
        first = next(iter(columns))
        shown = {r.trained_as: r.label for r in found[first].rows}
        names = sorted(set.intersection(*(set(names) for names, _, _ in parts.values())), key=lambda n: shown[n])
        if len(names) > 1:
            scores = np.array([[row[0][have.index(n)] for n in names] for have, _, row in parts.values()])
            values = [seed_values(table, [labels[data]]) for data, table in tables.items()]
            mine = {shown[n]: [v[n][0] for v in values] for n in names}
            title = titles[what] if often[titles[what]] == 1 else labels[first]
            out.append(_summary(title, tuple(columns), scores, mine, baseline, tuple(_notes(tables, names))))
    return out


def _title(columns: Mapping[str, Column]) -> str:
    column = next(iter(columns.values()))
    return f"{column.protocol} {column.variant}".strip()


def _by_training(table: Table, label: str) -> Table:
    """The rows that rank in a column, called by what they were trained as; without those that share it."""
    ranked = matrix(table, [label])[0]
    rows = [r for r in table.rows if r.label in ranked]
    often = Counter(r.trained_as for r in rows)
    return replace(table, rows=tuple(replace(r, label=r.trained_as) for r in rows if often[r.trained_as] == 1))


def _notes(tables: Mapping[str, Table], names: Collection[str]) -> list[str]:
    """Methods that stand in every table by name and not by settings, and budgets where they differ."""
    compared = {data: [r for r in table.rows if r.label in names] for data, table in tables.items()}
    everywhere = set.intersection(*({r.method for r in table.rows} for table in tables.values()))
    out = []
    if left := sorted(everywhere - {r.method for rows in compared.values() for r in rows}):
        out.append(f"Left out, for objective or optimizer differ between the sets: {', '.join(left)}.")
    budgets = {data: sorted({r.budget for r in rows}) for data, rows in compared.items()}
    if len({tuple(b) for b in budgets.values()}) > 1:
        told = "; ".join(f"{data}: {' and '.join(b) or 'unknown'}" for data, b in budgets.items())
        out.append(f"Budgets differ between the sets. {told}.")
    return out


def _summary(
    protocol: str,
    data: tuple[str, ...],
    scores: np.ndarray,
    values: dict[str, list[np.ndarray]],
    baseline: str,
    notes: tuple[str, ...],
) -> Summary:
    """`scores` [data sets, methods]: higher is better; methods in the order of `values`."""
    names = list(values)
    found = ranking(names, scores)
    base = baseline if baseline in names else found.names[0]
    sign = 1 if np.allclose(scores[0], [v[0].mean() for v in values.values()]) else -1
    better = {n: improvement(*[[sign * x for x in values[m]] for m in (base, n)]) for n in found.names if n != base}
    means = {n: (iqm(values[n]), *iqm_interval(values[n])) for n in found.names}
    return Summary(protocol, data, found, means, base, wilcoxon(names, scores, base), better, notes)
