"""From the records of a row in a column to what statistics work on: each seed's value, and what is known of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from results.records import Record
from results.rows import text_of
from results.statistics import Sample

BY_IMAGE = {  # kept of every test item; None where it has none
    "image_miou": "each image's own mIoU", "clip_epe": "each clip's own error",
}  # fmt: skip


def units(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each pretraining seed, which differ in the seeds of probe and split alone."""
    found: dict[str, list[Record]] = {}
    for r in records:
        found.setdefault(r.encoder["weights_sha256"] or text_of(r.seeds["pretrain"]), []).append(r)
    return sorted(found.values(), key=lambda u: (text_of(u[0].seeds["pretrain"]), u[0].id))


def sample(records: Sequence[Record]) -> tuple[Sample, dict[str, float], list[Record]]:
    """One value per pretraining seed (probe and split seeds averaged within), the spreads, one record per seed."""
    members = units(records)
    values = np.array([np.mean([r.value for r in unit]) for unit in members])
    bits = known = None
    if all(r.correct for r in records) and len({r.data["num_test"] for r in records}) == 1:
        bits = np.array([np.mean([b for r in unit if (b := r.bits()) is not None], axis=0) for unit in members])
    if len(records) == 1:
        ends = [records[0].metrics.get(f"{records[0].headline}_{end}") for end in ("low", "high")]
        known = (ends[0], ends[1]) if ends[0] is not None and ends[1] is not None else None
    spread = {"pretrain": float(values.std(ddof=1))} if len(values) > 1 else {}
    for name in ("probe", "split"):
        inside = [np.std(v, ddof=1) for unit in members if len(v := [*by_seed(unit, name).values()]) > 1]
        if inside:
            spread[name] = float(np.sqrt(np.mean(np.square(inside))))
    return Sample(values, bits, _fixed(records), known=known), spread, [unit[0] for unit in members]


def by_image(records: Sequence[Record], name: str) -> Sample | None:
    """The mean over images of what records keep of each as `name`, with the images' values for tests that pair them.

    It is another number than the headline, which is of the pixels of all images together. None where a record lacks it,
    or where records are of different images.
    """
    kept = {r.id: np.array(found, float) for r in records if isinstance(found := r.data.get(name), list)}  # None: NaN
    known = {tuple(~np.isnan(values)) for values in kept.values()}
    if not kept or len(kept) < len({r.id for r in records}) or len(known) > 1 or not any(mask := known.pop()):
        return None
    rows = {key: values[list(mask)] / 100 for key, values in kept.items()}
    shares = np.array([np.mean([rows[r.id] for r in unit], axis=0) for unit in units(records)])
    return Sample(100 * shares.mean(axis=1), shares, _fixed(records), graded=True)


def _fixed(records: Sequence[Record]) -> bool:
    return all(r.seeds["pretrain"] is None for r in records)


def by_seed(
    records: Sequence[Record], name: str, value: Callable[[Record], float] = lambda r: r.value
) -> dict[str, float]:
    """The mean of a value, the headline where no other is asked for, over the records of each seed `name`, in order."""
    found: dict[str, list[float]] = {}
    for r in records:
        found.setdefault(text_of(r.seeds[name]), []).append(value(r))
    return {seed: float(np.mean(v)) for seed, v in sorted(found.items())}
