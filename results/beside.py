"""What a record knows beside its headline and a reader has to see: a column of its own for each.

Controls are the headline again of test items without something (clips of one frame, `Kind.controls`). The protocol
`factors` has a number for every factor, so that what moves and what it looks like stand side by side on the same clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from results.records import Record

OF = ", "  # between a headline and its control: `top1, one frame`


def columns(records: Sequence[Record]) -> list[Record]:
    """The same records once more for each of these numbers, which is then their headline; without bits."""
    return [
        replace(r, headline=name, optimism={}, correct="", correct_sha256="")
        for r in records
        for name in r.metrics
        if name.startswith(f"{r.headline}{OF}") or (r.protocol == "factors" and name != r.headline)
    ]


def control(headline: str) -> bool:
    """Whether a number is one of items that lack something: it says what another one is worth, and ranks nobody."""
    return OF in headline
