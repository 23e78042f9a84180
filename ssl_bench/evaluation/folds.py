"""A protocol run once for every official fold of a set, and the record of the mean over folds (ESC-50's way).

Each fold is evaluated like a set of its own, by `evaluate`, which keeps its record; nothing here opens a test split.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from results import records
from results.records import Record
from ssl_bench.config.schema import DataConfig
from ssl_bench.data import folds
from ssl_bench.data.dataset import open_data
from ssl_bench.encoders.encoder import Encoder
from ssl_bench.encoders.resolve import resolve
from ssl_bench.errors import UserError
from ssl_bench.evaluation.evaluate import evaluate_all
from ssl_bench.parallel import collectives

FEWER = re.compile(r" \((\d+)(-\d+)? per class\)")  # as `Predictor.true_names` has it
FILLED_IN = ("id", "schema", "correct", "correct_sha256", "created")  # by `records.make`
BALANCE: dict[str, Callable[[list[Any]], Any]] = {"majority": fmean, "test_classes": max, "imbalance": max}


def evaluate_folds(
    source: Encoder | str | None, names: Sequence[str], data: DataConfig, root: Path | str, seed: int = 0,
    overrides: Sequence[str] = (), device: str = "auto", tell: Callable[[str], None] | None = None,
) -> Iterator[Record]:  # fmt: skip
    """As `evaluate_all`, of a set named with `#folds=`: one record for each protocol, when all folds are done.

    `UserError` where the encoder was pretrained on rows of this set: they are test rows of other folds.
    """
    if collectives.world_size() > 1:
        raise UserError(f"The folds of '{data.name}' are evaluated by one process: leave out --devices.")
    parts = folds.each(data)
    root = Path(root)
    encoder = source if isinstance(source, Encoder) else resolve(source, root, seed, open_data(parts[0]))
    trained = str(encoder.pretrain_data.get("name", ""))
    if encoder.run and trained.partition("#")[0] == data.name.partition("#")[0]:
        raise UserError(
            f"'{encoder.run}' was pretrained on '{trained}', which has test rows of the folds of '{data.name}': "
            "evaluate an encoder that was pretrained on other data, or this one on the fold that it has not seen."
        )
    found: dict[tuple[str, str], list[Record]] = {}
    for part in parts:
        fold = part.name.rpartition(":")[2]
        said = (lambda name, fold=fold: tell(f"{name}, fold {fold}")) if tell else None
        for record in evaluate_all(encoder, names, part, root, seed, overrides, device, said):
            found.setdefault((record.protocol, record.variant), []).append(record)
    for each in found.values():
        record = mean(each, data.name)
        records.write(record, root / "records")
        yield record


def mean(each: Sequence[Record], name: str) -> Record:
    """One record of one protocol's records over the folds of the set `name`: every metric is the mean over folds.

    Its bits are those of all folds, one after another; none where folds differ in size, for the mean over folds is
    then not the share of these bits. What each fold had stands in `data.folds`.
    """
    each = _alike(each)
    first = each[0]
    labels = [r.data["name"].rpartition(":")[2] for r in each]
    found = [r.bits() for r in each]
    bits = [b for b in found if b is not None]
    alike = len(bits) == len(each) and len({len(b) for b in bits}) == 1
    fields = {k: v for k, v in asdict(first).items() if k not in FILLED_IN}
    shared = [k for k in first.metrics if all(k in r.metrics for r in each)]
    fields["metrics"] = {k: fmean(r.metrics[k] for r in each) for k in shared}
    fields["optimism"] = _optimism([r.optimism for r in each])
    fields["selected"], told = {}, {}
    for fold, r in zip(labels, each, strict=True):
        fields["selected"] |= {f"{k}, fold {fold}": v for k, v in r.selected.items()}
        told[fold] = {"fingerprint": r.data["fingerprint"], "num_test": r.data["num_test"], first.headline: r.value}
    fields["data"] = {**_data([r.data for r in each], name), "folds": told}
    spent = [r.compute["eval"] for r in each]
    total = {k: sum(s[k] for s in spent) for k in ("seconds", "feature_seconds")}
    peak = max(s["peak_memory_bytes"] for s in spent)
    fields["compute"] = {**first.compute, "eval": {**spent[0], **total, "peak_memory_bytes": peak}}
    return records.make(correct=np.concatenate(bits) if alike else None, **fields)


def _alike(each: Sequence[Record]) -> list[Record]:
    """The records with the same name for what one fold calls `shots10` and another, of fewer images, `shots10 (6 per
    class)`: the smallest number of all folds.
    """
    names: dict[str, set[str]] = {}  # without and with the images per class
    for r in each:
        for name in r.metrics:
            names.setdefault(FEWER.sub("", name), set()).add(name)
    told: dict[str, str] = {}
    for plain, seen in names.items():
        counts = [int(match[1]) for name in seen if (match := FEWER.search(name))]
        fewest = f" (as few as {min(counts)} per class)" if counts else ""
        mean = plain.removesuffix("_std") + fewest + "_std" * plain.endswith("_std")
        told |= dict.fromkeys(seen, mean if len(seen) > 1 else next(iter(seen)))
    return [replace(r, headline=told[r.headline], metrics={told[k]: v for k, v in r.metrics.items()}) for r in each]


def _optimism(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if not all(each):
        return {}
    means = {k: fmean(o[k] for o in each) for k in ("usual", "honest")}
    return {**means, "candidates": max(o["candidates"] for o in each)}


def _data(each: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Sizes of the training and validation part as a fold has them on average; test items of all folds together."""
    first = each[0]
    joined = hashlib.sha256(" ".join(d["fingerprint"] for d in each).encode()).hexdigest()[:16]
    sizes = {k: round(fmean(d[k] for d in each)) for k in ("num_train", "num_val")}
    balance = {k: f([d[k] for d in each]) for k, f in BALANCE.items() if k in first}
    twins = [d["twins"] for d in each if d.get("twins")]
    known = [t["count"] for t in twins]
    seen = {"pretrain": twins[0]["pretrain"], "count": None, "share": None} if twins else {}
    test = sum(d["num_test"] for d in each)
    if twins and None not in known:
        seen |= {"count": sum(known), "share": round(100 * sum(known) / test, 3)}
    return {**first, "name": name, "fingerprint": joined, **sizes, **balance, "num_test": test, "twins": seen}
