"""The loop: exact restarts after kill -9, schedules, clipping, refusals, locks."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny

from methods.mae import MAE
from ssl_bench import find
from ssl_bench.config.schema import BudgetConfig, Config
from ssl_bench.errors import UserError
from ssl_bench.parallel import devices
from ssl_bench.rng import Order
from ssl_bench.training import checkpoint, monitor, run_folder
from ssl_bench.training.method import cosine, linear, warmup_cosine
from ssl_bench.training.optimizer import clip_gradients
from ssl_bench.training.pretrain import pretrain

WRITTEN = ("encoder.safetensors", "metrics.jsonl")


def command(config: Config, root: Path) -> list[str]:
    """The same run through the command line."""
    shape = ("embed_dim", "depth", "num_heads", "patch_size")
    settings = [f"backbone.{k}={getattr(config.backbone, k)}" for k in shape]
    settings += [f"data.name={config.data.name}", "data.image_size=24", "data.val_fraction=0.2", "budget.batch_size=12"]
    settings += [
        f"budget.steps={config.budget.steps}",
        "run.log_every=1",
        "run.device=cpu",
        "run.threads=1",
        "monitor_points=2",
    ]
    settings += ["run.checkpoint_steps=3"]
    arguments = ["--method", config.method, "--recipe", "quick", "--root", str(root), *settings]
    return [sys.executable, "-m", "ssl_bench", "pretrain", *arguments]


def test_killed_three_times_ends_bit_identical(photos: Path, tmp_path: Path) -> None:
    config = tiny("ijepa", f"folder:{photos}", steps=400)
    whole = subprocess.run(command(config, tmp_path / "whole"), capture_output=True, text=True, check=True)
    assert "finished" in whole.stdout
    rng = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(command(config, tmp_path / "killed"), stdout=subprocess.DEVNULL)
        folder = next(iter(run_folder.all_runs(tmp_path / "whole"))).folder.name
        status, target = tmp_path / "killed" / folder / "status.json", rng.randint(20, 120)
        before = json.loads(status.read_text())["step"] if status.exists() else 0
        while not status.exists() or json.loads(status.read_text()).get("step", 0) < before + target:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command(config, tmp_path / "killed"), capture_output=True, check=True)
    for name in WRITTEN:
        assert (tmp_path / "whole" / folder / name).read_bytes() == (
            tmp_path / "killed" / folder / name
        ).read_bytes(), name


def test_a_signal_checkpoints_and_the_same_command_goes_on(photos: Path, tmp_path: Path) -> None:
    config = tiny("mae", f"folder:{photos}", steps=1000)
    line = [*command(config, tmp_path), "run.log_every=10"]
    line.remove("run.log_every=1")
    line.remove("run.checkpoint_steps=3")
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("*/status.json")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    run = run_folder.all_runs(tmp_path)[0]
    assert process.returncode == 130 and "goes on" in errors
    assert run.status()["state"] == "interrupted" and (run.folder / "last.ckpt").exists()
    again = subprocess.run(line, capture_output=True, text=True, check=True)
    assert "going on at step" in again.stdout and run.status()["state"] == "finished"


def test_batches_depend_on_seed_and_step_alone() -> None:
    first = Order(0, 50, 20)
    seen = [first(i) for i in range(6)]
    assert np.array_equal(Order(0, 50, 20)(4), seen[4]) and np.array_equal(first(1), seen[1])
    assert not np.array_equal(Order(1, 50, 20)(0), seen[0])
    assert sorted(np.concatenate(seen)[:50]) == list(range(50)), "an epoch draws every image once"


def test_schedules() -> None:
    """reference/methods.md, section 2: I-JEPA's and DINO's schedules at known steps."""
    lr = [warmup_cosine(step / 100, 0.1, 2e-4, 1e-3, 1e-6) for step in (1, 10, 55, 100)]
    assert lr == pytest.approx([2.8e-4, 1e-3, 5.005e-4, 1e-6])
    assert [cosine(s / 100, 0.04, 0.4) for s in (1, 50, 100)] == pytest.approx([0.0400888, 0.22, 0.4], abs=1e-6)
    dino = [warmup_cosine(i / 100, 0.2, 0.0, 1.0, 0.1) for i in (0, 20, 60, 99)]
    assert dino == pytest.approx([0.0, 1.0, 0.55, 0.100347], abs=1e-6)
    assert linear(0.25, 0.996, 1.0) == pytest.approx(0.997)


def test_clipping_per_tensor_and_global() -> None:
    def gradients() -> list[torch.Tensor]:
        a, b = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
        a.grad, b.grad = torch.full((4,), 3.0), torch.full((4,), 0.1)  # norms 6 and 0.2
        return [a, b]

    each, whole = gradients(), gradients()
    clip_gradients(each, 3.0, "tensor")
    clip_gradients(whole, 3.0, "global")
    norms = [[float(p.grad.norm()) for p in tensors if p.grad is not None] for tensors in (each, whole)]
    assert norms[0] == pytest.approx([3.0, 0.2], rel=1e-4)
    total = math.sqrt(36.04)
    assert norms[1] == pytest.approx([6 * 3 / total, 0.2 * 3 / total], rel=1e-4)


def test_second_process_is_refused(photos: Path, tmp_path: Path) -> None:
    config = tiny("mae", f"folder:{photos}")
    held = run_folder.lock(run_folder.start(tmp_path, config))
    with pytest.raises(UserError, match="Another process"):
        pretrain(config, tmp_path)
    held.close()
    assert pretrain(config, tmp_path).status()["state"] == "finished"


def test_damaged_checkpoint_falls_back(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, {"step": step, "x": torch.arange(1000)})
    data = bytearray((tmp_path / "last.ckpt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "last.ckpt").write_bytes(bytes(data))
    state, remarks = checkpoint.load(tmp_path)
    assert state is not None and state["step"] == 1 and "damaged" in remarks[0]
    (tmp_path / "previous.ckpt").write_bytes(data[:100])
    state, remarks = checkpoint.load(tmp_path)
    assert state is None and len(remarks) == 2


def test_non_finite_loss_stops_with_the_step(photos: Path, tmp_path: Path) -> None:
    config = tiny("mae", f"folder:{photos}", steps=50, precision="fp32")
    config = replace(config, optim=replace(config.optim, lr=1e30, warmup=0.0))
    with pytest.raises(UserError, match=r"Non-finite loss .* at step \d+; batch"):
        pretrain(config, tmp_path)
    assert run_folder.all_runs(tmp_path)[0].status()["state"] == "failed"


def test_changed_images_are_noticed(photos: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    config = tiny("mae", f"folder:{copy}", steps=4)
    run = pretrain(config, tmp_path / "runs")
    run_folder.set_status(run, state="interrupted")
    shutil.copy(copy / "train" / "red" / "0.png", copy / "train" / "blue" / "extra.png")
    with pytest.raises(UserError, match="are not those this run was trained on"):
        pretrain(config, tmp_path / "runs")


@pytest.mark.parametrize(
    ("setting", "steps", "flagged"),
    [({"teacher": "trained", "momentum": 0.996}, 100, True), ({"predictor_depth": 0}, 300, True), ({}, 100, False)],
)
def test_collapse_is_flagged(setting: dict[str, object], steps: int, flagged: bool, tmp_path: Path) -> None:
    """I-JEPA with both encoders trained, without a predictor, and as it should be, on the embedded photographs."""
    config = find.module("methods", "ijepa").quick()
    objective = replace(config.objective, **setting)
    budget = BudgetConfig(batch_size=32, steps=steps)
    run = pretrain(replace(config, objective=objective, budget=budget, monitor_points=3), tmp_path)
    assert run.status()["collapsed"] == flagged
    assert bool(run.status()["collapse_reason"]) == flagged


def test_monitor_values() -> None:
    """reference/protocols.md, section 3: RankMe of I_100 and of rank 1; isotropic features have std 1."""
    assert monitor.rankme(torch.eye(100)) == pytest.approx(100.0036, abs=1e-3)
    assert monitor.rankme(torch.ones(800, 768)) == pytest.approx(1.0012, abs=1e-4)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 128, generator=generator)
    assert monitor.feature_std(z) == pytest.approx(1.0, abs=0.01)
    assert monitor.feature_std(torch.ones(50, 8)) == pytest.approx(0.0, abs=1e-6)
    assert monitor.mean_cosine(torch.ones(50, 8)) == pytest.approx(1.0)


@pytest.mark.parametrize("native", [True, False])
def test_bf16_is_computed_where_the_hardware_has_it(
    native: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "multiplies_bf16", lambda device: native)
    seen: list[bool] = []
    told: list[str] = []
    forward = MAE.forward

    def watched(*args: Any) -> Any:
        seen.append(torch.is_autocast_enabled("cpu"))
        return forward(*args)

    monkeypatch.setattr(MAE, "forward", watched)
    config = tiny("mae", f"folder:{photos}", steps=2, precision="bf16")
    run = pretrain(config, tmp_path, lambda state: told.extend(state.get("remarks", [])))
    assert seen == [native, native]
    assert json.loads((run.folder / "compute.json").read_text())["precision"] == ("bf16" if native else "fp32")
    assert any("computes in fp32" in sentence for sentence in told) is not native
