"""Numbers published by others, shown beside measured ones and never mixed into their statistics."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from ssl_bench.errors import UserError

FILE = Path(__file__).resolve().parent / "published.toml"
FIELDS = {
    **{"method": str, "architecture": str, "protocol": str, "data": str, "value": float, "metric": str, "source": str},
    **{"checked": bool, "note": str},
}


def load(path: Path = FILE) -> list[dict[str, Any]]:
    """Every entry, complete or refused, sorted by protocol, method and architecture."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))["published"]
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise UserError(f"'{path}' is not valid: {error}.") from None
    out = [entry for table in tables for entry in _entries(table, path)]
    return sorted(
        out, key=lambda e: (e["data"], e["protocol"], e["method"], e["architecture"], e["source"], e["value"])
    )


def _entries(table: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """One table holds one source; its `rows` are [method, architecture, protocol, value] and, where needed, a note."""
    shared = {"data": "ImageNet-1k", "metric": "top-1 %", "note": "", **{k: v for k, v in table.items() if k != "rows"}}
    out = []
    for row in table.get("rows", []):
        names = ("method", "architecture", "protocol", "value", "note")
        entry = {**shared, **dict(zip(names, row, strict=False))}
        entry["value"] = float(entry["value"])
        wrong = [k for k, kind in FIELDS.items() if not isinstance(entry.get(k), kind)] + sorted(
            set(entry) - set(FIELDS)
        )
        if wrong:
            raise UserError(f"'{path}': the row {row} has a wrong, missing or unknown {', '.join(wrong)}.")
        out.append(entry)
    return out
