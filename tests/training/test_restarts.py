"""Nothing is lost: damaged and half-written checkpoints, full and read-only disks, locks, signals, skipped steps."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from conftest import tiny

from ssl_bench.cli.main import cli
from ssl_bench.config.schema import Config
from ssl_bench.errors import UserError
from ssl_bench.files import sweep, write_atomic
from ssl_bench.training import checkpoint, run_folder
from ssl_bench.training.pretrain import pretrain
from ssl_bench.training.train import Trainer


def state(step: int, size: int = 1000) -> dict[str, Any]:
    return {"step": step, "x": torch.arange(size) + step}


def step_of(folder: Path) -> int | None:
    found, _ = checkpoint.load(folder)
    return found and found["step"]


@pytest.mark.parametrize("kind", ["cut short", "flipped byte", "empty", "grown"])
def test_a_damaged_checkpoint_is_told_and_the_previous_one_used(kind: str, tmp_path: Path) -> None:
    rng = random.Random(kind)
    for _ in range(12):
        for step in (1, 2):
            checkpoint.save(tmp_path, state(step))
        data = bytearray((tmp_path / "last.ckpt").read_bytes())
        place = rng.randrange(len(data))
        if kind == "flipped byte":
            data[place] ^= 1 << rng.randrange(8)
        damaged = {"cut short": data[:place], "empty": data[:0], "grown": data + b"\0"}.get(kind, data)
        (tmp_path / "last.ckpt").write_bytes(damaged)
        found, remarks = checkpoint.resume(tmp_path)
        assert found is not None and found["step"] == 1 and torch.equal(found["x"], state(1)["x"])
        assert len(remarks) == 1 and "last.ckpt is damaged" in remarks[0] and "previous.ckpt is whole" in remarks[0]
        assert (tmp_path / "last.ckpt.damaged").read_bytes() == damaged
        checkpoint.save(tmp_path, state(3))  # must not push the one good file out for the damaged one
        assert [checkpoint.read(tmp_path / name)["step"] for name in ("last.ckpt", "previous.ckpt")] == [3, 1]


def test_a_kill_between_any_two_renames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk as it is after each rename of a save, as a killed process leaves it."""
    checkpoint.save(tmp_path, state(1))
    real = os.replace

    class Killed(BaseException):
        pass

    for allowed, newest in ((0, 1), (1, 2), (2, 2), (3, 2)):
        for step in (0, 1):
            checkpoint.save(tmp_path, state(step))
        left = [allowed]

        def counted(a: Any, b: Any, left: list[int] = left) -> None:
            if not left[0]:
                raise Killed
            left[0] -= 1
            real(a, b)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", counted)
            with suppress(Killed):
                checkpoint.save(tmp_path, state(2))
        found, _ = checkpoint.resume(tmp_path)
        assert found and found["step"] == checkpoint.read(tmp_path / "last.ckpt")["step"] == newest, allowed


def test_what_shares_memory_is_copied_once_and_no_longer_changes(tmp_path: Path) -> None:
    x = torch.zeros(3)
    copied = checkpoint.snapshot({"a": x, "b": [x.detach(), 1], "c": x[:2]})
    x += 1
    assert copied["a"].tolist() == [0, 0, 0] and copied["c"].tolist() == [0, 0]
    assert copied["a"] is copied["b"][0] and copied["b"][1] == 1


def test_the_writer_raises_what_went_wrong_behind_it(tmp_path: Path) -> None:
    with checkpoint.Writer(tmp_path) as writer:
        assert writer.ready(due=True)
        writer.save(state(1))
        writer.wait()
        assert writer.last == step_of(tmp_path) == 1 and not writer.ready(due=False)
    (tmp_path / "file").write_bytes(b"")
    writer = checkpoint.Writer(tmp_path / "file")
    writer.save(state(2))
    while not writer.ready(due=False):
        pass
    with pytest.raises(UserError, match="Cannot write"):
        writer.save(state(3))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to write more than `size` bytes into any file of this process: a full disk, without root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 30, 100, 5000, 20_000])
def test_no_room_leaves_the_earlier_checkpoint_and_nothing_half(room: int, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1, 10_000))
    before = (tmp_path / "last.ckpt").read_bytes()
    with largest_file(room), pytest.raises(UserError, match=f"Cannot write .*next.ckpt .{os.strerror(errno.EFBIG)}"):
        checkpoint.save(tmp_path, state(2, 10_000))
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    assert (tmp_path / "last.ckpt").read_bytes() == before


