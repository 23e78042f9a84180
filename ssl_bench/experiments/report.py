"""Tables, the page and charts from records; collecting them into results/ and checking that those are fresh."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from results import cells, charts, ordered, render, tables, trials
from results import collect as collecting
from results.collect import slug
from results.page import Picture, page
from results.records import Record, read, unique
from results.sets import by_table, by_title
from results.terminal import View
from ssl_bench import screen
from ssl_bench.errors import UserError, nearest
from ssl_bench.files import write_atomic
from ssl_bench.training import run_folder

FORMATS = tuple(render.RENDERERS)


def load(root: Path | str, collected: bool = False) -> list[Record]:
    """The records of `root/records`; with `collected` also those in `results/records`."""
    here = Path(root) / "records"
    found = read(here) if here.exists() or not collected else []
    if collected and (there := collecting.FOLDER / "records").exists():
        found = unique([*found, *read(there)])
    if not found:
        raise UserError(f"There are no records in '{here}'. Evaluate a run first: ssl-bench eval --protocol linear.")
    return found


def report(records: Sequence[Record], form: str = "terminal", others: Sequence[dict[str, Any]] = ()) -> str:
    """One table per data set (or group of sets that share runs) and budget; in CSV their lines follow each
    other, each with the title of its table, and JSON is a list of them.
    """
    if form not in render.RENDERERS:
        raise UserError(f"Unknown format '{form}'. {nearest(form, render.RENDERERS)}")
    made = {title: tables.build(members, others) for title, members in by_title(records).items()}
    if form == "csv":
        return render.to_csv(*made.values(), titles=list(made))
    if form == "json":
        return render.to_json([{"title": title, **render.to_dict(table)} for title, table in made.items()])
    out = []
    for name, table in made.items():
        title = {"markdown": f"## {render.markdown_escape(name)}\n\n", "latex": "% " + cells.clean(name) + "\n"}
        head = title.get(form, cells.clean(name) + "\n") if len(made) > 1 else ""
        out.append(head + render.RENDERERS[form](table))
    return "\n".join(out)


def show(records: Sequence[Record], others: Sequence[dict[str, Any]] = ()) -> Group:
    """The terminal report in colour: `console.print(show(records))`."""
    parts = by_title(records)
    views: list[Any] = []
    for name, members in parts.items():
        views += [View(tables.build(members, others), name if len(parts) > 1 else ""), Text()]
    return Group(*views[:-1])


def collect(root: Path | str, folder: Path | None = None) -> str:
    """Fold `root/records` into `results/records/*.jsonl` and regenerate what depends on them. Returns a sentence."""
    folder = folder or collecting.FOLDER
    root = Path(root)
    kept = trials.add(folder / trials.FILE, trials.read(root / trials.FILE))
    verdicts = sorted((root / "claims").glob("*.json"))
    for path in verdicts:
        write_atomic(folder / "claims" / path.name, path.read_bytes())
    beside = f"{kept} trials of searches, {len(verdicts)} verdicts on claims."
    if (root / "records").exists() or not (kept or verdicts):
        total, new = collecting.collect(root / "records", folder)
        what = f"{total} records in {folder / 'records'}, {new} of them new"
    else:
        what = f"No records in {root}"
    written = collecting.regenerate(folder)
    return f"{what}; {len(written)} files regenerated; in {folder} {beside}"


def check(folder: Path | None = None) -> list[str]:
    """What in `results/` is stale, one sentence each; empty when all is fresh. `--check` fails on any."""
    return collecting.stale(folder or collecting.FOLDER)


def html(
    records: Sequence[Record], path: Path, root: Path | str | None = None, others: Sequence[dict[str, Any]] = (),
    pictures: bool = True,
) -> Path:  # fmt: skip
    """Write the page to `path`. Curves and pictures come from the run folders under `root` that are still there."""
    there = {
        r.run: run_folder.Run(Path(root) / r.run) for r in records if root and r.run and (Path(root) / r.run).is_dir()
    }
    found = _pictures(records, there) if pictures else {}
    write_atomic(path, page(records, {name: curves(run) for name, run in sorted(there.items())}, found, others))
    return path


def _pictures(records: Sequence[Record], there: Mapping[str, run_folder.Run]) -> dict[str, list[Picture]]:
    """Of one run per row. A run that this version cannot open costs its pictures, not the page."""
    from ssl_bench.experiments.pictures import of_run

    named = sorted((r for r in records if r.run in there), key=lambda r: r.run, reverse=True)
    first = {(r.method, r.recipe): r.run for r in named}
    found = {}
    for name in screen.counted("pictures of", sorted(set(first.values()))):
        try:
            found[name] = of_run(there[name])
        except UserError as error:
            screen.say(f"note: no pictures of {name}: {error}", "yellow")
    return found


def curves(run: run_folder.Run) -> list[dict[str, Any]]:
    """Loss, online k-NN and RankMe over the share of training, at most about 100 points of loss, four digits each."""
    rows = run.metrics()
    if not rows:
        return []
    steps = run.status().get("steps")
    total = max(steps if isinstance(steps, int) else 0, rows[-1]["step"], 1)
    every = max(1, len(rows) // 100)
    names = {"loss": "loss", "monitor_knn": "knn", "monitor_rankme": "rankme"}
    out = []
    for i, row in enumerate(rows):
        seen = {new: row[old] for old, new in names.items() if isinstance(row.get(old), (int, float))}
        if i % every == 0 or "knn" in seen or i == len(rows) - 1:
            values = {k: float(f"{v:.4g}") for k, v in seen.items() if math.isfinite(v)}
            out.append({"run": run.name, "at": round(row["step"] / total, 4), **values})
    return out


def save_charts(records: Sequence[Record], folder: Path, forms: Sequence[str] = ("svg", "png")) -> list[Path]:
    """Every chart of the report as a file of its own, for papers and slides."""
    import vl_convert

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    found = {f"{name} {budget}" if i else name: members for name, budgets in by_table(records).items()
             for i, (budget, members) in enumerate(budgets.items())}  # fmt: skip
    for name, members in found.items():
        table = tables.build(members)
        labels = {i: row.label for row in table.rows for cell in row.cells if cell is not None for i in cell.records}
        drawn = {f"order-{k}": c for k, c in ordered.ordered_charts(table).items()}
        drawn |= {f"compute-{k}": c for k, c in charts.compute_charts(table).items()}
        drawn |= {f"rankme-{k}": c for k, c in charts.diagnostics_charts(members, labels, table).items()}
        drawn |= {"ranks": c} if (c := charts.rank_chart(table)) is not None else {}
        for title, chart in sorted(drawn.items()):
            spec = chart.properties(width=420).configure_legend(columns=4).to_dict()
            path = folder / f"{slug(name)}-{slug(title)}"
            if "svg" in forms:
                written.append(path.with_name(path.name + ".svg"))
                written[-1].write_text(vl_convert.vegalite_to_svg(spec), encoding="utf-8")
            if "png" in forms:
                written.append(path.with_name(path.name + ".png"))
                written[-1].write_bytes(vl_convert.vegalite_to_png(spec, scale=2))
    return written
