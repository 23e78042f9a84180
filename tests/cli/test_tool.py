"""The tool as a tool: help, plans before work, what is found and what is left behind."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from conftest import tiny
from rich.console import Console

from ssl_bench import screen
from ssl_bench.cli import main, runs
from ssl_bench.errors import UserError
from ssl_bench.evaluation.evaluate import evaluate_all
from ssl_bench.experiments import forecast, pictures
from ssl_bench.training import rate, run_folder
from ssl_bench.training.pretrain import pretrain
from ssl_bench.training.stop import Stop

COMMANDS = main.cli.list_commands(click.Context(main.cli))
HEAVY = ("torch", "timm", "pandas", "numpy", "rich", "scipy")


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure two steps and no more."""
    monkeypatch.setattr(rate, "LONG", 0.0)


def call(*arguments: str) -> Result:
    """In this process; a `UserError` comes back as `exception`."""
    return CliRunner().invoke(main.cli, arguments)


def small(photos: Path, root: Path, steps: int = 4) -> list[str]:
    data = [f"data.name=folder:{photos}", "data.image_size=24", "data.val_fraction=0.2"]
    shape = ["backbone.embed_dim=32", "backbone.depth=2", "backbone.num_heads=2", "backbone.patch_size=6"]
    return ["--root", str(root), *data, *shape, f"budget.steps={steps}", "budget.batch_size=12", "run.threads=1"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    shown = call(name, "--help")
    assert shown.exit_code == 0
    assert "Example: ssl-bench" in shown.output
    command = main.cli.load(name)
    summary = main.cli.get_command(click.Context(main.cli), name)
    assert summary and summary.get_short_help_str(200) == command.get_short_help_str(200), "lists read it unimported"
    assert all(option.help for option in command.params if isinstance(option, click.Option)), "an option without help"


def test_help_imports_nothing_heavy_and_cuts_no_sentence() -> None:
    loaded = f"print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    code = f"import sys\nfrom ssl_bench.cli import main\ntry: main.main([])\nexcept SystemExit: pass\n{loaded}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "Commands:" in done.stdout and "quickstart" in done.stdout
    assert not [line for line in done.stdout.splitlines() if line.startswith("  ") and line.endswith("...")]


def test_dry_run_prints_the_plan_and_leaves_nothing(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    plan = call("pretrain", "--method", "mae", "--recipe", "quick", "--dry-run", *small(photos, root))
    assert plan.exit_code == 0, plan.output
    assert "4 steps of 12 images" in plan.output and "FLOP" in plan.output and "Nothing was started" in plan.output
    line = ["--methods", "mae,simclr", "--recipe", "quick", "--seeds", "2", "--protocols", "knn", "--jobs", "2"]
    table = call("compare", *line, "--dry-run", *small(photos, root))
    assert table.exit_code == 0, table.output
    assert table.output.count("new") == 4 and "7 evaluations" in table.output
    line = ["--methods", "mae", "--recipe", "quick", "--seeds", "1", "--protocols", "knn", "--eval-data"]
    table = call("compare", *line, "clothing48,factors", "--dry-run", *small(photos, root))
    assert table.output.count("new") == table.output.count("as above") == 1 and "6 evaluations" in table.output
    assert not root.exists()


def test_an_estimate_counts_what_the_run_will_count(photos: Path, tmp_path: Path) -> None:
    config = tiny("mae", f"folder:{photos}", steps=5)
    e, run = forecast.estimate(config), pretrain(config, tmp_path)
    cost = run.compute()
    assert (e.steps, e.images, e.flops, e.device) == (cost["steps"], cost["images"], cost["flops"], cost["device"])
    assert e.seconds > 0 and e.memory > 1e7
    left = sum((run.folder / name).stat().st_size for name in ("last.ckpt", "last.ckpt", "encoder.safetensors"))
    assert e.disk == pytest.approx(left, rel=0.3)


def test_dry_run_checks_what_a_run_checks(photos: Path, tmp_path: Path) -> None:
    wrong = call("pretrain", "--method", "mae", "--dry-run", *small(photos, tmp_path), "optim.lr=-1")
    assert isinstance(wrong.exception, UserError) and "must be positive" in str(wrong.exception)


def test_every_kind_of_encoder_is_listed() -> None:
    from ssl_bench.encoders import known, published

    assert {family for family, *_ in known.FILES} == set(published.DROPPED)
    shown = call("list", "encoders").output
    assert all(word in shown for word in ("RUN", "random:RUN", "pixels", "timm:NAME", "hf:NAME", "hub:REPO:NAME"))
    assert shown.count("file:PATH") == len(known.FILES) and "CC BY-NC 4.0" in shown


@pytest.mark.parametrize(("values", "drawn"), [
    ([1.0, 2.0, 3.0], "▁▅█"), ([5.0], "▁"), ([0.0, float("nan"), 1.0], "▁?█"), ([2.0] * 100, "▁" * 8),
    ([*[0.0] * 50, *[1.0] * 50], "▁▁▁▁████"), ([float("nan")], "?"),
])  # fmt: skip
def test_sparkline(values: list[float], drawn: str) -> None:
    assert screen.sparkline(values, 8) == drawn


def trained(photos: Path, root: Path, seed: int = 0) -> run_folder.Run:
    config = tiny("mae", f"folder:{photos}", steps=4)
    return pretrain(replace(config, seed=seed), root)


def test_show_says_all_that_is_known_of_a_run(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen.console, "width", 140)
    both = [trained(photos, tmp_path, seed) for seed in (0, 1)]
    for run in both:
        list(evaluate_all(run.name, ["knn"], run.config().data, tmp_path))
    run_folder.set_status(both[0], collapsed=True, collapse_reason="all images map to one vector")
    shown = call("show", both[0].name, "--root", str(tmp_path)).output
    for said in ("finished", "changed", "backbone.embed_dim=32", "budget.steps=4", "loss ", "val k-NN", "knn", "(2)",
                 "4 steps, 48 images", "COLLAPSED: all images", "ssl-bench export"):  # fmt: skip
        assert said in shown, said
    _pictures(both[0], monkeypatch)
    wrong = call("show", both[0].name, "optim.lr=1", "--root", str(tmp_path))
    assert isinstance(wrong.exception, UserError) and "has no effect" in str(wrong.exception)
    assert "objective.mask_ratio" in call("show", "mae").output


def _pictures(run: run_folder.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The features that an evaluation left give the same neighbours as none."""
    kept = pictures.of_run(run, 3)
    assert [p.title.split()[0] for p in kept] == ["Views", "Reconstruction:", "PCA", "Matches:", "Attention", "Nearest"]
    monkeypatch.setattr(pictures.features, "kept", lambda *_: None)
    assert [p.alt for p in pictures.of_run(run, 3)] == [p.alt for p in kept]


def test_progress_is_lines_with_the_time_left_where_nobody_watches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 100, 4))
    monkeypatch.setattr(screen.time, "monotonic", lambda: next(clock))
    assert list(screen.counted("pictures of", ["a", "b", "c"])) == ["a", "b", "c"]
    assert capsys.readouterr().out == "pictures of b, 2 of 3, 0:16 left\n"


def test_show_tells_how_an_unfinished_run_goes_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen.console, "width", 2000)
    line = ["--method", "mae", "--recipe", "quick", *small(photos, tmp_path, 20), "objective.mask_ratio=0.5"]
    assert call("pretrain", *line).exit_code == 0
    run = run_folder.all_runs(tmp_path)[0]
    run_folder.set_status(run, state="interrupted", step=7)
    shown = call("show", run.name, "--root", str(tmp_path)).output
    assert "interrupted at step 7 of 20" in shown
    command = next(row for row in shown.splitlines() if "goes on" in row).split("   ")[0].split()
    before = [run.name for run in run_folder.all_runs(tmp_path)]
    assert call(*command[1:], "run.threads=1").exit_code == 0
    assert [run.name for run in run_folder.all_runs(tmp_path)] == before, "the same run, not another"


def test_runs_lists_filters_and_prune_spares_what_matters(photos: Path, tmp_path: Path) -> None:
    done, gone, dead, busy = (trained(photos, tmp_path, seed) for seed in range(4))
    list(evaluate_all(done.name, ["knn"], done.config().data, tmp_path))
    run_folder.set_status(gone, state="failed", reason="loss nan")
    run_folder.set_status(dead, state="running")  # and nobody holds its lock: killed
    run_folder.set_status(busy, state="running")
    for run in (gone, dead):
        (run.folder / "encoder.safetensors").unlink()
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "config.json").write_text('{"architecture": "vit_base_patch16_224"}')
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    with run_folder.lock(busy):
        states = {row["run"].name: row["state"] for row in runs.look(tmp_path)}
        assert states == {done.name: "finished", gone.name: "failed", dead.name: "died", busy.name: "running"}
        assert "1 run in" in call("runs", "--state", "failed", "--root", str(tmp_path)).output
        assert "No run" in call("runs", "--method", "dino", "--root", str(tmp_path)).output
        asked = CliRunner().invoke(main.cli, ["prune", "--root", str(tmp_path)], input="n\n")
        assert "Nothing was deleted" in asked.output and {p for p in tmp_path.rglob("*") if p.is_file()} == before, (
            "no is no"
        )
        assert call("prune", "--keep-unfinished", "--yes", "--root", str(tmp_path)).exit_code == 0
        assert gone.folder.exists() and not (done.folder / "last.ckpt").exists()
        assert "freed" in call("prune", "--yes", "--root", str(tmp_path)).output
    assert not gone.folder.exists() and not dead.folder.exists()
    left = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert {p for p in before - left if p.is_relative_to(done.folder)} == {done.folder / "last.ckpt"}
    assert {p for p in before if p.is_relative_to(busy.folder)} <= left
    assert {p for p in before if "records" in p.parts or "exported" in p.parts} <= left
    assert "Nothing to prune" in call("prune", "--root", str(tmp_path), "--keep-unfinished").output


def test_prune_keeps_a_run_that_ended_while_its_question_stood(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(photos, tmp_path)
    encoder = run.folder / "encoder.safetensors"
    weights = encoder.read_bytes()
    encoder.unlink()
    run_folder.set_status(run, state="failed", reason="killed")

    def answered(text: str) -> bool:
        encoder.write_bytes(weights)
        run_folder.set_status(run, state="finished")
        return True

    monkeypatch.setattr("click.confirm", answered)
    shown = call("prune", "--root", str(tmp_path)).output
    assert "the whole run" in shown and f"kept {run.name}: it has changed" in " ".join(shown.split())
    assert encoder.exists() and (run.folder / "last.ckpt").exists()


@pytest.mark.parametrize("status", [None, b"", b"{", b"null", b'{"state": "failed"}', b'{"state": "running"}'])
def test_prune_keeps_a_run_with_an_encoder_whatever_its_status_says(
    status: bytes | None, photos: Path, tmp_path: Path
) -> None:
    run = trained(photos, tmp_path)
    (run.folder / "status.json").unlink()
    if status is not None:
        (run.folder / "status.json").write_bytes(status)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    if b"state" not in (status or b""):
        assert [row["state"] for row in runs.look(tmp_path)] == ["finished"]
    assert "Nothing to prune" in call("prune", "--yes", "--root", str(tmp_path)).output
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    pretrain(run.config(), tmp_path)  # the checkpoint brings its status back
    assert run.status()["state"] == "finished" and "last.ckpt" in call("prune", "--yes", "--root", str(tmp_path)).output
    assert (run.folder / "encoder.safetensors").exists() and not (run.folder / "last.ckpt").exists()


def test_doctor_measures_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssl_bench.cli import doctor

    monkeypatch.setattr(doctor, "SECONDS", 0.02)
    facts, slow = doctor.examine(tmp_path / "runs")
    found = dict(facts)
    assert {"libraries", "CPU", "CPU features", "CPU products", "runs", "cache"} <= set(found)
    assert "bfloat16" in found["CPU products"] and "free, writes" in found["runs"] and not list(tmp_path.iterdir())
    assert all(sentence.endswith(".") for sentence in slow)


def test_completion_knows_commands_without_importing_them() -> None:
    asked = {"_SSL_BENCH_COMPLETE": "bash_complete", "COMP_WORDS": "ssl-bench ", "COMP_CWORD": "1"}
    names = CliRunner().invoke(main.cli, env=asked, prog_name="ssl-bench").output.split()
    assert {f"plain,{name}" for name in COMMANDS} <= set(names)
    source = CliRunner().invoke(main.cli, env={"_SSL_BENCH_COMPLETE": "bash_source"}, prog_name="ssl-bench").output
    assert "complete -o nosort -F" in source


def test_the_live_table_fits_a_small_terminal_and_shows_what_is_at_work() -> None:
    rows: list[dict[str, Any]] = [{"label": f"mae seed {i}", "state": "done", "status": {}} for i in range(30)]
    seen: dict[str, Any] = {"step": 12345, "steps": 123456, "images_per_second": 1234.5, "loss": -0.1, "knn": 0.456}
    seen |= {
        "seconds_left": 61,
        "collapse": "all images map to nearly one vector (normalised std 0.020; isotropic is 1)",
    }
    rows.append({"label": "ijepa seed 0", "state": "pretraining", "status": seen})
    console = Console(width=80, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        console.print(screen.matrix(rows, 60.0, None, height=20))
    shown = capture.get()
    assert len(shown.splitlines()) <= 20 and shown.rstrip().endswith("17 rows not shown")
    for word in ("pretraining", "1,234", "45.6 %", "1:01", "ijepa seed 0 collapses: all images"):
        assert word in shown


def test_the_first_ctrl_c_says_what_the_second_does(capsys: pytest.CaptureFixture[str]) -> None:
    stop = Stop()
    try:
        stop(signal.SIGINT, None)
        assert stop.asked and "Ctrl-C again stops at once" in " ".join(capsys.readouterr().out.split())
        with pytest.raises(KeyboardInterrupt):
            stop(signal.SIGINT, None)
    finally:
        stop.restore()


def test_a_quantity_never_reads_a_thousand_of_a_smaller_unit() -> None:
    assert [screen.quantity(x, "B") for x in (9.997e11, 9.99e11, 999.4, 0.5)] == ["1 TB", "999 GB", "999 B", "0.5 B"]


def test_the_quickstart_of_every_kind_can_be_planned(tmp_path):
    from ssl_bench.cli.quickstart import STARTS
    from ssl_bench.experiments import matrix

    for start in STARTS.values():
        rows = matrix.plan(start.methods, ["knn"], 1, start.recipe, [f"budget.flops={start.flops:g}"], tmp_path)
        labels = [row.label for row in rows]
        assert labels[: len(start.methods)] == [f"{method} seed 0" for method in start.methods]
        assert labels[-2:] == ["random seed 0", "pixels"]


def test_run_threads_of_a_comparison_are_those_of_its_evaluations_too(tmp_path, monkeypatch):
    from ssl_bench.experiments import matrix, runner

    started: list[list[str]] = []
    monkeypatch.setattr(runner.Matrix, "_spawn", lambda self, arguments, log: started.append(arguments))
    for settings, threads in (([], runner.share(1)[1]), (["run.threads=7"], 7)):
        rows = matrix.plan(["mae"], ["knn"], 1, "quick", settings, tmp_path)
        (one := runner.Matrix(rows, tmp_path, 1))._advance(rows[-1], 0, lambda line: None)
        assert started[-1][0] == "eval" and started[-1][started[-1].index("--threads") + 1] == str(threads)
        one._advance(rows[0], 0, lambda line: None)
        assert [a for a in started[-1] if a.startswith("run.threads")] == [f"run.threads={threads}"]


@pytest.mark.parametrize(("data", "there", "missing"), [
    ("fsdd30", ["audiojepa", "mae"], ["pointjepa", "vjepa", "capi"]), ("ldraw16", ["pointjepa", "simclr"], ["ijepa"]),
    ("two_room:100", ["lewm", "ijepa", "capi"], ["vjepa ", "pointjepa"]), ("clothing48", ["ijepa"], ["lewm", "vjepa "]),
])  # fmt: skip
def test_methods_that_take_a_sets_items(data: str, there: list[str], missing: list[str]) -> None:
    shown = call("list", "methods", "--data", data).output
    rows = [line.partition(" ")[0] + " " for line in shown.splitlines()]
    assert all(f"{name} " in rows for name in there) and not any(f"{name.strip()} " in rows for name in missing)


def test_one_view_shows_which_method_runs_on_which_kind() -> None:
    """A line for each method, under each kind its usual recipe, empty where it is refused."""
    lines = call("list", "methods").output.split("\nmethod ")[-1].splitlines()
    head = lines[0].split()
    assert head == ["image", "clip", "sound", "points", "text", "captioned", "trajectory"]
    starts = [lines[0].index(kind) + len("method ") for kind in head]
    rows = {line.split()[0]: [line[s:].partition(" ")[0] for s in starts] for line in lines[1:] if line.strip()}
    runs = {
        name: {kind: recipe for kind, recipe in zip(head, row, strict=True) if recipe} for name, row in rows.items()
    }
    assert runs["data2vec"] == {"image": "small", "clip": "clips", "sound": "sound", "points": "points"}
    assert runs["capi"] == {"image": "small"} and runs["pointjepa"] == {"points": "points"}
    assert runs["lewm"] == {"trajectory": "small"} and runs["llmjepa"] == {"text": "small"}


def test_a_set_that_nobody_knows_is_told_where_methods_are_listed() -> None:
    assert "Did you mean 'fsdd30'" in str(call("list", "methods", "--data", "fsdd").exception)
    assert "has no effect on protocols" in str(call("list", "protocols", "--data", "fsdd30").exception)
