"""`ssl-bench jobs`: what became of every submitted job, and why. The run folders and SLURM are asked each time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import click

from slurm import here, ledger, queue
from slurm.job import Task
from slurm.ledger import Job
from ssl_bench import screen
from ssl_bench.cli.options import ROOT
from ssl_bench.errors import UserError, nearest
from ssl_bench.screen import at_root
from ssl_bench.training import run_folder

AT = click.option(
    "--root", type=click.Path(path_type=Path, file_okay=False), default=None, help="Folder of runs and records."
)
OVER = re.compile(r"(?:JOB|STEP) .* CANCELLED AT \S+(?: DUE TO (.+?))? \*\*\*")  # slurmstepd's line in a job's log
LAST_LINES = 5
AGAIN = ("failed", "cancelled", "timed out", "node failed", "out of memory", "preempted", "lost")  # what retry takes
MEANS = {
    "Dependency": "waits for what it needs", "DependencyNeverSatisfied": "what it needs has failed",
    "Resources": "waits for free nodes", "Priority": "others come first", "BeginTime": "queued again, starts soon",
    "JobArrayTaskLimit": "array_limit of its profile is reached", "None": "",
}  # fmt: skip


@dataclass
class View:
    """One line of the list."""

    job: Job
    state: str
    step: str = ""
    note: str = ""


@click.group(invoke_without_command=True)
@ROOT
@click.pass_context
def jobs(ctx: click.Context, root: Path) -> None:
    """Jobs submitted with --slurm: their states, and why they failed.

    \b
    Example: ssl-bench jobs
    Example: ssl-bench jobs cancel mae-small-s0
    Example: ssl-bench jobs retry --all
    """
    if ctx.invoked_subcommand is None:
        show(root)
    ctx.obj = root


@jobs.command()
@click.argument("names", nargs=-1, metavar="[JOB]...")
@click.option("--all", "everything", is_flag=True, help="Every job that waits or runs.")
@AT
@click.pass_obj
def cancel(above: Path, root: Path | None, names: tuple[str, ...], everything: bool) -> None:
    """Cancel jobs by number, run or label; a run keeps its last checkpoint.

    \b
    Example: ssl-bench jobs cancel 123_4
    """
    found = [view for view in _views(root or above)[0] if view.state in ("waiting", "running")]
    found = [view for view in found if view.job.id != ledger.NOT_STARTED]  # Ctrl-C where it was started ends those
    chosen = _chosen(found, names, everything, "waits or runs")
    distant = [view.job.id for view in chosen if view.job.kind == "slurm"]
    try:
        if distant:
            queue.cancel(distant)
    except queue.NoAnswer as error:
        raise UserError(f"Nothing was cancelled: SLURM does not answer ({error}). Try again.") from error
    for view in chosen:
        if view.job.kind == "local":
            here.stop(view.job.id)
        screen.say(f"cancelled {view.job.id} ({view.job.task.stage} {view.job.task.label})")


@jobs.command()
@click.argument("names", nargs=-1, metavar="[JOB]...")
@click.option("--all", "everything", is_flag=True, help="Every job that failed, was cancelled or was lost.")
@click.option("--slurm", "profile", default=None, metavar="PROFILE", help="Another profile than before.")
@AT
@click.pass_obj
def retry(above: Path, root: Path | None, names: tuple[str, ...], everything: bool, profile: str | None) -> None:
    """Submit again what failed, with the present code; runs go on from their last checkpoint.

    \b
    Example: ssl-bench jobs retry --all
    """
    from slurm import launch
    from slurm import profile as profiles

    root = root or above
    views, _ = _views(root)
    dead = [view for view in views if view.state in AGAIN]
    chosen = _chosen(dead, names, everything, "failed")
    again = {view.job.task.run for view in chosen if view.job.task.stage == "pretrain"}
    # What was cancelled because its pretraining failed comes back with it; the report comes with any evaluation.
    chosen += [view for view in dead if view.job.task.stage == "evaluate" and view.job.task.run in again]
    work = [view.job for view in chosen if view.job.task.stage != "report"] or [view.job for view in chosen]
    groups: dict[str, tuple[profiles.Profile, dict[Any, Task]]] = {}
    for job in work:
        used = profiles.load(profile) if profile else ledger.profile_of(root, job)
        groups.setdefault(repr(used), (used, {}))[1][job.key] = job.task
    for used, tasks in groups.values():
        launch.submit(root, used, list(tasks.values()))


def show(root: Path) -> None:
    """The list, then every failure with the last lines of its log."""
    views, remark = _views(root)
    if remark:
        screen.say(f"{remark}: what follows is what the run folders and logs say.", "yellow")
    if not views:
        return screen.say(f"No jobs were submitted from {root}. Submit some: ssl-bench pretrain ... --slurm PROFILE")
    cells = [("job", "stage", "name", "state", "step", "")]
    cells += [
        (v.job.id, v.job.task.stage, v.job.task.label, v.state, v.step, shorten(v.note, 60, placeholder=" ..."))
        for v in views
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    for i, row in enumerate(cells):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip()
        screen.say(line, "dim" if not i else _style(row[3]))
    for view in views:
        if view.state in AGAIN and (lines := tail(view.job.log)):
            screen.say(
                f"\n{view.job.task.stage} {view.job.task.label} {view.state}; the end of {view.job.log}:", "bold"
            )
            for line in lines:
                screen.say(f"  | {line}")
    if any(view.state in AGAIN for view in views):
        screen.say("\nnext: ssl-bench jobs retry --all" + at_root(root))


def _views(root: Path) -> tuple[list[View], str]:
    """The latest job of every piece of work with its state, and what to say where SLURM gave no answer."""
    from ssl_bench.experiments import recorded

    latest, remark = ledger.latest(root), ""
    records = recorded.Numbers(root)
    done = {job.id for job in latest if _done(root, job, records)}
    known: dict[str, queue.Known] = {}
    try:
        known = queue.ask(job.id for job in latest if job.kind == "slurm" and job.id not in done)
    except queue.NoAnswer as error:
        remark = f"SLURM does not answer ({error})"
    views = [View(job, "finished") if job.id in done else _view(root, job, known.get(job.id), remark) for job in latest]
    return views, remark


def _done(root: Path, job: Job, records: Any) -> bool:
    from ssl_bench.experiments import recorded

    if job.task.stage == "pretrain":
        return run_folder.Run(root / job.task.run).status().get("state") == "finished"
    if job.task.stage == "evaluate":
        return records.done(job.task.protocols, recorded.Cell(*job.task.encoder))
    return job.ended_well


def _view(root: Path, job: Job, known: queue.Known | None, remark: str) -> View:
    status = run_folder.Run(root / job.task.run).status() if job.task.stage == "pretrain" else {}
    step = f"{status['step']}/{status['steps']}" if status.get("steps") else ""
    if job.kind == "local" and here.alive(job.id):
        known = queue.Known("running")
    if job.id == ledger.NOT_STARTED:
        known = queue.Known("waiting" if here.busy(job.logs) else "cancelled")
    if known is None and remark and not job.log.exists():
        return View(job, "unknown", step, "no log yet")
    if known is None and remark and not _ending(job.log):
        return View(job, "unknown", step, f"last sign of life {status['updated']}" if status else "")
    state, reason = (known.state, known.reason) if known else _from_log(job)
    if state == "ended":
        state, reason = "failed", "the job came to its end, but its work is not there"
    if state == "waiting":
        return View(job, state, step, MEANS.get(reason, reason))
    if state == "running":
        left = status.get("seconds_left")
        return View(job, state, step, f"{screen.clock(left)} left" if left else "")
    if state == "cancelled" and not job.log.exists() and job.task.stage == "evaluate" and job.task.run:
        trained = run_folder.Run(root / job.task.run).status().get("state") == "finished"
        return View(job, state, step, "" if trained else "its pretraining did not finish")
    if state in ("failed", "lost"):
        return View(job, state, step, _why(job, status) or reason)
    return View(job, state, step, "")


def _from_log(job: Job) -> tuple[str, str]:
    """What a job's log says of its end, where SLURM has forgotten it."""
    gone = "its process is gone" if job.kind == "local" else "SLURM does not know it any more"
    if not job.log.exists():
        return "lost", f"{gone} and it left no log: most likely cancelled while it waited"
    return _ending(job.log) or ("lost", f"{gone} and its log says nothing of its end")


