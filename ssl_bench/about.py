"""What is known of one run: its config, curves, numbers with their intervals, and cost; `ssl-bench show RUN`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from results import cells, tables
from results.records import Record, read
from results.rows import budget
from ssl_bench import explain
from ssl_bench.config import BUDGETS, Config
from ssl_bench.errors import UserError
from ssl_bench.options import at_root
from ssl_bench.runs import Run, busy
from ssl_bench.screen import clock, console, quantity, say, sheet, sparkline


def scores(run: Run, root: Path) -> list[tuple[str, str, str]]:
    """(protocol and metric, this run's number, the number over all seeds of the same recipe, or "")."""
    folder = root / "records"
    records = read(folder) if folder.is_dir() else []
    mine = [r for r in records if r.run == run.name]
    if not mine:
        return []
    alike = [r for r in records if _recipe(r) == _recipe(mine[0])]
    own, every = _cells(mine), _cells(alike)
    return [
        (name, cells.number(cell), cells.number(every[name]) if every[name].n > 1 else "") for name, cell in own.items()
    ]


def _recipe(r: Record) -> Any:
    """Method and config but for the seed, and what it was trained on."""
    config = {k: v for k, v in r.config.items() if k not in ("seed", "run")}
    return r.method, r.recipe, config, r.pretrain_data.get("fingerprint")


def _cells(records: list[Record]) -> dict[str, tables.Cell]:
    """Column -> cell of records that make one row."""
    table = tables.build(records)
    row = next(row for row in table.rows if any(row.cells))
    return {name: cell for name, cell in zip(cells.headers(table)[1:], row.cells, strict=False) if cell is not None}


def cost(run: Run) -> list[tuple[str, str]]:
    """Budget and what it took, as label and sentence; only what the run has written so far."""
    config, spent = run.config(), run.compute()
    asked = [("budget", budget({"budget": vars(config.budget)}))]
    if not spent:
        return asked
    images = spent["images"]
    return [
        *asked,
        ("training", f"{spent['steps']:,} steps, {images:,} images, {quantity(spent['flops'], 'FLOP')}"),
        ("took", f"{clock(spent['seconds'])} on {spent['device']}, {spent['images_per_second']:.0f} images/s"),
        ("memory", f"{quantity(spent['peak_memory_bytes'], 'B')} at most"),
    ]


CURVES = {  # key in metrics.jsonl -> what it is called, and its factor
    "loss": ("loss", 1.0), "monitor_knn": ("val k-NN %", 100.0), "monitor_rankme_centred": ("RankMe, centred", 1.0),
    "monitor_std": ("feature std", 1.0),
}  # fmt: skip
WIDTH = 32  # characters of a curve


def show_run(run: Run, root: Path) -> None:
    """What `ssl-bench show RUN` prints: config, curves, evaluations, cost, collapse, and what to do next."""
    config, status = run.config(), run.status()
    v, name = config.backbone, config.data.name
    say(f"{run.name}: {state(run)}" + (f" ({status['reason']})" if status.get("reason") else ""), "bold")
    shape = f"{v.embed_dim} wide, {v.depth} blocks, patches of {v.patch_size} px"
    facts = [("network", shape), ("data", f"{name} at {config.data.image_size} px"), *cost(run)]
    facts += [("changed", "  ".join(settings))] if (settings := _changed(config)) else []
    facts += [("on disk", f"{quantity(size(run.folder), 'B')} in {run.folder}")]
    collapse = status.get("collapse_reason") or status.get("collapse") or ""
    console.print(_pairs([*facts, *([] if collapse else [("collapse", "none seen")])]))
    if collapse:
        say(f"COLLAPSED: {collapse}. Its numbers carry a flag.", "bold red")
    _curves(run)
    found = scores(run, root)
    if found:
        table = sheet("evaluation", "this run", "all seeds of this recipe")
        for row in found:
            table.add_row(*row)
        say("")
        console.print(table)
        say("One run: [95 % interval over test images]; seeds: mean ± half a 95 % t-interval (n).", "dim")
    say("")
    for line in _next(run, root, bool(found)):
        say(f"  {line}")


def state(run: Run) -> str:
    """finished, interrupted, failed, running, died (killed without a word) or not started; with the step."""
    status = run.status()
    found = status.get("state", "not started")
    if found == "running" and not busy(run):
        found = "died"
    at = f" at step {status['step']:,} of {status['steps']:,}" if status.get("steps") and found != "finished" else ""
    return found + at


def size(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _pairs(facts: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, text in facts:
        table.add_row(f"  {name}", Text(text))
    return table


def _curves(run: Run) -> None:
    """One line per quantity: its first value, its course, its last value."""
    rows = run.metrics()
    table = Table.grid(padding=(0, 2))
    for _ in range(4):
        table.add_column(no_wrap=True)
    for key, (title, factor) in CURVES.items():
        values = [factor * row[key] for row in rows if key in row]
        if values:
            table.add_row(f"  {title}", f"{values[0]:.3g}", sparkline(values, WIDTH), f"{values[-1]:.3g}")
    if table.row_count:
        say("")
        console.print(table)


def _changed(config: Config) -> list[str]:
    """The settings in which a run differs from its recipe, as they were typed."""
    from ssl_bench import compare

    try:
        plain = compare.recipe(config.method, config.recipe)()
    except UserError:  # a recipe of an earlier version
        return []
    before = {key: value for key, value, _ in explain.explain(plain, None)}
    now = [(key, value) for key, value, _ in explain.explain(config, None) if not key.startswith("run.")]
    given = [(k, v) for k, v in now if v != before.get(k) and k not in ("recipe", "seed")]
    kinds = {f"budget.{kind}" for kind in BUDGETS}  # the kind that is asked for takes the place of the recipe's
    return [f"{k}={v}" for k, v in given if k not in kinds or float(v)]


def _next(run: Run, root: Path, evaluated: bool) -> list[str]:
    """Commands that make sense now."""
    config, where = run.config(), at_root(root)
    if run.status().get("state") != "finished":
        settings = "".join(f" {shlex.quote(text)}" for text in _changed(config))
        recipe = f" --recipe {config.recipe}" if config.recipe != "small" else ""
        return [f"ssl-bench pretrain --method {config.method}{recipe} --seed {config.seed}{settings}{where}   goes on"]
    lines = [f"ssl-bench eval {run.name} --protocol {'attentive' if evaluated else 'knn,linear'}{where}"]
    lines += [f"ssl-bench report{where}"] if evaluated else []
    return [*lines, f"ssl-bench export {run.name} --to {config.method}-timm{where}"]
