"""A table as Markdown, CSV, LaTeX and JSON. Every name may be hostile and is escaped here."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

from results.cells import LEGEND, clean, cost_names, costs, headers, number, published_lines
from results.parts import Cell, Table
from results.terminal import to_text


def markdown_escape(text: str) -> str:
    out = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for c in "\\|*_[]`":
        out = out.replace(c, "\\" + c)
    return out


def to_markdown(table: Table) -> str:
    titles = headers(table)
    lines = [line(markdown_escape(h) for h in titles), line([":--"] + ["--:"] * (len(titles) - 1))]
    for row in table.rows:
        name = markdown_escape(row.label)
        cells = ["–" if c is None else f"**{number(c)}**" if c.bold else number(c) for c in row.cells]
        lines.append(line([f"*{name}*" if row.reference else name, *cells, *costs(row.cost, cost_names(table))]))
    notes = [f"- {markdown_note(n)}" for n in table.notes]
    shown = [f"- {markdown_escape(p)}" for p in published_lines(table)]
    return "\n".join([*lines, "", LEGEND, "", *notes, *(["", *shown] if shown else [])]).rstrip() + "\n"


def markdown_note(note: str) -> str:
    """Names in backticks stay code; everything else is escaped."""
    parts = note.split("`")
    if len(parts) % 2 == 0:
        return markdown_escape(note)
    return "".join(f"`{clean(p).replace('|', '/')}`" if i % 2 else _escape_prose(p) for i, p in enumerate(parts))


def _escape_prose(text: str) -> str:
    """`markdown_escape` that keeps a space at either end."""
    return f"{' ' * text[:1].isspace()}{markdown_escape(text)}{' ' * (text[-1:].isspace() and bool(text.strip()))}"


def line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


LATEX = {
    **{c: "\\" + c for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$", "–": "--", "·": r"$\cdot$", "⚠": r"$^\dagger$"},
    **{"|": r"\textbar{}", '"': r"\textquotedbl{}", "×": r"$\times$", "\N{REPLACEMENT CHARACTER}": "?"},
}


def latex_escape(text: str) -> str:
    return "".join(LATEX.get(c, c) for c in clean(text))


def to_latex(table: Table) -> str:
    """A booktabs tabular; needs \\usepackage{booktabs}."""
    titles = [latex_escape(h) for h in headers(table)]
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{tabular}{l" + "r" * (len(titles) - 1) + "}",
        r"\toprule",
        " & ".join(titles) + r" \\",
        r"\midrule",
    ]
    for i, row in enumerate(table.rows):
        if i and row.reference and not table.rows[i - 1].reference:
            lines.append(r"\midrule")
        cells = ["--" if c is None else _latex_cell(c) for c in row.cells]
        lines.append(
            " & ".join([latex_escape(row.label), *cells, *map(_latex_cost, costs(row.cost, cost_names(table)))])
            + r" \\"
        )
    lines += [r"\bottomrule", r"\end{tabular}"]
    notes = [latex_escape(LEGEND), *[latex_escape(n.replace("`", "")) for n in table.notes]]
    return "\n".join([*lines, "", r"\smallskip", *[rf"{{\footnotesize {n}}}\par" for n in notes]]) + "\n"


def _latex_cell(cell: Cell) -> str:
    text = latex_escape(number(cell))
    return rf"\textbf{{{text}}}" if cell.bold else text


def _latex_cost(text: str) -> str:
    mantissa, power = text.split("e+") if "e+" in text else ("", "")
    return rf"${mantissa}\times10^{{{int(power)}}}$" if power else latex_escape(text)


def csv_safe(text: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    text = clean(text)
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def to_csv(*made: Table, titles: Sequence[str] = ()) -> str:
    """Tidy: one line per row and column of each table, numbers to ten digits; with `titles`, which table it is of.

    `column` and `fingerprint` part the columns that differ in a setting or in the images alone.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    fields = ["method", "label", "recipe", "overrides", "reference", "budget", "protocol", "variant", "version", "data"]
    fields += [
        "fingerprint",
        "headline",
        "column",
        "mean",
        "low",
        "high",
        "n",
        "interval_over",
        "best",
        "bold",
        "unclear",
        "collapsed",
        "normalised",
    ]
    fields += ["optimism", "flops", "hours", "images_per_second", "peak_memory_bytes", "machines"]
    writer.writerow([*fields, *(["table"] if titles else [])])
    named = zip(made, titles or ("",) * len(made), strict=True)
    for title, columns, row in [(title, table.columns, row) for table, title in named for row in table.rows]:
        names = [*map(csv_safe, (row.method, row.label, row.recipe, " ".join(row.overrides)))]
        for column, cell in zip(columns, row.cells, strict=True):
            if cell is None:
                continue
            where = [*map(csv_safe, (row.budget, column.protocol, column.variant)), column.version]
            where += [*map(csv_safe, (column.data, column.fingerprint, column.headline, column.label))]
            value = [
                cell.mean,
                cell.low,
                cell.high,
                cell.n,
                cell.over,
                cell.best,
                cell.bold,
                cell.unclear,
                cell.collapsed,
            ]
            c = row.cost
            spent = [c.flops, c.hours, c.images_per_second, c.peak_memory_bytes, csv_safe("; ".join(c.machines))]
            values = [*names, row.reference, *where, *value, cell.normalised, cell.optimism, *spent]
            values += [csv_safe(title)] if titles else []
            writer.writerow(["" if v is None else v for v in _settled(values)])
    return out.getvalue()


def to_dict(table: Table) -> dict[str, Any]:
    """Plain values: the table without the correctness bits."""
    rows = []
    for row in table.rows:
        cells = [None if c is None else _cell_dict(c) for c in row.cells]
        rows.append(
            {
                **_fields(row, "cells", "labels_seen", "network"),
                "cost": _fields(row.cost),
                "reference": row.reference,
                "cells": cells,
            }
        )
    return {
        "columns": [_fields(c, "key") for c in table.columns],
        "rows": rows,
        "pairs": [{**_fields(p, "result"), **_fields(p.result)} for p in table.pairs],
        "notes": list(table.notes),
        "published": list(table.published),
    }


def _cell_dict(cell: Cell) -> dict[str, Any]:
    return _fields(cell, "sample", "leading", "above")


def _fields(item: Any, *without: str) -> dict[str, Any]:
    return {f.name: getattr(item, f.name) for f in dataclasses.fields(item) if f.name not in without}


def to_json(table: Table | list[dict[str, Any]]) -> str:
    """A table, or several that are plain values already."""
    return (
        json.dumps(
            _settled(to_dict(table) if isinstance(table, Table) else table), indent=1, sort_keys=True, allow_nan=False
        )
        + "\n"
    )


def _settled(value: Any) -> Any:
    """Floats to ten digits, in nested plain values: the last bits of a sum differ between processors."""
    if isinstance(value, dict):
        return {k: _settled(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_settled(v) for v in value]
    return float(f"{value:.10g}") if isinstance(value, float) else value


RENDERERS: dict[str, Callable[[Table], str]] = {
    "terminal": to_text,
    "markdown": to_markdown,
    "csv": to_csv,
    "latex": to_latex,
    "json": to_json,
}
