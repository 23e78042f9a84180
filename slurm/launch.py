"""`--slurm PROFILE`: the jobs of `pretrain` and `compare` as SLURM arrays, one per stage.

Pretraining first; the evaluation of a run starts when that run is finished; the report when all evaluations have
ended. Profiles with kind = "local" run the same jobs on this machine.
"""

from __future__ import annotations

import contextlib
import io
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slurm import here, ledger, queue, snapshot
from slurm import profile as profiles
from slurm.arrays import Array, command, dependency, stages
from slurm.job import Task
from slurm.profile import Profile
from ssl_bench import screen
from ssl_bench.errors import UserError
from ssl_bench.screen import at_root
from ssl_bench.training import run_folder


def pretrain(profile: str, dry_run: bool, given: dict[str, Any]) -> None:
    """The jobs of `ssl-bench pretrain ... --slurm PROFILE`; `given` are the other options of the command."""
    from ssl_bench.training.method import configured

    chosen = profiles.load(profile)
    if given.get("devices"):
        raise UserError("--devices is for this machine: with --slurm, gpus and nodes of the profile decide.")
    root, seed = Path(given["root"]), [] if given["seed"] is None else [f"seed={given['seed']}"]
    settings = [*given["settings"], *seed, *given.get("on_nan", [])]
    config = configured(given["method"], given["recipe"], settings)
    run = run_folder.Run(root / run_folder.run_name(config))
    if run.status().get("state") == "finished":
        return screen.say(f"{run.name} is finished already")
    if not dry_run:
        run_folder.start(root, config)
    arguments = ["--method", given["method"], "--recipe", config.recipe, *settings]
    submit(root, chosen, [_pretraining(run.name, run.name, arguments, root)], dry_run)


def compare(profile: str, dry_run: bool, given: dict[str, Any]) -> None:
    """The jobs of `ssl-bench compare ... --slurm PROFILE`; `--jobs` takes the place of the profile's array_limit."""
    from ssl_bench.experiments import matrix

    chosen, root = profiles.load(profile), Path(given["root"])
    if given["jobs"]:
        chosen = replace(chosen, array_limit=given["jobs"])
    rows = matrix.asked(given)
    todo = [row for row in rows if row.state != "done"]
    if not todo:
        return screen.say(f"All {len(rows)} rows are there already: ssl-bench report{at_root(root)}")
    if not dry_run:
        for row in rows:
            if row.config is not None:
                run_folder.start(root, row.config)
    tasks = []
    for row in todo:
        name = row.run.name if row.run else ""
        if row.run and row.run.status().get("state") != "finished":
            tasks.append(_pretraining(name, row.label, row.pretrain, root))
        if row.missing:
            words = ("eval", row.source, "--seed", str(row.seed), *row.where, "--root", str(root.resolve()))
            tasks.append(Task("evaluate", row.label, str(root.resolve()), words, name, tuple(row.missing), row.cell))
    submit(root, chosen, tasks, dry_run)


def _pretraining(run: str, label: str, arguments: Sequence[str], root: Path) -> Task:
    place = str(root.resolve())
    return Task("pretrain", label, place, ("pretrain", *arguments, "--root", place), run)


def submit(root: Path, profile: Profile, tasks: Sequence[Task], dry_run: bool = False) -> None:
    """Submit what no job is at work on yet, with a report at the end where something is evaluated."""
    if "%" in str(root.resolve()):
        raise UserError(f"SLURM reads '%' in {root.resolve()} as a pattern for log files. Choose another --root.")
    tasks = [replace(task, max_requeues=profile.max_requeues) for task in tasks]
    busy = _busy(root, profile) if not dry_run else {}
    fresh = [task for task in tasks if ledger.Job("", task, "", root).key not in busy]
    for task in tasks:
        if task not in fresh:
            screen.say(f"{task.stage} {task.label}: job {busy[ledger.Job('', task, '', root).key]} is at it already")
    if not fresh:
        return
    arrays = stages(fresh, {key[1]: job for key, job in busy.items() if key[0] == "pretrain"})
    if dry_run and profile.kind == "slurm":
        return _show(root, profile, arrays)
    if dry_run:
        return screen.say("\n".join(f"{task.stage} {' '.join(task.arguments)}" for a in arrays for task in a.tasks))
    methods = (w for t in fresh for a, w in zip(t.arguments, t.arguments[1:], strict=False) if a == "--method")
    modules = {name.partition(":")[0] for name in [*methods, *(p for t in fresh for p in t.protocols)]}
    code = snapshot.take(root / "jobs" / "code", [name for name in modules if "." in name])
    submission = ledger.new(root, profile, code)
    if profile.kind == "local":
        return here.run(submission, code, arrays)
    for array in arrays:
        _send(submission, array, code)
    screen.say(f"next: ssl-bench jobs{at_root(root)}      cancel: ssl-bench jobs cancel{at_root(root)}")


