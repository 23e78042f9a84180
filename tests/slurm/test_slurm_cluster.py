"""On a real SLURM of two nodes that `slurm/local_cluster.sh` starts: whatever happens to a job, its run ends the same.

One storm for all tests: a run is preempted; one runs into its time limit again and again; of an array of six one is
signalled, one requeued by the administrator, one cancelled and tried again; the controller is away and a node dies.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import make_photos, tiny

from slurm import jobs, ledger
from ssl_bench.config.schema import Config
from ssl_bench.training import run_folder
from ssl_bench.training.pretrain import pretrain

SCRIPT = Path(__file__).resolve().parents[2] / "slurm" / "local_cluster.sh"
SEEDS = 6
METHOD = "storm_lab.sleepy"
WRITTEN = ("encoder.safetensors", "metrics.jsonl")
PROFILE = """
partition = "{partition}"
cpus = 1
memory = "1000M"
time = "{time}"
signal_seconds = 5
max_requeues = 15
environment = {{STORM_SLEEP = "0.15"}}
"""
# A method of one's own, which the launcher has to bring along. The pause leaves time for what happens to the jobs.
SOURCE = '''
"""Sleepy: MAE with a rest before every step."""
from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from methods import mae
from ssl_bench.config.schema import Config


class Sleepy(mae.MAE):
    def views(self, images, rng, at):
        time.sleep(float(os.environ.get("STORM_SLEEP", 0)))
        return super().views(images, rng, at)


def quick() -> Config:
    """As MAE's."""
    return replace(mae.quick(), method="storm_lab.sleepy")
