"""Trials of a search: one JSON line each, also of those that failed, and what a method gained over its recipe.

Every number here was measured on validation images. None of it is a record, and none of it enters a table of records.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from results.records import sha
from results.statistics import Comparison, Sample, compare
from ssl_bench.errors import UserError
from ssl_bench.files import write_atomic
from ssl_bench.screen import quantity

SCHEMA = 1
FILE = Path("search") / "trials.jsonl"  # below a root, and below `results/`
FIELDS = (
    *("id", "method", "recipe", "trial", "purpose", "seed", "settings", "base", "space", "search_seed", "config"),
    *("run", "identity", "state", "reason", "validation", "score", "compute", "code", "versions", "created", "schema"),
)
STATES = ("finished", "collapsed", "failed")
PURPOSES = ("trial", "confirm")


@dataclass(frozen=True)
class Gain:
    """What the search found for one method; scores are means over the protocols, on validation images."""

    method: str
    trials: int
    bad: int  # collapsed or failed
    recipe: float | None  # score of trial 0
    best: float | None
    trial: int | None  # the number of the best
    settings: tuple[str, ...]
    flops: float  # all trials together

    @property
    def gain(self) -> float | None:
        return None if self.best is None or self.recipe is None else self.best - self.recipe


def make(**fields: Any) -> dict[str, Any]:
    """A complete line; its id is that of what was run and asked, so that the same trial again replaces the old."""
    fields |= {"schema": SCHEMA, "id": identify(fields)}
    if odd := set(fields) ^ set(FIELDS):
        raise ValueError(f"a trial has missing or unknown fields: {', '.join(sorted(odd))}")
    return fields


def identify(fields: dict[str, Any]) -> str:
    """Twenty hex digits over what was run and asked, images and protocols as they were included."""
    what = [fields[name] for name in ("identity", "purpose", "trial", "space", "search_seed")]
    asked = {p: [v.get(k) for k in ("version", "config", "fingerprint")] for p, v in fields["validation"].items()}
    return sha(json.dumps([*what, asked], sort_keys=True))[:20]


def score(validation: dict[str, Any]) -> float | None:
    """The mean over protocols, each turned so that higher is better; None where there is no figure."""
    signed = [v["value"] if v["higher_is_better"] else -v["value"] for v in validation.values()]
    return float(np.mean(signed)) if signed else None


def read(path: Path) -> list[dict[str, Any]]:
    """Every line of a file; [] where there is none."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    try:
        found = [json.loads(line) for line in lines]
    except ValueError as error:
        raise UserError(f"'{path}' is damaged: {error}. Restore it, or remove the line.") from None
    for line in found:
        if line.get("schema", SCHEMA + 1) > SCHEMA or set(line) != set(FIELDS):
            raise UserError(f"'{path}' holds a trial that this version cannot read.")
        line["id"] = identify(line)  # older lines were told apart by less
    return found


def add(path: Path, lines: Iterable[dict[str, Any]]) -> int:
    """Merge lines into a file by their id, the newer of two; returns how many are there now. Nothing is deleted."""
    lines = list(lines)
    if not lines and not path.exists():
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.parent / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = {line["id"]: line for line in sorted([*read(path), *lines], key=lambda line: line["created"])}
        ordered = sorted(kept.values(), key=lambda x: (x["method"], x["purpose"] != "trial", x["trial"], x["seed"]))
        text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in ordered)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_atomic(path, text)
    return len(kept)


def best(lines: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The trial with the highest score of those that finished without collapse; the earlier of equals."""
    able = [x for x in lines if x["purpose"] == "trial" and x["state"] == "finished" and x["score"] is not None]
    return max(able, key=lambda x: (x["score"], -x["trial"])) if able else None


def gain(method: str, lines: Sequence[dict[str, Any]]) -> Gain:
    """What the trials of one method say."""
    tried = [x for x in lines if x["purpose"] == "trial"]
    top = best(tried)
    first = next((x for x in tried if x["trial"] == 0), None)
    return Gain(
        method, len(tried), sum(x["state"] != "finished" for x in tried), first["score"] if first else None,
        top["score"] if top else None, top["trial"] if top else None, tuple(top["settings"]) if top else (),
        sum(x["compute"].get("flops", 0.0) for x in tried),
    )  # fmt: skip


def confirmed(lines: Sequence[dict[str, Any]], trial: int) -> Comparison | None:
    """The winner minus the recipe over fresh seeds, with a t-interval; None where either has no figure."""
    samples = []
    for number in (trial, 0):
        again = [x for x in lines if x["purpose"] == "confirm" and x["trial"] == number and x["score"] is not None]
        samples.append(Sample(np.array([x["score"] for x in sorted(again, key=lambda x: x["seed"])])))
    return compare(samples[0], samples[1]) if all(s.n for s in samples) else None


def row(g: Gain) -> list[str]:
    """What a table of a search shows: method, trials, bad, recipe, best, gain, FLOPs, settings of the best."""
    scores = ["" if x is None else f"{x:.2f}" for x in (g.recipe, g.best)]
    gained = "" if g.gain is None else f"{g.gain:+.2f}"
    settings = " ".join(g.settings) or ("the recipe as it is" if g.trial == 0 else "none finished")
    return [g.method, str(g.trials), str(g.bad), *scores, gained, quantity(g.flops), settings]
