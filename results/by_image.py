"""What records keep of every test image, compared image by image: notes of tables whose headline has no such parts.

An mIoU is of the pixels of all images together, so no image has a share in it. The mean of the images' own mIoU is
another number, close to what a viewer of the maps judges by; in it seeds and images both count, and images are paired.
"""

from __future__ import annotations

from collections.abc import Sequence

from results.parts import Column
from results.rows import Group, column_key
from results.samples import BY_IMAGE, by_image
from results.statistics import LEVEL, candidates, compare_all, compare_with, share


def notes(groups: Sequence[Group], columns: Sequence[Column]) -> list[str]:
    """A sentence for each column with several methods of several seeds."""
    return [said for column in columns for name in BY_IMAGE if (said := _note(groups, column, name))]


def _note(groups: Sequence[Group], column: Column, name: str) -> str:
    pairs = ((g, by_image([r for r in g.records if column_key(r) == column.key], name)) for g in groups)
    found = {g.label: s for g, s in pairs if s is not None}
    methods = {g.label: found[g.label] for g in groups if not g.reference and g.label in found}
    methods = {label: s for label, s in methods.items() if s.n > 1}
    shared = share(found.values())
    best, leading = candidates(methods, compare_all(methods, shared), column.higher)
    if best is None:
        return ""
    means = {label: f"`{label}` {s.values.mean():.3g}" for label, s in found.items()}
    out = f"In {column.label}, by {BY_IMAGE[name]}, images paired: {means[best]} leads"
    if others := sorted(leading - {best}):
        out += f"; may be as good: {', '.join(means[other] for other in others)}"
    for floor in (g.label for g in groups if g.method == "random" and g.label in found and found[g.label].n > 1):
        against = compare_with(methods, found[floor], shared).items()
        told = {k: c.difference for k, c in against if c.p_holm is not None and c.p_holm <= 1 - LEVEL}
        better = [means[k] for k, gain in told.items() if (gain > 0) == column.higher]
        sides = {"better": better, "worse": [means[k] for k in told if means[k] not in better]}
        parts = [f"surely {side} {', '.join(names)}" for side, names in sides.items() if names]
        out += f"; {means[floor]}, {' and '.join(parts) if parts else 'which none can be told from'}"
    return f"{out}."
