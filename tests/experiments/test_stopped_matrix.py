"""A comparison that is asked to stop, or whose run another process holds: real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ssl_bench.errors import UserError
from ssl_bench.experiments.matrix import plan
from ssl_bench.experiments.runner import Matrix
from ssl_bench.training import checkpoint, run_folder

STEPS = 10**6


def settings(photos: Path) -> list[str]:
    shape = ["backbone.embed_dim=32", "backbone.depth=2", "backbone.num_heads=2", "backbone.patch_size=6"]
    data = [f"data.name=folder:{photos}", "data.image_size=24", "data.val_fraction=0.2", "budget.batch_size=12"]
    return [*shape, *data, f"budget.steps={STEPS}", "run.threads=1", "run.device=cpu"]


@contextmanager
def started(photos: Path, root: Path) -> Iterator[subprocess.Popen[str]]:
    """A comparison of two seeds that will not end by itself, in a process group of its own, as a shell starts it."""
    line = [sys.executable, "-m", "ssl_bench", "compare", "--methods", "mae", "--recipe", "quick", "--seeds", "2"]
    line += ["--protocols", "knn", "--no-references", "--jobs", "2", "--root", str(root), *settings(photos)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # as it should be
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_steps(process: subprocess.Popen[str], root: Path, after: dict[str, int]) -> None:
    """Until both seeds train beyond these steps."""
    deadline = time.monotonic() + 120
    while len(runs := run_folder.all_runs(root)) < 2 or any(
        run.status().get("state") != "running" or run.status().get("step", 0) <= after.get(run.name, 0) for run in runs
    ):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)


def left_of(process: subprocess.Popen[str]) -> list[str]:
    """Processes of its group that live."""
    shown = subprocess.run(["ps", "-o", "stat=", "-g", str(process.pid)], capture_output=True, text=True).stdout.split()
    return [state for state in shown if not state.startswith("Z")]


@pytest.mark.slow
def test_a_signal_to_a_comparison_alone_reaches_its_runs_and_the_same_command_goes_on(
    photos: Path, tmp_path: Path
) -> None:
    kept: dict[str, int] = {}
    for send in ("SIGTERM", "SIGINT", "Ctrl-C"):
        with started(photos, tmp_path) as process:
            wait_for_steps(process, tmp_path, kept)
            if send == "Ctrl-C":  # as a terminal sends it, to all
                os.killpg(process.pid, signal.SIGINT)
            else:
                process.send_signal(signal.Signals[send])
            said, errors = process.communicate(timeout=120)
            assert process.returncode == 130 and "The same command goes on from the last checkpoint" in errors, send
            assert said.count("stopping: runs end their step") == 1 and "failed" not in said, send
            assert left_of(process) == [], send
        found = run_folder.all_runs(tmp_path)
        assert [run.status()["state"] for run in found] == ["interrupted"] * 2, send
        assert [run.read_json("provenance.json")["resumed_at"] for run in found] == [kept.get(r.name, 0) for r in found]
        kept = {run.name: checkpoint.read(run.folder / "last.ckpt")["step"] for run in found}


def test_a_run_that_another_process_holds_fails_with_that_sentence(photos: Path, tmp_path: Path) -> None:
    """Though the other one goes on writing into the same log."""
    rows = plan(["mae"], ["knn"], 1, "quick", settings(photos), tmp_path, references=False)
    work, told, over = Matrix(rows, tmp_path, 1), list[str](), threading.Event()
    assert rows[0].run is not None
    log = tmp_path / "logs" / "mae-seed-0.log"
    log.write_text("error: of an earlier try\n")

    def orphan() -> None:
        while not over.wait(0.01):
            with open(log, "a") as file:
                file.write("mae: step 7 of 1,000,000, 3:00 left\n")

    with run_folder.lock(rows[0].run):
        (writer := threading.Thread(target=orphan)).start()
        try:
            work.run(lambda m: None, told.append)
        finally:
            over.set()
            writer.join()
    failed = next(line for line in told if " failed " in line)
    assert failed.startswith("mae seed 0 failed while pretraining: error: Another process (process ")


def test_an_error_beside_the_rows_leaves_no_child(photos: Path, tmp_path: Path) -> None:
    rows = plan(["mae"], ["knn"], 1, "quick", settings(photos), tmp_path, references=False)

    def full(matrix: Matrix) -> None:
        raise UserError("no space left")

    with pytest.raises(UserError, match="no space left"):
        Matrix(rows, tmp_path, 1).run(full, lambda line: None)
    assert rows[0].process is not None and rows[0].process.poll() is not None
