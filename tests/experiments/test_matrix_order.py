"""In which order rows start, and what is told of those at work."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from ssl_bench.experiments import runner
from ssl_bench.experiments.matrix import plan
from ssl_bench.experiments.runner import Matrix


def test_references_run_beside_pretraining(tmp_path: Path):
    rows = plan(["mae", "dino"], ["knn"], 1, "quick", [], tmp_path)
    work = Matrix(rows, tmp_path, 2)
    assert [row.label for row in work._next()] == ["mae seed 0", "dino seed 0", "random seed 0", "pixels"]
    rows[0].state = "pretraining"
    assert [row.label for row in work._next()] == ["random seed 0", "pixels", "dino seed 0"]


def test_an_evaluation_that_takes_long_is_heard(tmp_path: Path, monkeypatch):
    rows = plan(["mae"], ["knn"], 1, "quick", [], tmp_path)
    for row in rows[:-1]:
        row.state = "done"
    work, told = Matrix(rows, tmp_path, 1), []
    real = runner.subprocess.Popen
    script = "import time; print('trying strengths on last/mean: 25%, 0:36 left', flush=True); time.sleep(2)"
    monkeypatch.setattr(runner.subprocess, "Popen", lambda _, **rest: real([sys.executable, "-c", script], **rest))
    work.run(lambda m: None, told.append)
    assert "pixels: trying strengths on last/mean: 25%, 0:36 left" in told
    assert told[-1] == "pixels: done"
    assert re.fullmatch(r"0:0\d in all: 0:00 of pretraining and 0:0[2-9] of evaluation \(100 %\)", work.cost())
    assert not Matrix(rows, tmp_path, 1).cost()
