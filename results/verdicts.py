"""Claims and their verdicts: a statement from a small TOML file, judged from records.

Each expectation is a difference of two means with its interval (statistics.compare: seeds and test images). A claim
holds where every expectation holds, each at 95 % (all of them must pass: no correction is needed). It does not hold
where one of them fails, at 95 % over all of them together (Bonferroni). Otherwise this budget cannot tell; under three
seeds nothing is judged. What is predicted, and what would falsify it, stands in the file before the first run:
`mark` is the hash of what it says.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from results import samples
from results.records import Record
from results.statistics import LEVEL, Sample, compare
from ssl_bench.errors import UserError, nearest

FOLDER = Path(__file__).resolve().parent / "claims"
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot tell at this budget"
FEW, SEEDS = "insufficient", 3  # under so many seeds


@dataclass(frozen=True)
class Arm:
    """One thing compared: a method with settings, on its share of the budget."""

    method: str
    settings: tuple[str, ...] = ()
    recipe: str = ""  # "": the claim's
    compute: float = 1.0  # times the recipe's FLOPs
    reported: float | None = None  # what the source says
    measure: str = ""  # of this arm, in place of the claim's: arms that differ in how a run is used


@dataclass(frozen=True)
class Expectation:
    """`better` beats each of `than` by more than `by` points in each of `measure`; or every run of `collapses` does.

    Both numbers are differences in points, or percent of the runs that collapse.
    """

    predicted: float  # the size that is expected
    falsified_below: float  # a size that surely lies below this falsifies it
    better: tuple[str, ...] = ()
    than: tuple[str, ...] = ()
    by: float = 0.0
    measure: tuple[str, ...] = ()  # (): the claim's
    collapses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A statement that people make, and what would have to be measured for it."""

    name: str
    statement: str
    source: str
    measure: tuple[str, ...]  # protocol[:variant][.metric], or the difference of two: "attentive - linear"
    arms: Mapping[str, Arm]
    expect: tuple[Expectation, ...]
    recipe: str = "quick"
    settings: tuple[str, ...] = ()  # of every arm
    mark: str = ""  # of what its file says
    known: str = ""  # results that were known when the sizes were written: such a claim predicts nothing
    note: str = ""

    @property
    def measures(self) -> list[str]:
        """All of them, once each."""
        return list(dict.fromkeys(m for e in self.expect for m in (e.measure or self.measure)))

    @property
    def protocols(self) -> list[str]:
        """What its arms have to be evaluated by."""
        return list(dict.fromkeys(protocol for name in self.arms for protocol in self.needed(name)))

    def needed(self, arm: str) -> list[str]:
        """What this arm has to be evaluated by."""
        own = self.arms[arm].measure
        return list(dict.fromkeys(protocol for m in ([own] if own else self.measures) for protocol, _ in terms(m)))


@dataclass(frozen=True)
class Outcome:
    """One expectation, or one pair of it, judged."""

    what: str
    verdict: str
    difference: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    seeds: tuple[int, int] = (0, 0)
    reported: float | None = None  # the difference that the source gives
    values: Mapping[str, list[float]] = field(default_factory=dict)
    predicted: float | None = None  # the size that the claim's file expects


def terms(measure: str) -> list[tuple[str, str]]:
    """[(protocol, metric or "" for the headline)]: one, or two of which the second is subtracted."""
    parts = [part.strip() for part in measure.split(" - ")]
    if not 1 <= len(parts) <= 2 or not all(parts):
        raise UserError(
            f"The measure '{measure}' is not clear: write linear, factors.position or 'attentive - linear'."
        )
    return [(p.partition(".")[0], p.partition(".")[2]) for p in parts]


def load(path: Path) -> Claim:
    """A claim from its file, complete or refused."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        arms = {name: _made(Arm, arm, f"arm '{name}'") for name, arm in values["arms"].items()}
        if any(not {"predicted", "falsified_below"} <= set(e) for e in values["expect"]):
            raise UserError(
                "each [[expect]] needs predicted, the size it expects, and falsified_below, the size below which it "
                "is false, in points: both are written before the first run."
            )
        expect = tuple(_made(Expectation, e, "an expectation") for e in values["expect"])
        if odd := next((e for e in expect if not e.falsified_below <= e.predicted), None):
            raise UserError(f"predicted={odd.predicted:g} lies below falsified_below={odd.falsified_below:g}.")
        said = json.dumps(values, sort_keys=True, default=str)
        values |= {"name": path.stem, "mark": hashlib.sha256(said.encode()).hexdigest()[:16]}
        claim = _made(Claim, values | {"arms": arms, "expect": expect}, "the claim")
        named = {name for e in claim.expect for name in (*e.better, *e.than, *e.collapses)}
        if odd := sorted(named - set(arms)):
            raise UserError(f"there is no arm '{odd[0]}'. {nearest(odd[0], arms)}")
        if not all(bool(e.collapses) != bool(e.better and e.than) for e in claim.expect) or not claim.expect:
            raise UserError("each [[expect]] needs better and than, or collapses.")
        for measure in (*claim.measures, *(arm.measure for arm in claim.arms.values() if arm.measure)):
            terms(measure)
    except (OSError, tomllib.TOMLDecodeError, KeyError, AttributeError, TypeError, UserError) as error:
        raise UserError(f"'{path}' is not a valid claim: {error}") from None
    return claim


def _made(cls: Any, values: dict[str, Any], where: str) -> Any:
    """A dataclass from TOML's values; one text may stand for a list of one."""
    known = {f.name: str(f.type) for f in fields(cls)}
    if odd := sorted(set(values) - set(known)):
        raise UserError(f"{where} has an unknown field '{odd[0]}'. {nearest(odd[0], known)}")
    lists = {k: (v,) if isinstance(v, str) else tuple(v) for k, v in values.items() if known[k] == "tuple[str, ...]"}
    return cls(**{**values, **lists})