def executor(profile: Profile, array: Array, logs: Path, code: Path, ids: dict[str, list[str]]) -> Any:
    """submitit's executor for one array, with everything the profile says."""
    import submitit

    class Anywhere(submitit.SlurmExecutor):
        """Also makes scripts on machines without SLURM; there, submitting fails with sbatch's absence."""

        @classmethod
        def affinity(cls) -> int:
            return 2

        @property
        def _submitit_command_str(self) -> str:
            return command(logs)

    one = profile.for_stage(array.stage)
    wanted = {
        "partition": one.partition, "account": one.account, "qos": one.qos, "constraint": one.constraint,
        "mem": one.memory, "dependency": dependency(array, ids),
        "gpus_per_node": f"{one.gpu_type}:{one.gpus}" if one.gpu_type and one.gpus else one.gpus,
    }  # fmt: skip
    found = Anywhere(logs)
    found.update_parameters(
        job_name=f"ssl-bench-{array.stage}", time=one.minutes, nodes=one.nodes, ntasks_per_node=one.processes,
        cpus_per_task=one.cpus, signal_delay_s=one.signal_seconds, array_parallelism=one.array_limit,
        stderr_to_stdout=True, setup=setup(one, code),
        # Since SLURM 22.05 srun no longer inherits --cpus-per-task. One dead process must take its fellows along.
        srun_args=[f"--cpus-per-task={one.cpus}", "--kill-on-bad-exit=1"],
        additional_parameters={"requeue": True, "kill-on-invalid-dep": "yes"},
        **{key: value for key, value in wanted.items() if value},
    )  # fmt: skip
    return found


def setup(profile: Profile, code: Path) -> list[str]:
    """Lines of bash before srun. A module that does not load ends the job; every value is quoted."""
    variables = {"OMP_NUM_THREADS": str(profile.cpus)} | profile.environment
    return [
        *(f"module load {shlex.quote(name)} || exit 1" for name in profile.modules),
        f"export PYTHONPATH={shlex.quote(snapshot.search_path(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1",
        *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
    ]


def _send(submission: ledger.Submission, array: Array, code: Path) -> None:
    ids: dict[str, list[str]] = {}
    for job in submission.jobs:
        ids.setdefault(job.task.stage, []).append(job.id)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):  # submitit prints there what its exception says too
            sent = executor(submission.profile, array, submission.logs, code, ids).submit_array(array.tasks)
    except Exception as error:  # submitit and sbatch raise many kinds; each is told in SLURM's own words
        why = " ".join((str(error) or said.getvalue()).split())[:500]
        kept = f" {len(submission.jobs)} jobs were submitted before: see ssl-bench jobs." if submission.jobs else ""
        raise UserError(f"SLURM did not take the {array.stage} jobs: {why}.{kept}") from error
    submission.jobs += [
        ledger.Job(job.job_id, task, "slurm", submission.logs) for job, task in zip(sent, array.tasks, strict=True)
    ]
    submission.save()
    number = sent[0].job_id.partition("_")[0]
    screen.say(f"{array.stage}: {len(sent)} job{'s' if len(sent) > 1 else ''}, SLURM number {number}")


def _busy(root: Path, profile: Profile) -> dict[Any, str]:
    """Work that is queued or running already, with the id of its job."""
    jobs = {job.id: job for job in ledger.latest(root) if job.kind == "slurm" and not job.ended_well}
    try:
        known = queue.ask(jobs)
    except queue.NoAnswer as error:
        if profile.kind == "local":
            return {}
        raise UserError(f"Cannot submit: SLURM does not answer ({error}).") from error
    states = ("waiting", "running")
    return {j.key: i for i, j in jobs.items() if i in known and known[i].state in states and j.task.stage != "report"}


def _show(root: Path, profile: Profile, arrays: list[Array]) -> None:
    """What would be given to sbatch; nothing is written."""
    import click

    ids: dict[str, list[str]] = {}
    for array in arrays:
        words = executor(
            profile, array, root.resolve() / "jobs" / "SUBMISSION" / "logs", root.resolve() / "jobs/code/COPY", ids
        )
        number = f"{array.stage.upper()}_JOB" if array.stage not in ids else f"{array.stage.upper()}_JOB_2"
        ids.setdefault(array.stage, []).extend(f"{number.replace('_', '-')}_{i}" for i in range(len(array.tasks)))
        if len(array.tasks) > 1:
            words.parameters["map_count"] = len(array.tasks)
        click.echo(f"# {array.stage}: {len(array.tasks)} jobs: {'; '.join(task.label for task in array.tasks)}")
        click.echo(words._make_submission_file_text(words._submitit_command_str, ""))
