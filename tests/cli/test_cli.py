"""The command line as a user meets it: output and exit codes, in real processes where a process of its own matters."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_bench.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "add-your-method.md").read_text(encoding="utf-8")
IDEA = PAGE.split("```python\n")[1].split("```")[0]  # the example of the documentation is the one that is tried


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ssl_bench", *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )


def call(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """As `run`, in this process: a start costs seconds."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.chdir(cwd or os.getcwd()), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main.main(list(arguments))
        except SystemExit as stop:
            code = int(stop.code or 0)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def tiny(photos: Path, root: Path) -> list[str]:
    data = [f"data.name=folder:{photos}", "data.image_size=24", "data.val_fraction=0.2"]
    shape = ["backbone.embed_dim=32", "backbone.depth=2", "backbone.num_heads=2", "backbone.patch_size=6"]
    return ["--root", str(root), *data, *shape, "budget.steps=4", "budget.batch_size=12", "run.threads=1"]


def test_pretrain_eval_report(photos: Path, tmp_path: Path) -> None:
    done = run("pretrain", "--method", "mae", "--recipe", "quick", *tiny(photos, tmp_path))
    assert done.returncode == 0, done.stderr
    assert "finished mae-quick-s0-" in done.stdout
    assert re.search(r"k-NN of a few held-out images: [\d.]+ %, of the untrained network [\d.]+ %", done.stdout)
    assert "next: ssl-bench eval" in done.stdout
    evaluated = run("eval", "--protocol", "knn", "--root", str(tmp_path), "--threads", "1")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "newest finished run: mae-quick-s0-" in evaluated.stdout
    for form in ("terminal", "markdown", "csv", "latex", "json"):
        table = call("report", "--format", form, "--root", str(tmp_path))
        assert table.returncode == 0, table.stderr
        assert "mae" in table.stdout
    record = json.loads(next((tmp_path / "records").glob("*.json")).read_text())
    assert record["method"] == "mae" and record["data"]["num_test"] == 36 and record["compute"]["pretrain"]["flops"] > 0


def test_compare_skips_what_is_there_and_a_scratch_method_needs_one_file(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "idea.py").write_text(IDEA)
    assert len(IDEA.strip().splitlines()) < 60
    line = ["compare", "--methods", "my_lab.idea,mae", "--protocols", "knn", "--seeds", "2", "--recipe", "quick"]
    first = run(*line, *tiny(photos, tmp_path / "runs"), cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    for name in ("my_lab.idea", "mae", "random", "pixels"):
        assert name in first.stdout
    again = run(*line, *tiny(photos, tmp_path / "runs"), cwd=tmp_path)
    assert "7 are there already" in again.stdout
    assert len(list((tmp_path / "runs" / "records").glob("*.json"))) == 7


def test_images_that_no_row_can_use_are_told_once_and_before_any_row(photos: Path, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    for i, image in enumerate(sorted((photos / "train").rglob("*.png"))):
        (loose / f"{i}.png").write_bytes(image.read_bytes())
    line = ["compare", "--methods", "mae", "--recipe", "quick", "--seeds", "1", "--data", f"folder:{loose}"]
    settings = ["data.image_size=24", "backbone.patch_size=6", "--root", str(tmp_path / "runs")]
    done = call(*line, *settings)
    assert done.returncode == 2 and "has no labels to evaluate by" in done.stderr and "--eval-data" in done.stderr
    (loose / "0.png").write_bytes(b"")
    done = call(*line, *settings)
    assert done.stderr.count("cannot be read") == 1 and "--bad-limit 0.009" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_failed_row_is_told_and_the_others_go_on(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "my_lab").mkdir()
    broken = IDEA.replace("x.flip(-1)}", "x.flip(-1) / 0 * 0}")
    (tmp_path / "my_lab" / "idea.py").write_text(broken)
    line = ["compare", "--methods", "my_lab.idea,mae", "--protocols", "knn", "--seeds", "1", "--recipe", "quick"]
    done = run(*line, *tiny(photos, tmp_path / "runs"), cwd=tmp_path)
    assert done.returncode == 2
    assert "my_lab.idea seed 0 failed while pretraining: error: Non-finite loss" in done.stdout
    assert "mae seed 0: done" in done.stdout
    assert "1 of 4 rows failed" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("pretrain --method ijpea", "Unknown method 'ijpea'. Did you mean 'ijepa'?"),
        (
            "pretrain --method mae --recipe tiny",
            "Method 'mae' has no recipe 'tiny'. Valid: clips, paper, points, quick, small, sound.",
        ),
        ("pretrain --method mae optim.rl=1", "Unknown setting 'optim.rl'. Did you mean 'optim.lr'?"),
        ("pretrain --method mae optim.lr=high", "optim.lr='high' must be a number."),
        ("pretrain --method mae data.name=folder:/not/here", "No such path: /not/here."),
        ("pretrain --method mae --data folder:EMPTY", "No images in"),
        ("compare --data folder:a data.name=folder:b", "'data.name' is set twice"),
        ("pretrain --method mae budget.steps=-3", "budget.steps=-3 must be positive."),
        ("pretrain --method mae data.image_size=50", "data.image_size=50 is not divisible by"),
        ("eval --protocol lineal", "Unknown protocol 'lineal'. Did you mean 'linear'?"),
        ("eval --protocol knn", "No finished run in"),
        ("eval nothing --protocol knn", "No run 'nothing'"),
        ("report", "There are no records at"),
        ("pretrian", "No command 'pretrian'. Did you mean 'pretrain'?"),
        ("compare --methods mae --seeds 0", "at least one seed"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(arguments: str, sentence: str, tmp_path: Path) -> None:
    words = arguments.replace("EMPTY", str(tmp_path)).split()
    root = [] if words[0] == "pretrian" else ["--root", str(tmp_path / "runs")]
    done = call(*words, *root, cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr + done.stdout


def test_lists_and_show() -> None:
    listed = call("list", "methods")
    assert all(name in listed.stdout for name in ("ijepa", "mae", "dino", "supervised"))
    assert "clothing48" in call("list", "datasets").stdout
    assert "knn" in call("list", "protocols").stdout
    assert "quick" in call("list", "recipes").stdout
    shown = call("show", "ijepa", "--recipe", "paper", "optim.lr=0.1")
    assert "optim.lr" in shown.stdout and "0.1" in shown.stdout
