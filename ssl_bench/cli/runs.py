"""`ssl-bench runs` and `ssl-bench prune`: what lies in the folder of runs, and what of it can go."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import click

from ssl_bench.cli.options import ROOT

STATES = ("finished", "running", "interrupted", "failed", "died", "not started", "damaged")
SPARE = ("last.ckpt", "previous.ckpt", "next.ckpt")  # a finished run needs none: its encoder is a file of its own
METHOD = click.option("--method", default=None, help="Only runs of this method.")


@click.command(name="runs")
@METHOD
@click.option("--state", type=click.Choice(STATES), default=None, help="Only runs in this state.")
@click.option("--data", default=None, help="Only runs on this data set.")
@ROOT
def list_runs(method: str | None, state: str | None, data: str | None, root: Path) -> None:
    """The runs there are, with their state and the disk they use.

    \b
    Example: ssl-bench runs --method ijepa --state failed
    """
    from ssl_bench import screen

    rows = [row for row in look(root) if _fits(row, method, state, data)]
    table = screen.sheet("run", "state", "step", "data", "val k-NN", "disk", "last", right=("step", "val k-NN", "disk"))
    table.columns[0].no_wrap = True
    for row in rows:
        status = row["run"].status()
        step = f"{status['step']:,}/{status['steps']:,}" if status.get("steps") else ""
        knn = f"{100 * status['knn']:.1f}" if "knn" in status else ""
        bad = status.get("collapsed") or status.get("collapse")
        table.add_row(
            row["run"].name, row["state"] + (", COLLAPSED" if bad else ""), step, row["data"], knn,
            screen.quantity(row["bytes"], "B"), _ago(status.get("updated")),
            style="red" if bad or row["state"] in ("failed", "died", "damaged") else "",
        )  # fmt: skip
    if rows:
        screen.console.print(table)
    total = screen.quantity(sum(row["bytes"] for row in rows), "B")
    screen.say(
        f"{len(rows)} {'run' if len(rows) == 1 else 'runs'} in {root}, {total}"
        if rows
        else f"No run in {root} fits. See ssl-bench runs."
    )


@click.command()
@METHOD
@click.option("--keep-unfinished", is_flag=True, help="Only drop checkpoints of finished runs.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@ROOT
def prune(method: str | None, keep_unfinished: bool, yes: bool, root: Path) -> None:
    """Free disk: unfinished runs, and checkpoints of finished ones.

    \b
    Shows what would go and asks. Records, encoders and whatever is being trained now are never touched.
    Example: ssl-bench prune --keep-unfinished
    """
    from ssl_bench import screen

    found = [(row, what) for row in look(root) if _fits(row, method) and (what := _spare(row, keep_unfinished))]
    if not found:
        return screen.say(f"Nothing to prune in {root}.")
    table = screen.sheet("run", "state", "goes", "disk", right=("disk",))
    for row, what in found:
        goes = "the whole run" if what == [row["run"].folder] else ", ".join(path.name for path in what)
        table.add_row(row["run"].name, row["state"], goes, screen.quantity(_bytes(what), "B"))
    screen.console.print(table)
    total = sum(_bytes(what) for _, what in found)
    if not yes and not click.confirm(f"Delete these for good and free {screen.quantity(total, 'B')}?"):
        return screen.say("Nothing was deleted.")
    freed = sum(_delete(row, what, keep_unfinished) for row, what in found)
    screen.say(f"freed {screen.quantity(freed, 'B')}")


def look(root: Path) -> list[dict[str, Any]]:
    """Run, state, method, data set and bytes of every run folder, oldest first; other folders are left out."""
    from ssl_bench.errors import UserError
    from ssl_bench.experiments import run_summary
    from ssl_bench.training import run_folder

    rows = []
    for run in run_folder.all_runs(root):
        try:
            values = run.read_json("config.json")
        except UserError:
            values = {"objective": None}  # a config.json that cannot be read: told, never pruned
        if "objective" not in values:  # another program's folder, or an exported model
            continue
        state = run_summary.state(run).partition(" at step")[0] if "method" in values else "damaged"
        data = values.get("data", {}).get("name", "?")
        known = {"method": values.get("method", "?"), "data": data, "bytes": run_summary.size(run.folder)}
        rows.append({"run": run, "state": state, **known})
    return rows


def _fits(row: dict[str, Any], method: str | None, state: str | None = None, data: str | None = None) -> bool:
    return all(want in (None, row[key]) for key, want in (("method", method), ("state", state), ("data", data)))


def _spare(row: dict[str, Any], keep_unfinished: bool) -> list[Path]:
    """What of a run can go: no encoder, whatever its status says, nor the checkpoint that brings a lost status back."""
    folder, encoder = row["run"].folder, (row["run"].folder / "encoder.safetensors").exists()
    if encoder or row["state"] == "finished":
        known = row["state"] == row["run"].status().get("state") == "finished"
        whole = known and encoder and (folder / "encoder.json").exists()
        return [folder / name for name in SPARE if whole and (folder / name).exists()]
    return [] if keep_unfinished or row["state"] in ("running", "damaged") else [folder]


def _bytes(paths: list[Path]) -> int:
    from ssl_bench.experiments.run_summary import size

    return sum(size(path) if path.is_dir() else path.stat().st_size for path in paths)


def _delete(row: dict[str, Any], paths: list[Path], keep_unfinished: bool) -> int:
    """Bytes freed; nothing where a process trains the run, or has finished it, since it was listed."""
    import shutil

    from ssl_bench import screen
    from ssl_bench.errors import UserError
    from ssl_bench.training import run_folder

    run = row["run"]
    try:
        held = run_folder.lock(run)
    except UserError as error:
        screen.say(f"kept {run.name}: {error}", "yellow")
        return 0
    with held:
        if _spare(row, keep_unfinished) != paths:  # it looks at the folder anew
            screen.say(f"kept {run.name}: it has changed since it was listed", "yellow")
            return 0
        freed = _bytes(paths)
        for path in paths:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return freed


def _ago(when: str | None) -> str:
    """`3 min ago`."""
    if not when:
        return ""
    seconds = (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(when)).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "now"
