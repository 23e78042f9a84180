"""Rows of a table that are not of the same code: what differs, and between which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from results import rows as grouping
from results.notes import first_few
from results.records import Record


def differing(records: Sequence[Record], rows: Mapping[str, str]) -> list[str]:
    """Which rows a module differs between that can change a number: of their training, and of one protocol's version.

    `rows`: the row of a record by its id. Records from before code was hashed say nothing, and that is said.
    """
    seen: dict[str, dict[str, set[str]]] = {}  # what -> digest -> rows
    known = 0
    for r in records:
        trained = r.code.get("training", {}).get("modules", {})
        known += bool(r.code.get("modules") and (trained or not r.run))
        parts = [("training", name, digest) for name, digest in trained.items()]
        own = r.method if "." in r.method else f"methods.{r.method}"
        parts = [(f"{kind} of v{grouping.version(r)}" if n == own else kind, n, d) for kind, n, d in parts]
        column = f"{r.protocol} v{r.protocol_version}" + f" on {r.data['name']}"
        parts += [(column, name, digest) for name, digest in r.code.get("modules", {}).items()]
        for kind, name, digest in parts:
            found = seen.setdefault(f"{name.replace('.', '/')}.py ({kind})", {})
            found.setdefault(digest, set()).add(rows.get(r.id, r.method))
    out = _parted({what: digests for what, digests in seen.items() if len(digests) > 1})
    if halves := sorted(
        {f"`{rows.get(r.id, r.method)}`" for r in records if r.code.get("training", {}).get("earlier")}
    ):
        out.append(f"Begun by one state of the code and gone on with by another: runs of {', '.join(halves)}.")
    if 0 < known < len(records):
        out.append(f"{len(records) - known} of {len(records)} records are from before code was hashed.")
    return out


def _parted(places: Mapping[str, Mapping[str, set[str]]]) -> list[str]:
    """How rows part by what differs; where they do in more than two ways, the groups of like code in one line.

    `places`: what differs -> digest -> rows. A row joins the first group that it is not known to differ from.
    """
    begin = "Not the same code behind all rows: "
    ways: dict[str, list[str]] = {}  # how the rows part -> what differs so
    for what, digests in places.items():
        sides = sorted(", ".join(f"`{label}`" for label in sorted(labels)) for labels in digests.values())
        ways.setdefault(" against ".join(sides), []).append(what)
    if len(ways) <= 2:
        return [f"{begin}{first_few(sorted(w))}: {sides}." for sides, w in sorted(ways.items())]
    states: dict[str, dict[str, set[str]]] = {}  # row -> what -> its digests
    for what, digests in places.items():
        for digest, labels in digests.items():
            for label in labels:
                states.setdefault(f"`{label}`", {}).setdefault(what, set()).add(digest)
    groups: list[tuple[dict[str, set[str]], list[str]]] = []
    for label, state in sorted(states.items()):
        for known, members in groups:
            if all(known.get(what, own) == own for what, own in state.items()):
                known.update(state)
                members.append(label)
                break
        else:
            groups.append((dict(state), [label]))
    files = sorted({what.partition(" (")[0] for what in places})
    several = [label for label, state in sorted(states.items()) if any(len(own) > 1 for own in state.values())]
    inside = f" The runs of {', '.join(several)} differ among themselves." if several else ""
    return [f"{begin}{first_few(files)}: {' against '.join(', '.join(m) for _, m in groups)}.{inside}"]