def checkpoint_each_step(config: Config, **changes: Any) -> Config:
    return replace(config, run=replace(config.run, checkpoint_steps=1, **changes))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up_and_one_that_turns_read_only(photos: Path, small_disk: Path) -> None:
    config = checkpoint_each_step(tiny("mae", f"folder:{photos}", steps=4))
    with pytest.raises(UserError, match=rf"Cannot write .* \({os.strerror(errno.ENOSPC)}\)"):
        pretrain(config, small_disk)
    folder = run_folder.all_runs(small_disk)[0].folder
    kept = step_of(folder)
    assert kept in (1, 2) and not list(folder.glob(".*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=20m,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match=rf"Cannot .* \({os.strerror(errno.EROFS)}\)"):
        pretrain(config, small_disk)
    assert step_of(folder) == kept
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    run = pretrain(config, small_disk)
    assert run.status()["state"] == "finished" and json.loads((folder / "provenance.json").read_text())["resumed_at"]


def test_the_lock_names_its_holder_and_survives_no_kill(photos: Path, tmp_path: Path) -> None:
    run = run_folder.start(tmp_path, tiny("mae", f"folder:{photos}"))
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        held = run_folder.lock(run)
        os.write(told, b"x")
        signal.pause()
        held.close()
    os.read(ready, 1)
    with pytest.raises(UserError, match=rf"Another process \(process {child} on .*\) is training {run.name}"):
        run_folder.lock(run)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    run_folder.lock(run).close()


def test_another_config_in_the_folder_is_refused_with_the_difference(photos: Path, tmp_path: Path) -> None:
    config = tiny("mae", f"folder:{photos}", steps=2)
    run = run_folder.start(tmp_path, config)
    values = json.loads((run.folder / "config.json").read_text())
    values["optim"]["lr"], values["objective"]["mask_ratio"], values["run"]["threads"] = 0.5, 0.6, 7
    (run.folder / "config.json").write_text(json.dumps(values))
    sentence = "another config: objective.mask_ratio was 0.6 and is now 0.75; optim.lr was 0.5 and is now "
    with pytest.raises(UserError, match=sentence):
        pretrain(config, tmp_path)


def test_damaged_notes_do_not_stop_a_run(photos: Path, tmp_path: Path) -> None:
    config = tiny("mae", f"folder:{photos}", steps=3)
    first = pretrain(config, tmp_path)
    weights = (first.folder / "encoder.safetensors").read_bytes()
    for name in ("status.json", "config.json"):
        (first.folder / name).write_bytes(b"{")
    (first.folder / ".next.ckpt.1-a.tmp").write_bytes(b"left by a kill")
    again = pretrain(config, tmp_path)
    assert again.status()["state"] == "finished" and again.config() == config
    assert (first.folder / "encoder.safetensors").read_bytes() == weights
    assert not list(first.folder.glob(".*.tmp"))


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"null", b"[3]", b'{"loss": 1}', b'{"step": "3"}', b"{", b"[" * 10**5])
def test_damaged_lines_cost_no_other_row(damage: bytes, photos: Path, tmp_path: Path) -> None:
    config = tiny("mae", f"folder:{photos}", steps=4)
    run = pretrain(config, tmp_path)
    logs = {run.folder / f"{name}.jsonl": 4 for name in ("metrics", "timing")}
    before = {path: path.read_bytes() for path in logs}
    for path, rows in logs.items():
        first, *rest = before[path].splitlines(keepends=True)
        path.write_bytes(b"".join([first, damage + b"\n", *rest, damage]))
        assert len(rest) == rows - 1 and [row["step"] for row in run.metrics(path.stem)] == [1, 2, 3, 4]
    (run.folder / "status.json").unlink()  # so that it goes on, from its last step
    pretrain(config, tmp_path)
    assert {path: path.read_bytes() for path in logs} == before


def test_a_signal_leaves_two_checkpoints_of_different_steps(photos: Path, tmp_path: Path) -> None:
    config = checkpoint_each_step(tiny("mae", f"folder:{photos}", steps=10**6))

    def ask(seen: dict[str, Any]) -> None:
        if list(tmp_path.glob("*/previous.ckpt")):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt, match="the checkpoint is written"):
        pretrain(config, tmp_path, ask)
    run = run_folder.all_runs(tmp_path)[0]
    last, previous = (checkpoint.read(run.folder / name)["step"] for name in ("last.ckpt", "previous.ckpt"))
    assert run.status()["state"] == "interrupted" and last > previous


