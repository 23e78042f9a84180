"""How processes find each other, stop together, and share the features. Two forked processes take a second."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny

from methods.simclr import simclr_loss
from ssl_bench import screen
from ssl_bench.config.schema import Config, DataConfig
from ssl_bench.data.dataset import open_data
from ssl_bench.encoders.resolve import resolve
from ssl_bench.errors import UserError
from ssl_bench.evaluation import evaluate, features
from ssl_bench.parallel import collectives, processes
from ssl_bench.parallel.devices import instructions
from ssl_bench.parallel.traffic import Traffic
from ssl_bench.training import run_folder
from ssl_bench.training.pretrain import pretrain
from ssl_bench.training.train import Trainer


@pytest.fixture(autouse=True)
def fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users get `spawn`, which CUDA needs; a fork skips the import of torch. The tests marked slow use `spawn`."""
    monkeypatch.setattr(processes, "START", "fork")
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


def on(config: Config, devices: int, **changes: Any) -> Config:
    return replace(config, run=replace(config.run, devices=devices, threads=1, **changes))


def losses(run: run_folder.Run) -> list[float]:
    return [row["loss"] for row in run.metrics()]


def contrast() -> torch.Tensor:
    """Gradient of SimCLR's loss, whose negatives are on the other process too, averaged as DDP does."""
    z = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    rank, share = collectives.rank(), 8 // collectives.world_size()
    mine = slice(rank * share, (rank + 1) * share)
    weight = torch.eye(4).requires_grad_()
    simclr_loss(z[mine] @ weight, z.flip(1)[mine] @ weight, 0.2).backward()
    assert weight.grad is not None
    return collectives.mean(weight.grad)


def test_two_processes_have_the_gradient_of_one() -> None:
    alone = contrast()
    with processes.group(2, "cpu", contrast):
        torch.testing.assert_close(contrast(), alone)


@pytest.mark.slow
def test_two_processes_write_the_run_of_one(photos: Path, tmp_path: Path) -> None:
    config = tiny("mae", f"folder:{photos}", steps=4, precision="fp32")
    seen: list[dict[str, Any]] = []
    one, two = (pretrain(on(config, n), tmp_path / str(n), seen.append) for n in (1, 2))
    assert one.name == two.name and losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert two.status()["state"] == "finished" and two.compute()["devices"] == 2
    assert {p.name for p in two.folder.iterdir()} == {p.name for p in one.folder.iterdir()}
    assert sum("resumed" in state for state in seen) == 2, "the second process is not seen"


