"""What was submitted: one folder per submission in `root/jobs`, with submission.json, logs and submitit's files."""

from __future__ import annotations

import datetime
import json
import secrets
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slurm import profile as profiles
from slurm.job import Task
from slurm.profile import Profile
from ssl_bench.errors import UserError
from ssl_bench.training import run_folder

NOT_STARTED = "-"  # in place of a number: work of this machine that waits for its turn


@dataclass(frozen=True)
class Job:
    """One task under the number the cluster gave it; on this machine, the number of a process."""

    id: str
    task: Task
    kind: str  # of its profile: slurm or local
    logs: Path

    @property
    def log(self) -> Path:
        """Output and errors of the first process, of all lives."""
        return self.logs / f"{self.id}_0_log.out"

    @property
    def ended_well(self) -> bool:
        """submitit writes a result when, and only when, the task came to its end: `Task` leaves by exit otherwise."""
        return (self.logs / f"{self.id}_0_result.pkl").exists()

    @property
    def key(self) -> Hashable:
        """The same for the same work in a later submission."""
        task = self.task
        return (task.stage, task.run) if task.stage == "pretrain" else (task.stage, task.encoder, task.protocols)


@dataclass
class Submission:
    """Written again after every array, so that no accepted job is ever unknown."""

    folder: Path
    profile: Profile
    code: str  # the copy of the code, below root/jobs/code
    jobs: list[Job] = field(default_factory=list)

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def save(self) -> None:
        entries = [{"id": job.id, **job.task.to_dict()} for job in self.jobs]
        head = {"profile": self.profile.name, "values": profiles.to_dict(self.profile), "code": self.code}
        run_folder.write_json(self.folder / "submission.json", {**head, "jobs": entries})


def new(root: Path, profile: Profile, code: Path) -> Submission:
    """A submission with a folder of its own."""
    now = datetime.datetime.now(datetime.UTC)
    folder = root / "jobs" / f"{now:%Y%m%d-%H%M%S-%f}-{secrets.token_hex(2)}"
    (folder / "logs").mkdir(parents=True)
    return Submission(folder, profile, code.name)


def submissions(root: Path) -> list[Submission]:
    """All of them, oldest first."""
    return [_read(path) for path in sorted((root / "jobs").glob("*/submission.json"))]


def latest(root: Path) -> list[Job]:
    """The last job of every piece of work, in the order of submission."""
    found: dict[Hashable, Job] = {}
    for submission in submissions(root):
        for job in submission.jobs:
            found.pop(job.key, None)
            found[job.key] = job
    return list(found.values())


def profile_of(root: Path, job: Job) -> Profile:
    """The profile a job was submitted with."""
    return next(s.profile for s in submissions(root) if s.logs == job.logs)


def _read(path: Path) -> Submission:
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        profile = profiles.check(values["profile"], values["values"], f"{path}: ")
        found = Submission(path.parent, profile, values["code"])
        for entry in values["jobs"]:
            task = Task.from_dict({k: v for k, v in entry.items() if k != "id"})
            found.jobs.append(Job(str(entry["id"]), task, profile.kind, found.logs))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}). Move its folder away; the runs themselves are whole.") from error
    return found