'''
pytestmark = pytest.mark.cluster


def call(*words: str | Path, check: bool = True, timeout: float = 120) -> str:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=timeout, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def until(what: Callable[[], object], seconds: float = 240) -> None:
    """Wait for it; a bounded time, far more than it takes."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, (
            f"gave up after {seconds} s; the queue: {call('squeue', '-o', '%i %T %r %N')}"
        )
        time.sleep(0.3)


@dataclass
class Storm:
    root: Path
    photos: Path
    started: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:6.1f} s  {text}", flush=True)

    def settings(self, steps: int) -> list[str]:
        shape = ["backbone.embed_dim=32", "backbone.depth=2", "backbone.num_heads=2", "backbone.patch_size=6"]
        data = [f"data.name=folder:{self.photos}", "data.image_size=24", "data.val_fraction=0.2"]
        keep = ["run.log_every=1", "run.device=cpu", "run.threads=1", "run.checkpoint_steps=20", "monitor_points=2"]
        return [*shape, *data, *keep, "budget.batch_size=12", f"budget.steps={steps}", "--root", str(self.root)]

    def submit(self, command: str, *words: str, partition: str = "main", limit: str = "01:00:00", steps: int) -> None:
        profile = self.root / f"{partition}-{steps}.toml"
        profile.parent.mkdir(exist_ok=True)
        profile.write_text(PROFILE.format(partition=partition, time=limit))
        line = ["-m", "ssl_bench", command, *words, "--recipe", "quick", "--slurm", str(profile), *self.settings(steps)]
        call(sys.executable, *line)

    def job(self, run: str) -> ledger.Job:
        return next(j for j in ledger.latest(self.root) if j.task.stage == "pretrain" and j.task.run == run)

    def step(self, run: str) -> int:
        return int(run_folder.Run(self.root / run).status().get("step", 0))

    def state(self, run: str) -> str:
        views, _ = jobs._views(self.root)
        return next(v.state for v in views if v.job.task.stage == "pretrain" and v.job.task.run == run)

    def training(self, run: str, past: int = 30) -> Callable[[], bool]:
        return lambda: self.step(run) > past

    def finished(self, run: str) -> bool:
        return run_folder.Run(self.root / run).status().get("state") == "finished"


def config(storm: Storm, seed: int, steps: int) -> Config:
    return tiny(METHOD, f"folder:{storm.photos}", steps=steps, seed=seed)


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storm]:
    """The cluster, and everything that happens on it."""
    if not shutil.which("slurmctld", path=os.environ["PATH"] + ":/usr/sbin"):
        pytest.skip("SLURM is not installed: slurm/local_cluster.sh install (Debian, as root)")
    before, home = dict(os.environ), os.getcwd()
    os.environ |= {
        "LOCAL_SLURM_DIR": f"/tmp/ssl-bench-{os.getpid()}",
        "LOCAL_SLURM_PORT": "17817",
        "LOCAL_SLURM_CPUS": "3",
    }
    try:
        up = subprocess.run([SCRIPT, "start"], capture_output=True, text=True, timeout=120, check=False)
        if up.returncode:
            pytest.skip(f"SLURM does not start here: {up.stderr.strip()[-300:]}")
        os.environ["SLURM_CONF"] = os.environ["LOCAL_SLURM_DIR"] + "/slurm.conf"
        place = tmp_path_factory.mktemp("storm")
        (place / "storm_lab").mkdir()
        (place / "storm_lab" / "sleepy.py").write_text(SOURCE)
        os.chdir(place)
        made = Storm(place / "runs", make_photos(tmp_path_factory.mktemp("data")))
        _preempt(made)
        _disturb(made)
        yield made
    finally:
        os.chdir(home)
        subprocess.run([SCRIPT, "clean"], timeout=120, check=False)
        os.environ.clear()
        os.environ.update(before)


PREEMPTED, LONG = (100, 300), (101, 700)  # seed, steps
STEPS = 400  # of a run of the array


def _preempt(storm: Storm) -> None:
    """The jobs of the partition `main` need more than is left beside a run of the partition `preempt`."""
    seed, steps = PREEMPTED
    storm.submit("pretrain", "--method", METHOD, "--seed", str(seed), partition="preempt", steps=steps)
    name = run_folder.run_name(config(storm, seed, steps))
    until(storm.training(name))
    storm.say(f"{storm.job(name).id} is at step {storm.step(name)} when the others come")
    long = ("pretrain", "--method", METHOD, "--seed", str(LONG[0]))
    array = ("compare", "--methods", METHOD, "--seeds", str(SEEDS), "--protocols", "knn")
    with ThreadPoolExecutor() as pool:
        for done in [
            pool.submit(storm.submit, *long, limit="00:01:00", steps=LONG[1]),
            pool.submit(storm.submit, *array, steps=STEPS),
        ]:
            done.result()
    until(lambda: "queued again" in storm.job(name).log.read_text())
    storm.say(f"{storm.job(name).id} was preempted")


def _disturb(storm: Storm) -> None:
    names = [run_folder.run_name(config(storm, seed, STEPS)) for seed in range(SEEDS)]
    signalled, requeued, cancelled, *_ = names
    until(storm.training(signalled))
    storm.say(f"USR2 to {storm.job(signalled).id} at step {storm.step(signalled)}")
    number = call("squeue", "-h", "-j", storm.job(signalled).id, "-o", "%A").strip()  # of this task alone: for 123_0
    call("scancel", "--signal=USR2", number)  # scancel would go on asking a job that has queued itself again
    until(storm.training(requeued))
    storm.say(f"scontrol requeue {storm.job(requeued).id} at step {storm.step(requeued)}")
    call("scontrol", "requeue", storm.job(requeued).id)
    until(storm.training(cancelled))
    storm.say(f"scancel {storm.job(cancelled).id} at step {storm.step(cancelled)}")
    call("scancel", storm.job(cancelled).id)
    until(lambda: storm.state(cancelled) == "cancelled", 60)
    shown = call(sys.executable, "-m", "ssl_bench", "jobs", "--root", storm.root)
    (storm.root / "shown.txt").write_text(shown)
    storm.say("jobs says: " + next(line for line in shown.splitlines() if storm.job(cancelled).id in line))
    before = storm.step(cancelled)
    call(sys.executable, "-m", "ssl_bench", "jobs", "retry", storm.job(cancelled).id, "--root", storm.root)
    until(storm.training(cancelled, before + 20))
    job = storm.job(cancelled).id
    storm.say(f"the controller goes away for 20 s while {job} is at step {storm.step(cancelled)}")
    call(SCRIPT, "controller-stop")
    time.sleep(20)
    call(SCRIPT, "controller-start")
    storm.say(f"the controller is back, {job} is at step {storm.step(cancelled)}")
    # The controller must have heard from every node again, or it does not miss one that dies.
    until(lambda: "*" not in call("sinfo", "-h", "-N", "-o", "%T"))
    node = call("squeue", "-h", "-j", job, "-o", "%N").strip()
    call(SCRIPT, "node-kill", node)
    storm.say(f"node {node} has died with {job} at step {storm.step(cancelled)}")
    until(lambda: "State=DOWN" in call("scontrol", "show", "node", node))  # sinfo goes on saying "mixed*"
    # It stays down: SLURM repeats its order to end the lost job a minute later, and a node that is back by then, with
    # the job on it again, obeys.
    until(lambda: all(job.ended_well for job in ledger.latest(storm.root)), 400)
    storm.say("all jobs have ended well")


def cases(storm: Storm) -> list[tuple[int, int]]:
    return [*((seed, STEPS) for seed in range(SEEDS)), PREEMPTED, LONG]


@pytest.mark.parametrize("which", range(SEEDS + 2))
def test_ends_as_an_undisturbed_run(storm: Storm, which: int, tmp_path: Path) -> None:
    seed, steps = cases(storm)[which]
    same = config(storm, seed, steps)
    quiet = pretrain(same, tmp_path)
    for name in WRITTEN:
        assert (quiet.folder / name).read_bytes() == (storm.root / quiet.name / name).read_bytes(), name
    status = (quiet.status(), run_folder.Run(storm.root / quiet.name).status())
    assert all(s["state"] == "finished" and s["step"] == steps for s in status)


def log(storm: Storm, which: tuple[int, int]) -> str:
    return storm.job(run_folder.run_name(config(storm, *which))).log.read_text()


def test_time_limits_and_preemption_were_met_in_time(storm: Storm) -> None:
    assert log(storm, LONG).count("queued again") >= 2, "the run was meant to run out of time twice"
    assert log(storm, PREEMPTED).count("queued again") >= 1 and "PREEMPTION" not in log(storm, PREEMPTED)
    assert log(storm, (0, STEPS)).count("queued again") >= 1
    for which in (LONG, PREEMPTED, (0, STEPS), (1, STEPS), (2, STEPS)):
        assert "going on at step" in log(storm, which), which


def test_a_cancelled_job_is_told_and_its_evaluation_comes_back(storm: Storm) -> None:
    shown = (storm.root / "shown.txt").read_text()
    assert "cancelled" in shown and "ssl-bench jobs retry --all" in shown
    assert {view.state for view in jobs._views(storm.root)[0]} == {"finished"}


def test_no_record_is_lost_or_doubled(storm: Storm) -> None:
    records = [json.loads(p.read_text()) for p in (storm.root / "records").glob("*.json")]
    seen = sorted((r["method"], r["seeds"]["pretrain"] or 0, r["protocol"]) for r in records)
    expected = [(METHOD, s, "knn") for s in range(SEEDS)] + [("random", s, "knn") for s in range(SEEDS)]
    assert seen == sorted([*expected, ("pixels", 0, "knn")])
    steps = [json.loads(line)["step"] for p in storm.root.glob("*/metrics.jsonl") for line in p.open()]
    assert len(steps) == sum(steps for _, steps in cases(storm))
    assert METHOD in (storm.root / "report.md").read_text()