def stopping(monkeypatch: pytest.MonkeyPatch, rank: int, at: int) -> None:
    """A signal reaches one process only, in the middle of a step."""
    plain = Trainer.train_step

    def train_step(self: Trainer) -> dict[str, torch.Tensor]:
        if collectives.rank() == rank and self.step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self)

    monkeypatch.setattr(Trainer, "train_step", train_step)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_all_at_the_same_step(
    rank: int, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one process goes on from what two have done, or two do."""
    config = tiny("mae", f"folder:{photos}", steps=6, precision="fp32")
    whole = pretrain(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stopping(patch, rank, at=2)
        with pytest.raises(KeyboardInterrupt, match="checkpoint is written"):
            pretrain(on(config, 2), tmp_path / "cut")
    run = run_folder.all_runs(tmp_path / "cut")[0]
    assert run.status()["state"] == "interrupted" and len(losses(run)) == 3
    again = pretrain(on(config, 1 if rank else 2), tmp_path / "cut")
    assert losses(again) == pytest.approx(losses(whole), rel=1e-5)


def crash(*_: object) -> None:
    raise MemoryError("no room for the second process")


def test_a_process_that_dies_is_named() -> None:
    with pytest.raises(UserError, match="Process 1 of 2 ended: MemoryError: no room"), processes.group(2, "cpu", crash):
        collectives.any_of(True)


def answer() -> list[Any]:
    """What both processes get to know."""
    state = {"step": 3, "weights": [torch.arange(3.0) * (1 - collectives.rank())], "none": None}
    return [collectives.first(lambda: state), collectives.largest(collectives.rank())]


def test_what_process_0_knows_reaches_all() -> None:
    with processes.group(2, "cpu", answer):
        state, most = answer()
        assert state["step"] == 3 and state["weights"][0].tolist() == [0, 1, 2] and most == 1


def refuse() -> None:
    raise UserError("The disk is full.")


def hear() -> None:
    with pytest.raises(UserError, match="disk is full"):
        collectives.first(refuse)
    collectives.first(lambda: None)


def test_an_error_of_process_0_is_raised_on_all() -> None:
    with processes.group(2, "cpu", hear):
        hear()


@pytest.mark.parametrize("count", [1, 30, 257, 1000])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_every_image_has_one_process(count: int, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectives, "world_size", lambda: world)
    parts = features.shares(count)
    assert [i for begin, end in parts for i in range(begin, end)] == list(range(count))
    assert parts[0][1] > 0 and len(parts) == world
    assert all(begin % features.BATCH == 0 for begin, end in parts if begin < end), "batches are whole"


def encode_both() -> dict[str, Any]:
    data = open_data(DataConfig())
    split = replace(data.train, index=data.train.index[:300], labels=data.train.labels[:300])
    return features.encode(resolve("random:toy_patch12@48", Path("none"), data=data), split, tokens=True)


def test_features_of_two_processes_are_those_of_one() -> None:
    alone = encode_both()
    with processes.group(2, "cpu", encode_both):
        together = encode_both()
    for kind, values in alone.items():
        for name, value in values.items():
            assert torch.equal(value, together[kind][name]), (kind, name)


def test_evaluation_by_two_processes_gives_the_record_of_one(tmp_path: Path) -> None:
    source = "random:toy_patch12@48"
    records = []
    for devices in (1, 2):
        work = (source, ["knn"], DataConfig(), tmp_path / str(devices), 0, (), "cpu")
        with processes.group(devices, "cpu", evaluate.help_with, 1, *work):
            records += list(evaluate.evaluate_all(*work))
    assert records[0].id == records[1].id and records[0].metrics == records[1].metrics
    assert collectives.world_size() == 1 and len(list((tmp_path / "2" / "records").glob("*.json"))) == 1


def test_a_batch_that_cannot_be_shared_is_refused(photos: Path, tmp_path: Path) -> None:
    config = tiny("mae", f"folder:{photos}", steps=4)
    config = replace(config, budget=replace(config.budget, batch_size=15))
    with pytest.raises(UserError, match=r"batch_size=15 cannot be shared by 2 processes .* multiple of 2"):
        pretrain(on(config, 2), tmp_path)


def test_settings_without_effect_are_refused(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("mae", f"folder:{photos}", steps=4)
    with pytest.raises(UserError, match="no effect on one process"):
        pretrain(on(config, 1, sharding="fsdp"), tmp_path)
    with pytest.raises(UserError, match="must be 1 or more"):
        pretrain(on(config, 0), tmp_path)
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="launcher started 2 processes on this machine"):
        pretrain(on(config, 3), tmp_path)


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun's and srun's variables; a batch script without srun is alone, whatever SLURM_NTASKS says."""
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert processes.place() is None and screen.speaks()
    slurm = {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
    }
    slurm |= {"SLURM_JOB_ID": "12349321", "SLURM_JOB_NODELIST": "127.0.0.[2-3]", "MASTER_PORT": "1234"}
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "")
    monkeypatch.delenv("MASTER_ADDR")
    assert processes.place() == processes.Place(3, 4, 1, 2) and os.environ["MASTER_ADDR"] == "127.0.0.2"
    assert not screen.speaks() and screen.speaker() == "process 3: "
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert processes.place() == processes.Place(1, 2, 1, 2)


