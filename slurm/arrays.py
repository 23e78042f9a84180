"""The arrays of a submission: which tasks go together, what each waits for, and how a job starts."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slurm.job import Task
from ssl_bench.errors import UserError

MOST = 1000  # tasks of one array: SLURM's MaxArraySize is 1001 unless a site has raised it


@dataclass
class Array:
    """Tasks that are submitted together. `after` are the ids of other submissions' jobs they wait for."""

    stage: str
    tasks: list[Task]
    paired: bool = False  # task i waits for task i of the pretraining array
    after: tuple[str, ...] = ()


def stages(tasks: Sequence[Task], running: dict[str, str] | None = None) -> list[Array]:
    """Pretraining, evaluations of what it makes (in the same order), other evaluations, the report."""
    running = running or {}
    by_run = {task.run: task for task in tasks if task.stage == "evaluate" and task.run}
    training = sorted((t for t in tasks if t.stage == "pretrain"), key=lambda t: t.run not in by_run)
    trained = {task.run for task in training}
    paired = [by_run[task.run] for task in training if task.run in by_run]
    others = [t for t in tasks if t.stage == "evaluate" and t.run not in trained]
    awaited = tuple(running[task.run] for task in others if task.run in running)
    arrays = [
        Array("pretrain", training), Array("evaluate", paired, paired=True), Array("evaluate", others, after=awaited),
    ]  # fmt: skip
    reports = [task for task in tasks if task.stage == "report"]  # one that is tried again
    if paired or others:
        reports = [Task("report", "report", tasks[0].root)]
    arrays.append(Array("report", reports))
    for array in arrays:
        if len(array.tasks) > MOST:
            raise UserError(f"{len(array.tasks)} jobs are more than a SLURM array holds ({MOST}): use fewer seeds.")
    return [array for array in arrays if array.tasks]


def dependency(array: Array, ids: dict[str, list[str]]) -> str | None:
    """In SLURM's words; `ids` are the jobs submitted before, by stage."""
    trained, evaluated = ids.get("pretrain", []), ids.get("evaluate", [])
    if array.paired:
        pairs = len(array.tasks) > 1
        return f"aftercorr:{trained[0].partition('_')[0]}" if pairs else f"afterok:{trained[0]}"
    if array.stage == "report" and evaluated:
        return "afterany:" + ":".join(sorted({job.partition("_")[0] for job in evaluated}))
    return "afterany:" + ":".join(array.after) if array.after else None


def command(logs: Path) -> str:
    """How a job starts: as submitit starts it, but deaf to signals until it can answer them."""
    return shlex.join([sys.executable, "-u", "-m", "slurm.start", str(logs.resolve())])
