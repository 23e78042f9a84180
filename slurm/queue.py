"""What SLURM knows of jobs: squeue for those in the queue, sacct for the others where the site keeps accounts."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

# SLURM's states, as a person needs them. States that are missing here are named as SLURM names them.
WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
ACTIVE = {"RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
ENDED = {
    "COMPLETED": "ended", "CANCELLED": "cancelled", "TIMEOUT": "timed out", "DEADLINE": "timed out",
    "FAILED": "failed", "BOOT_FAIL": "failed", "NODE_FAIL": "node failed", "OUT_OF_MEMORY": "out of memory",
    "PREEMPTED": "preempted", "REVOKED": "cancelled",
}  # fmt: skip
SECONDS = 45  # a controller that is away lets clients wait for some ten seconds


@dataclass(frozen=True)
class Known:
    """One job: waiting, running, or one of the endings above; and SLURM's own reason."""

    state: str
    reason: str = ""


class NoAnswer(Exception):
    """There is no SLURM here, or its controller is away."""


def ask(ids: Iterable[str]) -> dict[str, Known]:
    """State by job id (`123`, or `123_4` of an array). Jobs that SLURM has forgotten are missing. Raises `NoAnswer`."""
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    numbers = ",".join(sorted({job.partition("_")[0] for job in wanted}))
    if shutil.which("squeue") is None:
        raise NoAnswer("there is no squeue on this machine")
    rows = _table(["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={numbers}"])
    found = {job: _known(state, reason) for job, state, reason in rows}
    if set(wanted) - set(found) and shutil.which("sacct"):
        asked = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State,ExitCode"]
        with suppress(NoAnswer):  # no accounting: the log and the run folder tell the rest
            found = {job: _known(state, code) for job, state, code in _table([*asked, f"--jobs={numbers}"])} | found
    return {job: found[job] for job in wanted if job in found}


def cancel(ids: Iterable[str]) -> None:
    """Raises `NoAnswer`. Jobs that have ended are left as they are."""
    done = _run(["scancel", *sorted(ids)])
    if done.returncode and "Invalid job id" not in done.stderr:
        raise NoAnswer(done.stderr.strip() or "scancel failed")


def _known(state: str, reason: str) -> Known:
    word = state.split()[0] if state else ""  # "CANCELLED by 1000"
    if word in WAITING:
        return Known("waiting", reason)
    return Known("running" if word in ACTIVE else ENDED.get(word, word.lower()), reason)


def _table(command: list[str]) -> list[tuple[str, str, str]]:
    done = _run(command)
    if done.returncode and "Invalid job id" not in done.stderr:
        raise NoAnswer(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{command[0]} failed")
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return [(row[0], row[1], row[2]) for row in rows if len(row) == 3]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{command[0]} got no answer within {SECONDS} s") from None
    except OSError as error:
        raise NoAnswer(f"{command[0]}: {error.strerror}") from None