@pytest.mark.slow
def test_torchrun_and_the_command_line(photos: Path, tmp_path: Path) -> None:
    """Two processes of torchrun's kind: both join, one writes and speaks; then `eval --devices 2`, spawned."""
    line = [sys.executable, "-m", "ssl_bench", "pretrain", "--method", "mae", "--recipe", "quick"]
    line += [f"data.name=folder:{photos}", "data.image_size=24", "budget.batch_size=12", "budget.steps=4"]
    line += ["run.device=cpu", "run.threads=1", "--root", str(tmp_path)]
    with __import__("socket").socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(line, env=shared | {"RANK": r, "LOCAL_RANK": r}, stdout=subprocess.PIPE, text=True)
        for r in ("0", "1")
    ]
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert "finished" in said[0] and said[1] == ""
    line = [sys.executable, "-m", "ssl_bench", "eval", "--protocol", "knn", "--devices", "2", "--root", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert "knn of mae: top1" in done.stdout


@pytest.mark.slow
def test_ctrl_c_reaches_spawned_processes(photos: Path, tmp_path: Path) -> None:
    """As a terminal sends it, to all processes of the group; none is left behind."""
    line = [sys.executable, "-m", "ssl_bench", "pretrain", "--method", "mae", "--recipe", "quick", "--devices", "2"]
    line += [f"data.name=folder:{photos}", "data.image_size=24", "budget.batch_size=12", "budget.steps=2000"]
    line += ["run.device=cpu", "run.threads=1", "--root", str(tmp_path)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (found := list(tmp_path.glob("*/status.json"))) or not json.loads(found[0].read_text()).get("step"):
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and "goes on from the last checkpoint" in errors
    assert said.count("stopping at the end of this step") == 1, "process 0 speaks for all"
    left = subprocess.run(["ps", "-o", "stat=", "-g", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert all(state.startswith("Z") for state in left), "zombies wait for their new parent; nothing else is left"
    run = run_folder.all_runs(tmp_path)[0]
    assert run.status()["state"] == "interrupted" and (run.folder / "last.ckpt").exists()


def step_bytes(config: Config) -> tuple[float, int]:
    """What a step sends, and the bytes of the gradients."""
    trainer = Trainer(config, open_data(config.data), torch.device("cpu"))
    trainer.train_step()
    with Traffic() as traffic:
        trainer.train_step()
    return traffic.sent(collectives.world_size()), 4 * sum(p.numel() for p in trainer.parameters)


@pytest.mark.slow
def test_traffic_of_a_step_is_its_gradients_and_little_more(photos: Path) -> None:
    config = on(tiny("mae", f"folder:{photos}", steps=4), 2)
    with processes.group(2, "cpu", step_bytes, config):
        sent, gradients = step_bytes(config)
    assert gradients <= sent < gradients + 500  # the logs, and the check for finite values


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL needs two CUDA devices; this machine has fewer")
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_gpus_train_like_one(sharding: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "START", "spawn")
    config = tiny("dinov2", f"folder:{photos}", steps=6, precision="fp32")
    one = pretrain(on(config, 1, device="cuda"), tmp_path / "1")
    two = pretrain(on(config, 2, device="cuda", sharding=sharding), tmp_path / "2")
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)


def test_the_instruction_set_of_a_cpu_is_named_and_a_gpu_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(capability: str, *flags: str) -> str:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr("ssl_bench.parallel.devices.cpu_flags", lambda: set(flags))
        return instructions(torch.device("cpu"))

    assert of("AVX512", "avx512f", "avx512_bf16", "amx_bf16") == "amx_bf16"
    assert of("AVX512", "avx512f", "avx512_bf16") == "avx512_bf16"
    assert of("AVX512", "avx512f") == "avx512"
    assert of("AVX2", "avx2", "amx_bf16") == "avx2"  # what torch was told not to use does not count
    assert instructions(torch.device("cuda")) == ""