def _ending(log: Path) -> tuple[str, str] | None:
    """The state that the last telling line of a log means, if there is one."""
    for line in reversed(tail(log, 40)):
        over = OVER.search(line)
        if over:
            why = over[1] or ""
            ends = {"TIME LIMIT": "timed out", "PREEMPTION": "preempted", "NODE FAILURE": "node failed"}
            return ("waiting", why) if why == "JOB REQUEUE" else (ends.get(why, "cancelled"), why)
        if "oom-kill" in line or "oom_kill" in line:
            return "out of memory", ""
        if line.startswith("stopped by a signal"):
            return "cancelled", ""
        if line.startswith("error: "):
            return "failed", line.removeprefix("error: ")
        if "has timed out" in line or line.startswith("queued again"):
            return None
    return None


def _why(job: Job, status: dict[str, Any]) -> str:
    """The run's own reason, or the last line of error in the log."""
    if status.get("state") == "failed" and status.get("reason"):
        return str(status["reason"])
    lines = [line for line in tail(job.log, 40) if line.startswith("error: ") or re.match(r"\w+(\.\w+)*Error\b", line)]
    return lines[-1].removeprefix("error: ") if lines else ""


def tail(log: Path, count: int = LAST_LINES) -> list[str]:
    """The last lines, without submitit's own and without what a terminal would obey."""
    if not log.exists():
        return []
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 20000))
        text = file.read().decode(errors="replace")
    lines = ["".join(c for c in line if c.isprintable())[:300] for line in text.splitlines()]
    return [line for line in lines if line.strip() and not line.startswith("submitit ")][-count:]


def _chosen(views: Sequence[View], names: Sequence[str], everything: bool, what: str) -> list[View]:
    """By number (an array's number means all of it), beginning of a run's name, or label."""
    if everything == bool(names):
        raise UserError("Name jobs by number, run or label (see `ssl-bench jobs`), or give --all; not both.")
    if everything:
        if not views:
            raise UserError(f"There is no job that {what}.")
        return list(views)
    found: list[View] = []
    for name in names:
        hits = [v for v in views if name in (v.job.id, v.job.id.partition("_")[0], v.job.task.label)]
        hits = hits or [v for v in views if v.job.task.run.startswith(name)]
        if not hits:
            known = {word for v in views for word in (v.job.id, v.job.task.label)}
            hint = nearest(name, known) if known else "There is none."
            raise UserError(f"No job '{name}' that {what}. {hint}")
        found += [view for view in hits if view not in found]
    return found


def _style(state: str) -> str:
    return "red" if state in AGAIN else {"finished": "green", "waiting": "dim"}.get(state, "")
