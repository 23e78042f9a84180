"""What a cell, a cost and a header say, the same in every format."""

from __future__ import annotations

from collections.abc import Sequence

from results.parts import Cell, Cost, Table

COSTS = ("FLOPs", "time", "images/s", "memory")
LEGEND = (
    "Mean ± half-width of the 95 % interval over pretraining seeds (n) and test images; of one run [low, high], over "
    "images alone. Bold: may be the best (95 %: the true best is among these) and surely above random (5 %, Holm); "
    "it does not say that these are equal. ~: not told from random. ⚠: collapsed runs in the mean."
)


def clean(text: str) -> str:
    """One line of printable characters: no newline, no terminal escape, no text direction tricks."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def number(cell: Cell) -> str:
    """`41.2 ± 2.5 (3)` or, with one seed, `41.2 [38.2, 44.3] (1)`; marks behind it, but for bold."""
    flag, mean = " ~" * cell.unclear + " ⚠" * bool(cell.collapsed), written(cell.mean)
    if not cell.n:
        return mean
    if cell.low is None or cell.high is None:
        return f"{mean} ({cell.n}){flag}"
    if cell.over == "images":
        return f"{mean} [{written(cell.low, cell.mean)}, {written(cell.high, cell.mean)}] ({cell.n}){flag}"
    return f"{mean} ± {written(cell.high - cell.mean, cell.mean)} ({cell.n}){flag}"


def written(value: float, mean: float | None = None) -> str:
    """With one digit behind the point, two where the mean is below 2: errors in pixels differ there."""
    return f"{value:.{1 if abs(value if mean is None else mean) >= 2 else 2}f}"


def duration(hours: float) -> str:
    seconds = hours * 3600
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if hours < 1 else f"{hours:,.1f} h"


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:  # 999.6 MB would print as 1e+03
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def cost_names(table: Table) -> tuple[str, ...]:
    """The columns of compute, of those in which a row shows something."""
    found = [costs(r.cost) for r in table.rows]
    return tuple(name for i, name in enumerate(COSTS) if any(texts[i] != "–" for texts in found))


def costs(cost: Cost, shown: Sequence[str] = COSTS) -> list[str]:
    """The compute cells of a row, of those that are shown."""
    device = " CPU" if "".join(cost.machines[:1]).startswith("cpu") else " GPU" if cost.machines else ""
    texts = (
        "–" if cost.flops is None else f"{cost.flops:.2e}",
        "–" if cost.hours is None else duration(cost.hours) + device,
        "–" if cost.images_per_second is None else f"{cost.images_per_second:,.0f}",
        "–" if cost.peak_memory_bytes is None else size(cost.peak_memory_bytes),
    )
    return [text for name, text in zip(COSTS, texts, strict=True) if name in shown]


def headers(table: Table) -> list[str]:
    told = [c.headline == "top1" or c.label.endswith(f" {c.headline}") for c in table.columns]
    units = [c.label if known else f"{c.label} ({c.headline})" for c, known in zip(table.columns, told, strict=True)]
    return ["method", *units, *cost_names(table)]


def published_lines(table: Table) -> Sequence[str]:
    """Published numbers as lines of their own, never in the table's cells."""
    if not table.published:
        return []
    lines = [
        f"{p['method']} {p['architecture']}, {p['protocol']}, {p['data']}: {p['value']} ({p['source']})"
        for p in table.published
    ]
    return ["Published by others, other protocols and budgets:", *lines]