def test_sweep_leaves_what_others_write(tmp_path: Path) -> None:
    for name in (".a.json.1-x.tmp", ".config.json.1-x.tmp", "a.tmp", ".hidden"):
        write_atomic(tmp_path / name, b"")
    sweep(tmp_path, but="config.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".config.json.1-x.tmp", ".hidden", "a.tmp"]


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """{step from 0: "loss" or "gradient"} turns that step's value into NaN."""
    wanted: dict[int, str] = {}
    real = Trainer.trouble

    def trouble(self: Trainer, loss: torch.Tensor) -> str:
        kind = wanted.get(self.step)
        if kind == "gradient":
            next(p for p in self.parameters if p.grad is not None).grad.fill_(torch.inf)  # type: ignore[union-attr]
        return real(self, loss * torch.nan if kind == "loss" else loss)

    monkeypatch.setattr(Trainer, "trouble", trouble)
    return wanted


def test_a_non_finite_step_names_itself_its_batch_and_the_last_checkpoint(
    photos: Path, tmp_path: Path, poison: dict[int, str]
) -> None:
    config = checkpoint_each_step(tiny("mae", f"folder:{photos}", steps=6))
    poison[4] = "loss"
    with pytest.raises(UserError, match=r"Non-finite loss nan at step 5; batch (\d+, ){8}... \(all 12 in") as error:
        pretrain(config, tmp_path)
    run = run_folder.all_runs(tmp_path)[0]
    seen, kept = run.status()["non_finite"], step_of(run.folder)
    assert run.status()["state"] == "failed" and kept in (1, 2, 3, 4)  # behind a slow disk not every step is kept
    assert f"the last good checkpoint is of step {kept}, in {run.folder}" in str(error.value)
    assert (seen["step"], seen["last_good_checkpoint"], len(seen["batch"])) == (5, kept, 12)


def test_skipped_steps_are_recorded_limited_and_exact_over_a_restart(
    photos: Path, tmp_path: Path, poison: dict[int, str]
) -> None:
    config = checkpoint_each_step(tiny("dino", f"folder:{photos}", steps=6), nan_skips=2)
    poison |= {1: "gradient", 3: "loss"}
    whole = pretrain(config, tmp_path / "whole")
    rows = [row for row in whole.metrics() if "skipped" in row]
    assert [(row["step"], row["skipped"], len(row["batch"])) for row in rows] == [
        (2, "gradient", 12),
        (4, "loss nan", 12),
    ]
    assert whole.status()["skipped"] == whole.compute()["skipped_steps"] == [2, 4]
    one = replace(config, run=replace(config.run, nan_skips=1))  # another run.*: the same run
    with pytest.raises(UserError, match="Non-finite loss nan at step 4"):
        pretrain(one, tmp_path / "stopped")
    stopped = pretrain(config, tmp_path / "stopped")
    for name in ("encoder.safetensors", "metrics.jsonl"):
        assert (stopped.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name


def test_weights_that_are_not_finite_never_replace_a_good_checkpoint(photos: Path, tmp_path: Path) -> None:
    config = checkpoint_each_step(tiny("mae", f"folder:{photos}", steps=50, precision="fp32"))
    config = replace(config, optim=replace(config.optim, lr=1e38, warmup=0.0))
    with pytest.raises(UserError, match="Non-finite"):
        pretrain(config, tmp_path)
    found, _ = checkpoint.load(run_folder.all_runs(tmp_path)[0].folder)
    assert found is None or all(torch.isfinite(v).all() for v in found["method"].values())


def test_on_nan_is_checked() -> None:
    asked = ["pretrain", "--method", "mae", "--on-nan"]
    for text in ("skip", "skip=-1", "skip=x", "ignore"):
        found = CliRunner().invoke(cli, [*asked, text]).exception
        assert isinstance(found, UserError) and "write stop, or skip=N" in str(found)


@pytest.mark.slow
def test_killed_runs_of_every_family_end_bit_identical() -> None:
    """A small share of `python tests/kill_runs.py --kills 100`."""
    script = Path(__file__).parents[1] / "kill_runs.py"
    line = [sys.executable, str(script), "--kills", "12", "--methods", "ijepa,mae,dinov2,swav,mocov3,capi"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 kills of 6 methods" in done.stdout and "differing bits found: 0 of" in done.stdout
