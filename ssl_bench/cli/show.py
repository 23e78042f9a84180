"""`ssl-bench show`: every setting of a method and why, or all that is known of a run."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Sequence
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from ssl_bench import find, screen
from ssl_bench.cli.options import RECIPE, ROOT, SETTINGS
from ssl_bench.config import reasons
from ssl_bench.config.schema import to_dict
from ssl_bench.data import registry
from ssl_bench.errors import UserError
from ssl_bench.experiments.run_summary import changed, cost, scores, size, state
from ssl_bench.screen import at_root, console, quantity, say, sheet, sparkline
from ssl_bench.training import run_folder
from ssl_bench.training.method import configured, usual
from ssl_bench.training.run_folder import Run

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
    facts = [("network", shape), ("data", f"{name} at {registry.item(config.data).told}"), *cost(run)]
    facts += [("changed", "  ".join(settings))] if (settings := changed(config)) else []
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
        say("One run: [95 % interval over test images]; several (n): mean ± half of it over seeds and images.", "dim")
    say("")
    for line in _next(run, root, bool(found)):
        say(f"  {line}")


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


def _next(run: Run, root: Path, evaluated: bool) -> list[str]:
    """Commands that make sense now."""
    config, where = run.config(), at_root(root)
    if run.status().get("state") != "finished":
        settings = "".join(f" {shlex.quote(text)}" for text in changed(config))
        own = usual(config.method, registry.kind(config.data.name))
        recipe = f" --recipe {config.recipe}" if config.recipe != own else ""
        return [f"ssl-bench pretrain --method {config.method}{recipe} --seed {config.seed}{settings}{where}   goes on"]
    lines = [f"ssl-bench eval {run.name} --protocol {'attentive' if evaluated else 'knn,linear'}{where}"]
    lines += [f"ssl-bench report{where}"] if evaluated else []
    return [*lines, f"ssl-bench export {run.name} --to {config.method}-timm{where}"]


@click.command()
@click.argument("name", metavar="METHOD|RUN")
@RECIPE
@ROOT
@SETTINGS
def show(name: str, recipe: str, root: Path, settings: tuple[str, ...]) -> None:
    """Every setting of a method and why, or all that is known of a run.

    \b
    A run is named by its folder or by the beginning of its name, with at least one dash.
    Example: ssl-bench show ijepa --recipe quick
    Example: ssl-bench show ijepa-small-s0
    """
    if "-" not in name and not (Path(name) / "config.json").exists():
        return explain_recipe(name, recipe, settings)
    if recipe or settings:
        raise UserError(f"{' '.join(settings) or '--recipe'} has no effect on '{name}': a run has the settings it has.")
    show_run(run_folder.find_run(root, name), root)


def explain_recipe(method: str, recipe: str, settings: Sequence[str]) -> None:
    """Every setting, its value, and why."""
    config = configured(method, recipe, settings)
    function = find.recipe(method, config.recipe)
    changed = {text.partition("=")[0] for text in settings}
    table = screen.sheet("setting", "value", "meaning and source")
    for key, value, reason in reasons.explain(config, function):
        table.add_row(
            key, value, f"{reason} (set by you)" if key in changed else reason, style="bold" if key in changed else ""
        )
    screen.say(inspect.getdoc(function) or "")
    name, departs = find.row_name(method, to_dict(config.objective)), find.departs(method, config.recipe)
    screen.say(
        f"Its rows are called: {name}" + (f". Its recipe departs from the paper: {departs}." if departs else ".")
    )
    screen.console.print(table)
    screen.say(f"run name: {run_folder.run_name(config)}")
