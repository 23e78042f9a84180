"""Numbers published by others, shown beside measured ones and never mixed into their statistics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ssl_bench.errors import UserError
from ssl_bench.files import read_toml

FILE = Path(__file__).resolve().parent / "published.toml"
FIELDS = {
    **{"method": str, "architecture": str, "protocol": str, "data": str, "value": float, "metric": str, "source": str},
    **{"checked": bool, "note": str},
}


def load(path: Path = FILE) -> list[dict[str, Any]]:
    """Every entry, complete or refused, sorted by protocol, method and architecture."""
    tables = read_toml(path).get("published")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"'{path}' is not valid: it needs [[published]] tables.")
    out = [entry for table in tables for entry in _entries(table, path)]
    return sorted(
        out, key=lambda e: (e["data"], e["protocol"], e["method"], e["architecture"], e["source"], e["value"])
    )


def _entries(table: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """One table holds one source; its `rows` are [method, architecture, protocol, value] and, where needed, a note."""
    shared = {"data": "ImageNet-1k", "metric": "top-1 %", "note": "", **{k: v for k, v in table.items() if k != "rows"}}
    out = []
    rows = table.get("rows", [])
    if not isinstance(rows, list):
        raise UserError(f"'{path}': rows must be a list of rows, it is {rows!r:.80}.")
    for row in rows:
        names = ("method", "architecture", "protocol", "value", "note")
        entry = {**shared, **dict(zip(names, row if isinstance(row, list) else (), strict=False))}
        if type(entry.get("value")) is int:
            entry["value"] = float(entry["value"]) if abs(entry["value"]) < 1e6 else None
        wrong = [k for k, kind in FIELDS.items() if not isinstance(entry.get(k), kind)] + sorted(
            set(entry) - set(FIELDS)
        )
        if not wrong and not math.isfinite(entry["value"]):
            wrong = ["value"]
        if wrong:
            raise UserError(f"'{path}': the row {row!r:.200} has a wrong, missing or unknown {', '.join(wrong)}.")
        out.append(entry)
    return out