def _numbers(record: Record) -> dict[str, float]:
    """What can be measured of a record: its metrics, and the numbers kept beside them (`seconds_far` of plan)."""
    more = {k: v for k, v in record.selected.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    return {**more, **record.metrics}


def sample(records: Iterable[Record], measure: str) -> Sample | None:
    """One value per pretraining seed, with correctness bits where the measure is one protocol's headline, and with each
    image's value where it is the mean of what records keep of every image.
    """
    found = list(records)
    parts = []
    for protocol, metric in terms(measure):
        mine = [r for r in found if protocol == r.protocol + (f":{r.variant}" if r.variant else "")]
        if not mine:
            return None
        if metric in samples.BY_IMAGE and len(terms(measure)) == 1:
            return samples.by_image(mine, metric)
        if absent := next((r for r in mine if metric and metric not in _numbers(r)), None):
            known = [*_numbers(absent), *(name for name in samples.BY_IMAGE if name in absent.data)]
            raise UserError(f"Protocol '{protocol}' has no metric '{metric}'. {nearest(metric, known)}")
        parts.append((mine, metric))
    if len(parts) == 1 and parts[0][1] in ("", parts[0][0][0].headline):
        return samples.sample(parts[0][0])[0]
    by_seed = [samples.by_seed(mine, "pretrain", _measured(metric)) for mine, metric in parts]
    seeds = sorted(set.intersection(*(set(values) for values in by_seed)))
    signs = (1, -1)
    return Sample(np.array([sum(k * v[seed] for k, v in zip(signs, by_seed, strict=False)) for seed in seeds]))


def _measured(metric: str) -> Callable[[Record], float]:
    """A metric of a record; "" is its headline."""
    return lambda r: _numbers(r)[metric or r.headline]


def verdict(low: float | None, high: float | None, by: float, falsified_below: float) -> str:
    """Of an interval of the difference."""
    if low is None or high is None:
        return OPEN
    if low > by:
        return HOLDS
    return FAILS if high < falsified_below else OPEN


def judge(claim: Claim, found: Mapping[str, Sequence[Record]]) -> list[Outcome]:
    """Every expectation, pair by pair; `found` holds each arm's records."""
    out: list[Outcome] = [_collapse(name, found[name], e) for e in claim.expect for name in e.collapses]
    pairs = [(e, m, a, b) for e in claim.expect for m in (e.measure or claim.measure) for a in e.better for b in e.than]
    return out + [_pair(claim, found, pair, len(pairs) + len(out)) for pair in pairs]


def _pair(
    claim: Claim, found: Mapping[str, Sequence[Record]], pair: tuple[Expectation, str, str, str], family: int
) -> Outcome:
    expected, measure, a, b = pair
    own = [claim.arms[name].measure for name in (a, b)]
    both = [sample(found[name], mine or measure) for name, mine in zip((a, b), own, strict=True)]
    titles = [f"{name} ({mine or measure})" for name, mine in zip((a, b), own, strict=True)]
    what = f"{titles[0]} > {titles[1]}" if any(own) else f"{measure}: {a} > {b}"
    what += f" {expected.by:+g}" if expected.by else ""
    reported = [claim.arms[name].reported for name in (a, b)]
    said = reported[0] - reported[1] if reported[0] is not None and reported[1] is not None else None
    if both[0] is None or both[1] is None or not (both[0].n and both[1].n):
        return Outcome(what, FEW, None, reported=said, predicted=expected.predicted)
    usual = compare(both[0], both[1])
    wide = compare(both[0], both[1], 1 - (1 - LEVEL) / family)
    counts = (both[0].n, both[1].n)
    decided = verdict(usual.low, usual.high, expected.by, expected.falsified_below)
    if decided == FAILS:  # failing one of many: corrected for their number
        decided = verdict(wide.low, wide.high, expected.by, expected.falsified_below)
    decided = FEW if min(counts) < SEEDS else decided
    values = {name: [round(float(v), 4) for v in s.values] for name, s in zip((a, b), both, strict=True) if s}
    measured = (usual.difference, usual.low, usual.high, usual.p, counts, said, values)
    return Outcome(what, decided, *measured, expected.predicted)


def _collapse(name: str, records: Sequence[Record], expected: Expectation) -> Outcome:
    """In percent of the runs; decided where the exact (Clopper-Pearson) interval leaves out half: six alike."""
    flags = list({r.run: bool(r.collapse["flag"]) for r in records}.values())
    if not flags:
        return Outcome(f"{name} collapses", FEW, None, predicted=expected.predicted)
    found = stats.binomtest(sum(flags), len(flags)).proportion_ci(LEVEL)
    decided = HOLDS if found.low > 0.5 else FAILS if 100 * found.high < expected.falsified_below else OPEN
    decided = FEW if len(flags) < SEEDS else decided
    share = 100 * sum(flags) / len(flags)
    return Outcome(
        f"{name} collapses (% of runs)",
        decided,
        share,
        100 * found.low,
        100 * found.high,
        seeds=(len(flags), 0),
        predicted=expected.predicted,
    )


def overall(outcomes: Sequence[Outcome]) -> str:
    """Of the claim."""
    said = {o.verdict for o in outcomes}
    return FAILS if FAILS in said else HOLDS if said == {HOLDS} else FEW if FEW in said else OPEN
