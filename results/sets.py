"""Which records are compared in one table: of the same images, under one budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from results.parts import UNTRAINED
from results.records import Record
from results.rows import budget, column_key

ELSEWHERE = "trained elsewhere"  # stands for the budget of networks that this harness did not train


def one_name(records: Sequence[Record]) -> list[Record]:
    """The same with one name for the same images, that of most of them, of equal ones the shortest.

    A folder by its full path, or a copy of a set, is no other set; films in other views (`#views=`) are another reading
    of it, with a column of their own. `data.also` has the names that are not shown.
    """

    def images(r: Record) -> tuple[str, ...]:
        return r.data["fingerprint"], *(part for part in r.data["name"].split("#") if part.startswith("views="))

    names: dict[tuple[str, ...], Counter[str]] = {}
    for r in records:
        names.setdefault(images(r), Counter())[r.data["name"]] += 1
    shown = {key: min(found, key=lambda n: (-found[n], len(n), n)) for key, found in names.items()}

    def named(r: Record) -> Record:
        name = shown[key := images(r)]
        return replace(r, data={**r.data, "name": name, "also": sorted({*names[key]} - {name})})

    return [r if len(names[images(r)]) == 1 else named(r) for r in records]


def by_data(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records per data set name."""
    out: dict[str, list[Record]] = {}
    for record in records:
        out.setdefault(str(record.data["name"]), []).append(record)
    return out


def by_budget(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records per budget, that of the most records first; what was not trained joins each: see `compared`.

    Networks that others trained, under whatever budget, are compared with each other.
    """
    out: dict[str, list[Record]] = {}
    for record in records:
        name = "" if record.method in UNTRAINED else budget(record.config) or ELSEWHERE
        out.setdefault(name, []).append(record)
    free = out.pop("", [])
    trained = sorted(out.items(), key=lambda item: (item[0] == ELSEWHERE, -len(item[1]), item[0]))
    return {name: [*members, *free] for name, members in trained} or {"": free}


def compared(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """What one table shows, and what it leaves out: of what was not trained, the columns that no trained row has.

    References measured for one budget would else fill the table of another with columns of their own.
    """
    columns = {column_key(r) for r in records if r.method not in UNTRAINED}
    shown = [r for r in records if not columns or column_key(r) in columns]
    return shown, [r for r in records if columns and column_key(r) not in columns]


def by_table(records: Sequence[Record]) -> dict[str, dict[str, list[Record]]]:
    """Per data set and budget what one table compares, of the committed tables as of the page."""
    return {name: by_budget(members) for name, members in sorted(by_data(one_name(records)).items())}


def by_title(records: Sequence[Record]) -> dict[str, list[Record]]:
    """What `report` prints: a table per data set and budget, but sets that share runs in one, as in `together`."""
    out: dict[str, list[Record]] = {}
    for name, members in sorted(together(records).items()):
        budgets = by_budget(members)
        out |= {f"{name} · {budget}" if len(budgets) > 1 else name: equal for budget, equal in budgets.items()}
    return out


def together(records: Sequence[Record]) -> dict[str, list[Record]]:
    """As `by_data`, but sets on which the same trained run was evaluated share one table, with columns for each."""
    found: list[tuple[list[str], set[str], list[Record]]] = []
    for name, members in sorted(by_data(one_name(records)).items()):
        names, trained, rows = [name], {r.run for r in members if r.run}, list(members)
        for other in [o for o in found if o[1] & trained]:
            found.remove(other)
            names, trained, rows = other[0] + names, other[1] | trained, other[2] + rows
        found.append((names, trained, rows))
    return {", ".join(sorted(names)): rows for names, _, rows in found}
