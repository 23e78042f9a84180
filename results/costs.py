"""What the runs of a row took, and where: times of several machines are never set side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from results.parts import Cost, Row
from results.records import Record
from results.rows import text_of


def cost(records: Sequence[Record]) -> Cost:
    """Mean over runs, each once. No time, speed or memory where they were not made on one machine in one precision."""
    runs: dict[str, dict[str, Any]] = {}
    for r in records:
        if r.compute["pretrain"]:
            runs[text_of([r.run, r.encoder["weights_sha256"], r.seeds["pretrain"]])] = r.compute["pretrain"]

    def mean(name: str) -> float | None:
        found = [v[name] for _, v in sorted(runs.items()) if isinstance(v.get(name), (int, float))]
        return float(np.mean(found)) if found else None

    machines = tuple(sorted({machine(leg) for v in runs.values() for leg in _legs(v)}))
    runs = {k: {**v, "seconds": _device_seconds(v)} if "seconds" in v else v for k, v in runs.items()}
    seconds = mean("seconds")  # of one device: two GPUs for an hour are two GPU-hours
    spent = [s for r in records if isinstance(s := r.compute["eval"].get("seconds"), (int, float))]
    alike = len(machines) < 2
    return Cost(
        flops=mean("flops"),
        hours=seconds / 3600 if seconds is not None and alike else None,
        images_per_second=mean("images_per_second") if alike else None,
        peak_memory_bytes=mean("peak_memory_bytes") if alike else None,
        machines=machines,
        eval_seconds=float(np.mean(sorted(spent))) if spent else None,
    )


def _legs(spent: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a run that went on on another machine, or the run itself."""
    return spent.get("legs") or [spent]


def _device_seconds(spent: dict[str, Any]) -> float:
    return sum(leg["seconds"] * leg.get("devices", 1) for leg in _legs(spent))


def machine(spent: dict[str, Any]) -> str:
    """What a run was made on, of its compute; "unknown" stands in it where the record does not say."""
    device = str(spent.get("device") or "unknown device")
    precision = str(spent.get("precision") or "unknown precision")
    names = [device, precision]
    if device.startswith("cpu"):  # a GPU's name says what it can do
        names.insert(1, str(spent.get("instructions") or "unknown instructions"))
    return ", ".join(names)


def side_by_side(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """The rows, with FLOPs alone unless all are known to come from one machine and precision; and what to say of it."""
    found = sorted({m for row in rows for m in row.cost.machines})
    if not found or (len(found) == 1 and "unknown" not in found[0]):
        return list(rows), []
    bare = [replace(row, cost=Cost(row.cost.flops, machines=row.cost.machines)) for row in rows]
    unsure = "are not known to be" if any("unknown" in m for m in found) else "are not"
    said = (
        f"Time, images/s and memory are left out: the runs {unsure} of one machine and precision ({'; '.join(found)})."
    )
    return bare, [said]
