"""A table on the terminal: as wide as there is room, and folded into several where there is not."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from results.cells import COSTS, LEGEND, clean, costs, headers, number, published_lines
from results.parts import Cell, Table

LABEL_WIDTH = 36  # longer row labels are folded, and those longer than a quarter of the terminal


@dataclass(frozen=True)
class View:
    """For `Console.print`."""

    table: Table
    title: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(clean(self.title), style="bold")
        yield from self._tables(options.max_width)
        yield Text(LEGEND.replace("Bold:", "*:"), style="dim")
        yield from (Padding(Text(clean(n)), (0, 0, 0, 1)) for n in self.table.notes)
        yield from (Text(clean(p)) for p in published_lines(self.table))

    def _tables(self, width: int) -> Iterator[RichTable]:
        """The columns in as many tables as the width asks for."""
        names, *titles = headers(self.table)
        rows = [[*map(_cell, row.cells), *(Text(c, style="dim") for c in costs(row.cost))] for row in self.table.rows]
        most = min(LABEL_WIDTH, max(16, width // 4))
        label = min(most, max([len(names), *(len(clean(r.label)) for r in self.table.rows)]))
        widths = [3 + max([len(clean(t)), *(row[i].cell_len for row in rows)]) for i, t in enumerate(titles)]
        start, free = 0, width - label - 3
        costs_at = len(titles) if sum(widths) <= free else len(titles) - len(COSTS)  # not one of them on its own
        while start < len(titles):
            end, room, stop = start + 1, free - widths[start], costs_at if start < costs_at else len(titles)
            while end < stop and widths[end] <= room:
                room -= widths[end]
                end += 1
            yield self._one(names, most, titles[start:end], [row[start:end] for row in rows])
            start = end

    def _one(self, names: str, most: int, titles: list[str], rows: list[list[Text]]) -> RichTable:
        out = RichTable(header_style="bold", pad_edge=False)
        out.add_column(names, overflow="fold", max_width=most)
        for title in titles:
            out.add_column(Text(clean(title)), justify="right", no_wrap=True)
        for i, (row, cells) in enumerate(zip(self.table.rows, rows, strict=True)):
            if i and row.reference and not self.table.rows[i - 1].reference:
                out.add_section()
            out.add_row(Text(clean(row.label), style="dim" if row.reference else "cyan"), *cells)
        return out


def _cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text("–", style="dim")
    mark = " *" if cell.tied else "  "  # not by colour alone: the table is also piped into files
    return Text(number(cell) + mark, style="bold green" if cell.tied else "red" if cell.collapsed else "")


def to_text(table: Table, width: int = 120) -> str:
    """The same without colours."""
    console = Console(width=width, file=io.StringIO(), color_system=None, legacy_windows=False)
    console.print(View(table))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().split("\n"))
