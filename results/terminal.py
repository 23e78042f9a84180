"""A table on the terminal: as wide as there is room, and folded into several where there is not."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from results import answer
from results.cells import LEGEND, clean, cost_names, costs, headers, number, published_lines
from results.parts import Cell, Table
from ssl_bench.errors import spelled

LABEL_WIDTH = 36  # longer row labels are folded, and those longer than a quarter of the terminal


@dataclass(frozen=True)
class View:
    """For `Console.print`."""

    table: Table
    title: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(clean(self.title), style="bold")
        if (first := answer.column(self.table)) is not None:
            told = answer.sentence(self.table, first).replace("`", "")
            yield Text(spelled(clean(told), options.encoding))
        yield from self._tables(options.max_width, options.encoding)
        yield Text(LEGEND.replace("Bold:", "*:"), style="dim")
        yield from (Padding(Text(clean(n)), (0, 0, 0, 1)) for n in self.table.notes)
        yield from (Text(clean(p)) for p in published_lines(self.table))

    def _tables(self, width: int, encoding: str) -> Iterator[RichTable]:
        """The columns in as many tables as the width asks for, measured as `encoding` will show them."""
        spent = cost_names(self.table)
        names, *titles = (spelled(clean(h), encoding) for h in headers(self.table))
        rows = [
            [
                *(_cell(c, encoding) for c in row.cells),
                *(Text(spelled(c, encoding), style="dim") for c in costs(row.cost, spent)),
            ]
            for row in self.table.rows
        ]
        labels = [spelled(clean(row.label), encoding) for row in self.table.rows]
        most = min(LABEL_WIDTH, max(16, width // 4))
        label = min(most, max([len(names), *map(len, labels)]))
        widths = [3 + max([len(t), *(row[i].cell_len for row in rows)]) for i, t in enumerate(titles)]
        start, free = 0, width - label - 3
        costs_at = len(titles) if sum(widths) <= free else len(titles) - len(spent)  # not one of them on its own
        while start < len(titles):
            end, room, stop = start + 1, free - widths[start], costs_at if start < costs_at else len(titles)
            while end < stop and widths[end] <= room:
                room -= widths[end]
                end += 1
            yield self._one((names, *labels), most, titles[start:end], [row[start:end] for row in rows])
            start = end

    def _one(self, names: Sequence[str], most: int, titles: list[str], rows: list[list[Text]]) -> RichTable:
        out = RichTable(header_style="bold", pad_edge=False)
        out.add_column(names[0], overflow="fold", max_width=most)
        for title in titles:
            out.add_column(Text(title), justify="right", no_wrap=True)
        for i, (row, name, cells) in enumerate(zip(self.table.rows, names[1:], rows, strict=True)):
            if i and row.reference and not self.table.rows[i - 1].reference:
                out.add_section()
            out.add_row(Text(name, style="dim" if row.reference else "cyan"), *cells)
        return out


def _cell(cell: Cell | None, encoding: str) -> Text:
    if cell is None:
        return Text(spelled("–", encoding), style="dim")
    mark = " *" if cell.bold else "  "  # not by colour alone: the table is also piped into files
    style = "bold green" if cell.bold else "red" if cell.collapsed else ""
    return Text(spelled(number(cell), encoding) + mark, style=style)


def to_text(table: Table, width: int = 120) -> str:
    """The same without colours."""
    console = Console(width=width, file=io.StringIO(), color_system=None, legacy_windows=False)
    console.print(View(table))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().split("\n"))
