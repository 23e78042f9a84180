"""The same jobs on this machine, through submitit's local executor, so many at a time as the profile says."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slurm import ledger, snapshot
from slurm.arrays import Array, command
from slurm.job import Task
from slurm.profile import Profile
from ssl_bench import screen
from ssl_bench.errors import UserError
from ssl_bench.screen import at_root


def run(submission: ledger.Submission, code: Path, arrays: Sequence[Array]) -> None:
    """Stage after stage, to the end. On Ctrl-C every job writes its checkpoint and ends."""
    failed: list[str] = []
    tasks = [task for array in arrays for task in array.tasks]
    submission.jobs = [ledger.Job(ledger.NOT_STARTED, task, "local", submission.logs) for task in tasks]
    submission.save()  # what never starts can be tried again too
    for array in arrays:
        lost = {name.partition(" ")[2] for name in failed}
        fit = [task for task in array.tasks if not (array.paired and task.label in lost)]
        failed += _stage(submission, fit, code)
    if failed:
        root = at_root(submission.folder.parents[1])
        raise UserError(
            f"{len(failed)} of {len(tasks)} jobs did not finish: {', '.join(failed)}. Why: ssl-bench jobs{root}; "
            f"again: ssl-bench jobs retry --all{root}"
        )


def _stage(submission: ledger.Submission, tasks: Sequence[Task], code: Path) -> list[str]:
    """Names of the tasks that failed."""
    waiting, failed = list(tasks), []
    slots: dict[int, tuple[Any, ledger.Job]] = {}
    try:
        while waiting or slots:
            for slot, (process, job) in list(slots.items()):
                if process.done():
                    del slots[slot]
                    name = f"{job.task.stage} {job.task.label}"
                    screen.say(f"{name}: {'done' if job.ended_well else f'did not finish (log: {job.log})'}")
                    failed += [] if job.ended_well else [name]
            for slot in sorted(set(range(submission.profile.array_limit)) - set(slots))[: len(waiting)]:
                task = waiting.pop(0)
                process = _start(submission.profile.for_stage(task.stage), submission.logs, task, code, slot)
                job = ledger.Job(process.job_id, task, "local", submission.logs)
                slots[slot] = process, job
                submission.jobs[[other.task for other in submission.jobs].index(task)] = job
                submission.save()
                screen.say(f"{task.stage} {task.label}: started as process {job.id}")
            time.sleep(0.2)
    except KeyboardInterrupt:
        for process, _ in slots.values():
            stop(process.job_id)
        while any(not process.done() for process, _ in slots.values()):
            time.sleep(0.2)
        raise
    return failed


def _start(profile: Profile, logs: Path, task: Task, code: Path, slot: int) -> Any:
    import submitit

    class Here(submitit.LocalExecutor):
        @property
        def _submitit_command_str(self) -> str:
            return command(logs)

    executor = Here(logs)
    executor.update_parameters(
        timeout_min=profile.minutes, signal_delay_s=profile.signal_seconds, tasks_per_node=profile.processes,
        gpus_per_node=profile.gpus, stderr_to_stdout=True,
        visible_gpus=tuple(range(slot * profile.gpus, (slot + 1) * profile.gpus)),
    )  # fmt: skip
    others = [p for p in (os.environ.get("PYTHONPATH"),) if p]
    path = os.pathsep.join([snapshot.search_path(code), *others])
    fixed = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": str(profile.cpus)}
    with _environment(fixed | profile.environment), _deaf():
        return executor.submit(task)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _deaf() -> Iterator[None]:
    """What starts inside ignores Ctrl-C: submitit's controller would kill its task a second later."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def alive(job_id: str) -> bool:
    """Whether this process is one of submitit's local controllers: numbers are used again."""
    try:
        words = Path(f"/proc/{int(job_id)}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False
    return b"submitit.local._local" in words


def busy(logs: Path) -> bool:
    """Whether a job of the submission with these logs is at work."""
    return any(alive(log.name.partition("_")[0]) for log in logs.glob("*_0_log.out"))


def stop(job_id: str) -> None:
    """TERM, which the controller hands on: a pretraining writes its checkpoint and ends."""
    if alive(job_id):
        os.kill(int(job_id), signal.SIGTERM)
