"""Writes what the documentation says of files from the files themselves: `python tests/write_tree.py`.

The tree of README.md, from the first sentence of every wing; its table, from the records in results/; and the
README of methods/ and of protocols/.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
import textwrap
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
SHOWN = ("ijepa", "mae", "dino", "simclr", "supervised", "random", "pixels")  # rows of README's table, where measured
COLUMNS = ("knn", "linear", "attentive", "lowshot")
WINGS = (  # from the highest to the lowest: each uses those below it
    "cli", "experiments", "evaluation", "encoders", "training", "views", "models", "data", "parallel", "config",
)  # fmt: skip
GROUND = "errors, files, find, rng, screen"
MARK = "<!-- written by tests/write_tree.py from results/records -->\n"


def phrase(path: Path) -> str:
    """The first sentence of a module's docstring, without the name that a method or protocol starts it with."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    text = text.partition(": ")[2] if path.parent.name in ("methods", "protocols") and ": " in text else text
    text = re.split(r"\.(?: |$)", text)[0]
    text = text if len(text) <= 96 else re.split(r"[,;:](?=[^,;:]*$)", text[:96])[0]
    return text.rpartition(" (")[0] if text.count("(") > text.count(")") else text


def tree(readme: str) -> str:
    """README with the wings listed below `ssl_bench/`, from their docstrings; the folders' own lines are kept."""
    before, block, after = readme.partition("\nssl_bench/  ")
    lines = []
    for line in (block.strip("\n") + after.partition("\n```")[0]).splitlines():
        if line.startswith("  "):
            continue
        lines.append(line)
        if line.startswith("ssl_bench/"):
            lines += [f"  {wing + '/':<20}  {phrase(HOME / 'ssl_bench' / wing / '__init__.py')}" for wing in WINGS]
            lines.append(f"  {'*.py':<20}  the ground, used by every wing: {GROUND}")
    return before + "\n" + "\n".join(lines) + "\n```" + after.partition("\n```")[2]


def measured(readme: str) -> str:
    """README with the first lines of the reference table behind MARK, up to the next heading."""
    from results import cells, records, render, tables
    from results.sets import by_budget

    before, _, after = readme.partition(MARK)
    name = "clothing48"
    found = records.read(HOME / "results" / "records" / f"{name}.jsonl")
    latest = {r.protocol: max(x.protocol_version for x in found if x.protocol == r.protocol) for r in found}
    latest = {name: latest[name] for name in COLUMNS}
    equal = next(iter(by_budget([r for r in found if latest.get(r.protocol) == r.protocol_version]).values()))
    table, data = tables.build(equal), found[0].data
    rows = []
    for method in SHOWN:  # of several settings of a method the one with the most seeds
        able = [row for row in table.rows if row.method == method and any(row.cells)]
        most = sorted(able, key=lambda row: (-sum(c.n for c in row.cells if c is not None), row.label))[:1]
        rows += most
    filled = [sum(row.cells[i] is not None for row in rows) for i in range(len(table.columns))]
    kept = [i for i, c in enumerate(table.columns) if 2 * filled[i] > len(rows) and "balanced" not in c.label]
    rows = [dataclasses.replace(row, cells=tuple(row.cells[i] for i in kept)) for row in rows]
    columns = tuple(table.columns[i] for i in kept)
    lines = render.to_markdown(dataclasses.replace(table, rows=tuple(rows), columns=columns)).splitlines()
    trained = [row for row in rows if row.budget]
    counts = [c.n for row in trained for c in row.cells if c is not None]
    seeds = " to ".join(str(n) for n in sorted({min(counts), max(counts)}))
    text = (
        f"An excerpt of [results/tables/{name}.md](results/tables/{name}.md) (all rows and protocols, and where "
        "methods fall short; "
        f"as a page: `results/report.html`). {data['num_train'] + data['num_val']:,} photographs, {trained[0].budget} "
        f"for every run, {seeds} pretraining seeds. So small a budget shows the tool; it ranks no papers."
    )
    body = [line for line in lines if line.startswith("|")]
    parts = [textwrap.fill(text, 118), "\n".join(body), textwrap.fill(cells.LEGEND, 118)]
    return before + MARK + "\n\n".join([*parts, ""]) + after[after.index("## ") :]


def catalogue(
    folder: str, columns: tuple[str, ...], rows: dict[str, tuple[str, ...]], departs: dict[str, list[str]] | None = None
) -> str:
    """README of a folder: one table, then every file's own docstring and what its recipes change of the paper."""
    out = [f"# {folder.capitalize()}", ""]
    out += [
        f"Written from the files by `python tests/write_tree.py`; on the command line: `ssl-bench list {folder}`.",
        "",
    ]
    out += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    out += ["| " + " | ".join((f"[`{n}`](#{n})", *cells)).replace("\n", " ") + " |" for n, cells in rows.items()]
    for name in rows:
        text = ast.get_docstring(ast.parse((HOME / folder / f"{name}.py").read_text())) or ""
        out += ["", f"## {name}", "", text.strip()]
        if departs:
            out += ["", "What leaves the paper:", "", *departs[name]]
    return "\n".join(out) + "\n"


def catalogues() -> dict[Path, str]:
    """methods/README.md and protocols/README.md as they should be."""
    from ssl_bench import find
    from ssl_bench.evaluation.protocol import Protocol, variants
    from ssl_bench.training.method import Method

    methods, protocols, lines = {}, {}, {}
    for name in find.names("methods"):
        m = find.defined(find.module("methods", name), Method)
        lines[name] = [f"* `{recipes}`: {text}" for recipes, text in find.stated(name, "DEPARTS").items()]
        methods[name] = (m.family, ", ".join(m.kinds), m.sees, f"{m.evaluated}, {m.pooling}", m.paper)
    for name in find.names("protocols"):
        module = find.module("protocols", name)
        p = find.defined(module, Protocol)
        protocols[name] = (str(p.version), p.input, ", ".join(f"`{name}:{v}`" for v in variants(module)) or "none")
    return {
        HOME / "methods/README.md": catalogue(
            "methods", ("method", "family", "takes", "sees", "evaluated", "paper"), methods, lines
        ),
        HOME / "protocols/README.md": catalogue("protocols", ("protocol", "version", "input", "variants"), protocols),
    }


if __name__ == "__main__":
    sys.path.insert(0, str(HOME))
    readme = HOME / "README.md"
    readme.write_text(measured(tree(readme.read_text())))
    for path, text in catalogues().items():
        path.write_text(text)
