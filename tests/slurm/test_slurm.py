"""Running on SLURM without one: profiles, scripts, snapshots, what is submitted, and jobs on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from conftest import tiny

from slurm import arrays as slurm_arrays
from slurm import jobs, launch, ledger, profile, snapshot
from slurm.job import Signals, Task
from slurm.start import HELD
from ssl_bench.cli import main
from ssl_bench.config.schema import DataConfig
from ssl_bench.errors import UserError
from ssl_bench.experiments import recorded
from ssl_bench.training import provenance, run_folder
from ssl_bench.training.stop import Stop

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_shipped_profiles_are_valid() -> None:
    assert {"gpu", "local", "local_cluster"} <= set(profile.names())
    for name in profile.names():
        one = profile.load(name)
        assert profile.check(name, profile.to_dict(one)) == one


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("partitoin = 'a'", "unknown key 'partitoin'. Did you mean 'partition'?"),
        ("gpus = '1'", "gpus='1' must be a whole number from 0 to 64."),
        ("gpus = true", "gpus=True must be a whole number"),
        ("nodes = 0", "nodes=0 must be a whole number from 1 to 1024."),
        ("nodes = 0x" + "f" * 9000, "must be a whole number"),
        ("time = '90'", "must be \"HH:MM:SS\""),
        ("time = '99-00:00:00'", "at most 60 days"),
        ("time = '00:01:00'\nsignal_seconds = 60", "must be less than the time limit"),
        ("memory = '64 GB'", 'must be text such as "64G"'),
        ("partition = 'a\\n#SBATCH --wrap=evil'", 'must be text such as "gpu"'),
        ("partition = \"a'; touch x; '\"", 'must be text such as "gpu"'),
        ("account = '$(touch x)'", "must be text such as"),
        ("modules = ['/home/evil/module']", "is not a module name"),
        ("modules = ['cuda; touch x']", "is not a module name"),
        ("modules = 'cuda'", "must be a list"),
        ("environment = {LD_PRELOAD = '/tmp/evil.so'}", "decides which code a job runs"),
        ("environment = {PATH = '/tmp'}", "decides which code a job runs"),
        ("environment = {'A;touch x' = '1'}", "is not a name of a variable"),
        ("environment = {A = \"1\\ntouch x\"}", "must be one line of text"),
        ("environment = {A = 1}", "must be one line of text"),
        ("[evaluation]\ngpu = 1", "unknown key 'evaluation.gpu'. Did you mean 'gpus'?"),
        ("[evaluation]\ngpus = 2", "evaluation uses one GPU at most"),
        ("kind = 'pbs'", 'must be "slurm" or "local"'),
        ("kind = 'local'\npartition = 'a'", "'partition' has no effect"),
        ("gpu_type = 'a100'", "'gpu_type' has no effect while gpus is 0"),
        ("gpus = ", "is not TOML"),
        ("x = " + "[" * 5000, "is not TOML"),
        ("# " + "x" * 70000, "is larger than 65,536 bytes"),
    ],
)  # fmt: skip
def test_wrong_profiles_are_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        profile.load(write(tmp_path, text))
    assert sentence in str(error.value) and len(str(error.value)) < 600


def test_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(UserError, match=re.escape("Unknown profile 'gpus'. Did you mean 'gpu'?")):
        profile.load("gpus")
    with pytest.raises(UserError, match=r"There is no profile file 'not_here\.toml'"):
        profile.load("not_here.toml")


EVERYTHING = """
partition = "gpu,big"
account = "group"
qos = "normal"
constraint = "a100&nvlink"
nodes = 2
gpus = 4
gpu_type = "a100"
cpus = 8
memory = "200G"
time = "1-12:00:00"
signal_seconds = 300
array_limit = 5
modules = ["cuda/12.4"]
environment = {NCCL_DEBUG = "INFO it's", A = "$(touch evil) `touch evil`"}
[evaluation]
time = "01:00:00"
partition = "small"
"""


def script(one: profile.Profile, array: slurm_arrays.Array, ids: dict[str, list[str]], folder: Path) -> str:
    made = launch.executor(one, array, folder / "logs", folder / "it's code", ids)
    text = made._make_submission_file_text(made._submitit_command_str, "")
    assert isinstance(text, str)
    return text


def task(stage: str, run: str, **changes: object) -> Task:
    return Task(stage, run, "/root", run=run, **changes)  # type: ignore[arg-type]


def test_script_says_what_the_profile_says(tmp_path: Path) -> None:
    one = profile.load(write(tmp_path, EVERYTHING))
    text = script(one, slurm_arrays.Array("pretrain", [task("pretrain", "a")]), {}, tmp_path)
    for line in (
        "--partition=gpu,big", "--account=group", "--qos=normal", "--constraint='a100&nvlink'", "--nodes=2",
        "--ntasks-per-node=4", "--gpus-per-node=a100:4", "--cpus-per-task=8", "--mem=200G", "--time=2160",
        "--signal=USR2@300", "--requeue", "--open-mode=append",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in text
    assert "module load cuda/12.4 || exit 1\n" in text and "export PYTHONSAFEPATH=1\n" in text
    evaluation = script(
        one, slurm_arrays.Array("evaluate", [task("evaluate", "a")], paired=True), {"pretrain": ["7"]}, tmp_path
    )
    for line in ("--nodes=1", "--gpus-per-node=a100:1", "--partition=small", "--time=60", "--dependency=afterok:7"):
        assert f"#SBATCH {line}\n" in evaluation


def test_values_of_a_profile_run_nothing(tmp_path: Path) -> None:
    """bash itself executes the lines before srun."""
    one = profile.load(write(tmp_path, EVERYTHING.replace('modules = ["cuda/12.4"]', "")))
    lines = [*launch.setup(one, tmp_path / "it's code"), 'echo "$A|$NCCL_DEBUG|$PYTHONPATH"']
    done = subprocess.run(["bash", "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"$(touch evil) `touch evil`|INFO it's|{tmp_path}/it's code")
    assert not (tmp_path / "evil").exists()


def test_stages_pair_each_evaluation_with_its_pretraining() -> None:
    tasks = [
        task("pretrain", "without"), task("evaluate", "done"), task("pretrain", "b"), task("evaluate", "c"),
        task("evaluate", "b"), task("pretrain", "c"), task("evaluate", "elsewhere"), task("evaluate", ""),
    ]  # fmt: skip
    arrays = slurm_arrays.stages(tasks, {"elsewhere": "55_1"})
    assert [[t.run for t in a.tasks] for a in arrays] == [
        ["b", "c", "without"],
        ["b", "c"],
        ["done", "elsewhere", ""],
        [""],
    ]
    ids = {"pretrain": ["7_0", "7_1", "7_2"], "evaluate": ["8_0", "8_1", "9_0"]}
    assert [slurm_arrays.dependency(a, ids) for a in arrays] == [None, "aftercorr:7", "afterany:55_1", "afterany:8:9"]
    single = slurm_arrays.stages([task("pretrain", "b"), task("evaluate", "b")])
    assert slurm_arrays.dependency(single[1], {"pretrain": ["7"]}) == "afterok:7"
    alone = slurm_arrays.stages([task("report", "")])
    assert [a.stage for a in alone] == ["report"] and slurm_arrays.dependency(alone[0], {}) is None
    with pytest.raises(UserError, match="more than a SLURM array holds"):
        slurm_arrays.stages([task("pretrain", str(i)) for i in range(1001)])


def call(*words: str) -> str:
    done = CliRunner().invoke(main.cli, list(words), standalone_mode=False)
    if done.exception:
        raise done.exception
    return done.output


def settings(photos: Path) -> list[str]:
    shape = ["backbone.embed_dim=32", "backbone.depth=2", "backbone.num_heads=2", "backbone.patch_size=6"]
    data = [f"data.name=folder:{photos}", "data.image_size=24", "data.val_fraction=0.2", "budget.batch_size=12"]
    return [*shape, *data, "run.threads=1", "run.device=cpu"]


def test_dry_run_prints_scripts_and_writes_nothing(photos: Path, tmp_path: Path) -> None:
    words = ["--methods", "mae,simclr", "--seeds", "2", "--protocols", "knn", "--recipe", "quick", "--dry-run"]
    said = call("compare", *words, *settings(photos), "--root", str(tmp_path / "r"), "--slurm", "gpu", "--jobs", "3")
    assert said.count("#!/bin/bash") == 4 and "#SBATCH --array=0-3%3\n" in said
    assert (
        "--dependency=aftercorr:PRETRAIN-JOB\n" in said
        and "--dependency=afterany:EVALUATE-JOB:EVALUATE-JOB-2\n" in said
    )
    assert not (tmp_path / "r").exists()
    said = call("pretrain", "--method", "mae", "--slurm", "gpu", "--dry-run", "--root", str(tmp_path / "r"))
    assert said.count("#!/bin/bash") == 1 and not (tmp_path / "r").exists()


def test_snapshot_is_this_code_and_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = tmp_path / "own_lab_7"
    own.mkdir()
    (own / "idea.py").write_text("VALUE = 1\n")
    (own / "notes.bin").write_text("x")
    first = snapshot.take(tmp_path / "code", ["own_lab_7.idea"])
    assert snapshot.take(tmp_path / "code", ["own_lab_7.idea"]) == first
    (own / "idea.py").write_text("VALUE = 2\n")
    second = snapshot.take(tmp_path / "code", ["own_lab_7.idea"])
    assert second != first and not (first / "own_lab_7" / "notes.bin").exists()
    code = (
        "import os, ssl_bench, slurm.job, own_lab_7.idea as idea;"
        "from ssl_bench import find; from ssl_bench.training import provenance;"
        "print(ssl_bench.__file__, find.HOME, idea.VALUE, provenance.code_state()['commit'])"
    )
    environment = os.environ | {"PYTHONPATH": snapshot.search_path(first), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [
        str(first / "ssl_bench/__init__.py"),
        str(first),
        "1",
        provenance.code_state()["commit"],
    ]


def test_snapshot_takes_new_files_and_leaves_ignored_ones() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in snapshot._clone_files(ROOT)}
    assert {"pyproject.toml", "slurm/job.py", "slurm/gpu.toml", "methods/mae.py"} <= found
    assert not [name for name in found if "__pycache__" in name or name.startswith("tests/")]


def submitted(root: Path, *entries: tuple[str, Task]) -> ledger.Submission:
    made = ledger.new(root, profile.load("local_cluster"), root / "code")
    made.jobs += [ledger.Job(number, one, "slurm", made.logs) for number, one in entries]
    made.save()
    return made


LOGS = {
    "failed": "Traceback (most recent call last):\nKeyError: 'x'\nerror: Non-finite loss nan at step 7\n",
    "cancelled": "step 4\nslurmstepd: error: *** JOB 2 ON n1 CANCELLED AT 2026-11-21T15:00:00 ***\n",
    "timed out": "slurmstepd: error: *** STEP 3.0 ON n1 CANCELLED AT 2026-11-21T15:00:00 DUE TO TIME LIMIT ***\n",
    "out of memory": "slurmstepd: error: Detected 1 oom_kill event in StepId=4.0. Some of the step tasks were killed\n",
    "lost": "step 4\n\x1b[31mand\n",
}


@pytest.mark.parametrize("state", LOGS)
def test_the_end_of_a_log_tells_what_slurm_has_forgotten(tmp_path: Path, state: str) -> None:
    job = ledger.Job("5", task("pretrain", "run"), "slurm", tmp_path)
    assert jobs._from_log(job)[0] == "lost" and "no log: most likely cancelled" in jobs._from_log(job)[1]
    job.log.write_text("submitit INFO (now) - Starting\n" + LOGS[state])
    assert jobs._from_log(job)[0] == state
    assert not any("\x1b" in line or "submitit" in line for line in jobs.tail(job.log))


def test_names_of_jobs() -> None:
    made = [ledger.Job(f"5_{i}", task("pretrain", f"mae-quick-s{i}"), "slurm", ROOT) for i in range(3)]
    views = [jobs.View(job, "running") for job in made]
    assert [v.job.id for v in jobs._chosen(views, ["5_1"], False, "runs")] == ["5_1"]
    assert jobs._chosen(views, ["5", "mae-quick-s2"], False, "runs") == views
    assert jobs._chosen(views, [], True, "runs") == views
    for names, everything, sentence in (
        (["mea-quick-s0"], False, "No job 'mea-quick-s0' that runs. Did you mean 'mae-quick-s0'?"),
        ([], False, "not both"), (["5"], True, "not both"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=re.escape(sentence)):
            jobs._chosen(views, names, everything, "runs")
    with pytest.raises(UserError, match="There is no job that runs"):
        jobs._chosen([], [], True, "runs")


def test_damaged_submission_is_one_sentence(tmp_path: Path) -> None:
    made = submitted(tmp_path, ("5", task("pretrain", "x")))
    path = made.folder / "submission.json"
    values = json.loads(path.read_text())
    for broken in (values | {"jobs": [{"stage": "pretrain"}]}, values | {"values": {"partition": "a;b"}}, {}):
        path.write_text(json.dumps(broken))
        with pytest.raises(UserError, match=r"submission\.json"):
            jobs._views(tmp_path)


def test_a_finished_run_needs_no_job(photos: Path, tmp_path: Path) -> None:
    config = tiny("mae", f"folder:{photos}")
    run = run_folder.start(tmp_path, config)
    run_folder.set_status(run, state="finished", step=6, steps=6)
    submitted(tmp_path, ("5", task("pretrain", run.name)))
    assert [view.state for view in jobs._views(tmp_path)[0]] == ["finished"], "the run folder knows better"


@pytest.fixture
def handlers() -> Iterator[None]:
    numbers = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_usr2_asks_the_training_loop_and_interrupts_everything_else() -> None:
    signals = Signals()
    with signals:
        stop = Stop()
        os.kill(os.getpid(), signal.SIGTERM)  # preemption sends both
        os.kill(os.getpid(), signal.SIGUSR2)
        assert stop.asked and signals.again, "at the end of the step, not in the middle"
        stop.restore()
    signals = Signals()
    os.kill(os.getpid(), signal.SIGTERM)  # outside of training: nothing to save
    os.kill(os.getpid(), signal.SIGUSR2)
    with pytest.raises(KeyboardInterrupt), signals:
        pass  # what came before the work began
    signals = Signals()
    with pytest.raises(KeyboardInterrupt), signals:
        os.kill(os.getpid(), signal.SIGUSR2)


@pytest.mark.usefixtures("handlers")
def test_a_cancelled_job_of_this_machine_is_reported_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        Signals().settle(SimpleNamespace(cluster="local", global_rank=0), 0)
    job = ledger.Job("5", task("pretrain", "run"), "local", tmp_path)
    job.log.write_text("step 4\n")
    assert jobs._from_log(job) == ("lost", "its process is gone and its log says nothing of its end")
    job.log.write_text("step 4\n" + capsys.readouterr().out)
    assert jobs._from_log(job)[0] == "cancelled"


@pytest.mark.usefixtures("handlers")
def test_signals_wait_for_a_task_that_is_not_ready() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)  # another thread of the test worker would die of it
    assert Signals().again


@pytest.mark.slow
def test_local_profile_runs_the_same_jobs(photos: Path, tmp_path: Path) -> None:
    words = ["--methods", "mae", "--seeds", "2", "--protocols", "knn", "--recipe", "quick", "budget.steps=4"]
    words += [*settings(photos), "--root", str(tmp_path), "--slurm", "local"]
    command = [sys.executable, "-m", "ssl_bench", "compare", *words]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert len(list((tmp_path / "records").glob("*.json"))) == 5 and (tmp_path / "report.md").exists()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "All 5 rows are there already" in again.stdout
    assert {view.state for view in jobs._views(tmp_path)[0]} == {"finished"}
    run = run_folder.all_runs(tmp_path)[0]
    assert "code_state.json" not in os.listdir(run.folder)
    assert json.loads((run.folder / "provenance.json").read_text())["command"][0] == "ssl-bench"


def test_an_evaluation_is_known_again_when_its_submission_is_read_back(tmp_path: Path) -> None:
    """Whatever its images are: 24 x 72 pixels are a list in JSON."""
    cell = recorded.Cell.of("run", 0, DataConfig("folder:x", (24, 72), channels=1))
    made = submitted(tmp_path, ("1", Task("evaluate", "run", str(tmp_path), ("eval", "run"), "run", ("knn",), cell)))
    again = ledger.latest(tmp_path)
    assert [job.key for job in again] == [made.jobs[0].key]
    assert recorded.Cell(*again[0].task.encoder).images == cell.images == DataConfig("folder:x", (24, 72), channels=1)
