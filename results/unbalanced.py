"""Where test classes differ much in size: balanced accuracy, and what always answering the largest class scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from results.parts import BALANCED
from results.records import Record, accuracy

IMBALANCED = 1.5  # from where on they are: images of the largest test class for one of the smallest


def unbalanced(r: Record) -> bool:
    """Whether its test classes differ so much in size that accuracy alone misleads; older records do not say.

    `imbalance` is of the classes that have test images, 1 where all are of one: a class without any differs from these.
    """
    absent = r.data.get("test_classes", r.data["num_classes"]) < r.data["num_classes"]
    return absent or float(r.data.get("imbalance") or 1) > IMBALANCED


def balanced(records: Sequence[Record]) -> list[Record]:
    """Of accuracies on unbalanced classes, the balanced ones, for a column of their own."""
    wanted = [r for r in records if accuracy(r.headline) and unbalanced(r) and BALANCED in r.metrics]
    return [replace(r, headline=BALANCED, optimism={}, correct="", correct_sha256="") for r in wanted]


def majority(records: Sequence[Record]) -> float | None:
    """What always answering the largest training class scores in the column of these records, or None."""
    r = next((r for r in records if unbalanced(r) and {"majority", "test_classes"} <= r.data.keys()), None)
    if r is None:
        return None
    if r.headline == BALANCED:
        return 100 / max(1, r.data["test_classes"]) if r.data["majority"] else 0.0
    every = not r.protocol_config.get("ways")  # of some classes another is the largest
    return float(r.data["majority"]) if accuracy(r.headline) or (r.protocol == "lowshot" and every) else None
