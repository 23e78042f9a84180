"""The one loop. No method's name appears here; a method that does not fit gets a better interface."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from ssl_bench import checkpoint, compute, find, runs
from ssl_bench.backbone import explicit_attention
from ssl_bench.checkpoint import write_atomic
from ssl_bench.config import Config, to_dict
from ssl_bench.data import Dataset, Split, open_data
from ssl_bench.errors import UserError
from ssl_bench.method import DataInfo, Method, cosine, warmup_cosine
from ssl_bench.monitor import Monitor, collapse_reason
from ssl_bench.rng import Rng, mix

Observer = Callable[[dict[str, Any]], None]


class Order:
    """Batch i of the endless stream of shuffled epochs, as positions in the training part: a function of (seed, i)."""

    def __init__(self, seed: int, num_images: int, batch_size: int) -> None:
        self.seed, self.num_images, self.batch_size = seed, num_images, batch_size
        self.permutations: dict[int, np.ndarray] = {}

    def permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self.permutations:
            generator = torch.Generator().manual_seed(mix(self.seed, "order", epoch))
            fresh = torch.randperm(self.num_images, generator=generator).numpy()
            self.permutations = {e: p for e, p in self.permutations.items() if e >= epoch - 1} | {epoch: fresh}
        return self.permutations[epoch]

    def __call__(self, step: int) -> np.ndarray:
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        return np.array([self.permutation(p // self.num_images)[p % self.num_images] for p in places])


def build(config: Config, info: DataInfo, device: torch.device) -> Method:
    """The method on its device, initialised from the seed."""
    cls = find.defined(find.module("methods", config.method), Method)
    torch.manual_seed(mix(config.seed, "init"))
    method: Method = cls(config, info).to(device)
    explicit_attention(method, device.type == "cpu")
    return method


def make_optimizer(method: Method, config: Config) -> torch.optim.AdamW:
    """Fused AdamW over the method's parameter groups."""
    groups = [group for group in method.param_groups() if group["params"]]
    o = config.optim
    return torch.optim.AdamW(groups, lr=o.lr, betas=(o.beta1, o.beta2), weight_decay=o.weight_decay, fused=True)


def set_schedules(optimizer: torch.optim.Optimizer, config: Config, at: float) -> dict[str, float]:
    """Learning rate and weight decay of this step, scaled per group."""
    o = config.optim
    lr = warmup_cosine(at, o.warmup, o.lr_start, o.lr, o.lr_end)
    wd = o.weight_decay if o.weight_decay_end is None else cosine(at, o.weight_decay, o.weight_decay_end)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
        group["weight_decay"] = wd * group["weight_decay_scale"]
    return {"lr": lr, "weight_decay": wd}


def clip_gradients(parameters: list[Tensor], norm: float, mode: str) -> None:
    """One global norm, or every tensor by itself as DINO's `clip_gradients` does."""
    if mode == "global":
        torch.nn.utils.clip_grad_norm_(parameters, norm)
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    for gradient, size in zip(gradients, torch._foreach_norm(gradients), strict=True):
        gradient.mul_((norm / (size + 1e-6)).clamp(max=1.0))


class Trainer:
    """One run from its config to its encoder; every public step of it is resumable."""

    def __init__(self, config: Config, data: Dataset, device: torch.device) -> None:
        self.config, self.data, self.device = config, data, device
        self.info = DataInfo(data.image_size, data.channels, len(data.classes), data.mean, data.std)
        self.method = build(config, self.info, device)
        self.flops_per_image = self.method.flops()
        self.steps = compute.steps(config.budget, len(data.train), self.flops_per_image)
        self.optimizer = make_optimizer(self.method, config)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.order = Order(config.seed, len(data.train), config.budget.batch_size)
        self.step, self.seconds = 0, 0.0
        self.window: dict[str, float] = {}

    def state(self) -> dict[str, Any]:
        """Everything a restart needs. Generators and the place in the data follow from the step."""
        return {
            "step": self.step, "seconds": self.seconds, "window": self.window,
            "fingerprint": self.data.fingerprint, "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        if state["fingerprint"] != self.data.fingerprint:
            raise UserError(
                f"The images of '{self.config.data.name}' have changed since this run began "
                f"({state['fingerprint']} then, {self.data.fingerprint} now). Start a new run with another --root."
            )
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.window = state["step"], state["seconds"], dict(state["window"])

    def batch(self, part: int) -> tuple[Tensor, Tensor, Rng]:
        """Images, labels and random numbers of micro-batch `part` of this step."""
        budget, split = self.config.budget, self.data.train
        size = budget.batch_size // budget.accumulate
        rows = slice(part * size, (part + 1) * size)
        indices = self.order(self.step)[rows]
        rng = Rng(mix(self.config.seed, "step", self.step), budget.batch_size, rows, self.device)
        return split.batch(indices).to(self.device), split.labels[indices].to(self.device), rng

    def train_step(self) -> dict[str, Tensor]:
        """One optimizer step; returns what the method logs, averaged over micro-batches."""
        config, method = self.config, self.method
        at = (self.step + 0.5) / self.steps  # the middle of the step: neither the first nor the last is a no-op
        torch.manual_seed(mix(config.seed, "dropout", self.step))
        set_schedules(self.optimizer, config, at)
        logs: dict[str, Tensor] = {}
        for part in range(config.budget.accumulate):
            images, labels, rng = self.batch(part)
            with torch.no_grad():
                views = method.views(images, rng, at)
            if method.uses_labels:
                views["labels"] = labels
            with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                out = method(views, at)
            (out["loss"] / config.budget.accumulate).backward()
            for key, value in out.items():
                logs[key] = logs.get(key, torch.zeros(())) + value.detach().float().cpu() / config.budget.accumulate
        if not torch.isfinite(logs["loss"]):
            raise FloatingPointError(f"loss {float(logs['loss'])} at step {self.step}")
        method.before_step(at)
        if config.optim.clip:
            clip_gradients(self.parameters, config.optim.clip, config.optim.clip_mode)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            method.after_step(at)
        self.step += 1
        return logs


class Stop:
    """Remembers a request to stop; the loop acts on it at the end of a step. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self.before = {s: signal.signal(s, self) for s in (signal.SIGINT, signal.SIGTERM)}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def pretrain(config: Config, root: Path, observe: Observer = lambda state: None) -> runs.Run:
    """Train one run to its end, or go on where it stopped; the same command again does nothing more."""
    config.check()
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    run = runs.start(root, config)
    if run.status().get("state") == "finished":
        return run
    held = runs.lock(run)
    stop = Stop()
    try:
        _train(config, run, stop, observe)
    except BaseException as error:
        state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        runs.set_status(run, state=state, reason=str(error))
        raise
    finally:
        stop.restore()
        held.close()
    return run


def _train(config: Config, run: runs.Run, stop: Stop, observe: Observer) -> None:
    device = compute.pick_device(config.run.device)
    data = open_data(config.data)
    trainer = Trainer(config, data, device)
    state, remarks = checkpoint.load(run.folder)
    if state is not None:
        trainer.restore(state)
    for name in ("metrics", "timing"):
        _truncate(run.folder / f"{name}.jsonl", trainer.step)
    runs.write_json(run.folder / "provenance.json", runs.provenance({
        "data": {"name": data.name, "fingerprint": data.fingerprint}, "device": compute.device_label(device),
        "resumed_at": trainer.step, "remarks": remarks,
    }))  # fmt: skip
    observe({"step": trainer.step, "steps": trainer.steps, "remarks": remarks, "run": run.name})
    _loop(trainer, run, stop, observe)
    if stop.asked:
        raise KeyboardInterrupt("stopped by a signal; the checkpoint is written")
    _finish(trainer, run)


def _loop(trainer: Trainer, run: runs.Run, stop: Stop, observe: Observer) -> None:
    config, method = trainer.config, trainer.method
    monitor = Monitor(trainer.data, method.pooling, method.mean, method.std) if config.monitor_points else None
    watched = {round(trainer.steps * (i + 1) / config.monitor_points) for i in range(config.monitor_points)}
    last_save = last_status = clock = time.monotonic()
    base = trainer.seconds
    began, signals = trainer.step, {}
    while trainer.step < trainer.steps and not stop.asked:
        try:
            logs = trainer.train_step()
        except FloatingPointError as error:
            indices = trainer.order(trainer.step).tolist()
            kept = "last.ckpt is the last good state" if (run.folder / "last.ckpt").exists() else "no checkpoint yet"
            raise UserError(f"Non-finite {error}; batch {indices[:8]}...; {kept}. Try a lower optim.lr or optim.clip=1.") from error
        for key, value in logs.items():
            trainer.window[key] = trainer.window.get(key, 0.0) + float(value)
        trainer.window["count"] = trainer.window.get("count", 0) + 1
        row: dict[str, Any] = {}
        if trainer.step % config.run.log_every == 0 or trainer.step == trainer.steps:
            row = _averages(trainer)
        if monitor and trainer.step in watched:
            signals = monitor(method.encoder)
            row |= {f"monitor_{k}": v for k, v in signals.items()}
        now = time.monotonic()
        trainer.seconds = base + now - clock
        rate = (trainer.step - began) * config.budget.batch_size / max(now - clock, 1e-9)
        if row:
            _append(run.folder / "metrics.jsonl", {"step": trainer.step, **row})
            _append(run.folder / "timing.jsonl", {"step": trainer.step, "seconds": trainer.seconds, "images_per_second": rate})
        if now - last_status > 0.5 or row:
            last_status = now
            seen = {"step": trainer.step, "steps": trainer.steps, "loss": float(logs["loss"]), "images_per_second": rate}
            seen |= {"seconds_left": (trainer.steps - trainer.step) * config.budget.batch_size / rate}
            seen |= {k: signals[k] for k in ("knn", "rankme", "std") if k in signals}
            seen["collapse"] = collapse_reason(signals, config.backbone.embed_dim) if "std" in signals else ""
            runs.set_status(run, state="running", **seen)
            observe({"run": run.name, **seen})
        due = config.run.checkpoint_steps and trainer.step % config.run.checkpoint_steps == 0
        if due or now - last_save > 60 * config.run.checkpoint_minutes or stop.asked:
            checkpoint.save(run.folder, trainer.state())
            last_save = time.monotonic()


def _averages(trainer: Trainer) -> dict[str, float]:
    """Means since the last row; the sums are part of the checkpoint, so a restart writes the same row."""
    count = trainer.window.pop("count")
    means = {key: total / count for key, total in trainer.window.items()}
    trainer.window = {}
    return means | {key: trainer.optimizer.param_groups[0][key] for key in ("lr", "weight_decay")}


def _finish(trainer: Trainer, run: runs.Run) -> None:
    checkpoint.save(run.folder, trainer.state())
    method, config = trainer.method, trainer.config
    weights = {k: v.detach().cpu().contiguous() for k, v in method.encoder.state_dict().items()}
    payload = save(weights)
    write_atomic(run.folder / "encoder.safetensors", payload)
    runs.write_json(run.folder / "encoder.json", {
        "backbone": to_dict(method.encoder.config), "image_size": trainer.info.image_size,
        "channels": trainer.info.channels, "pooling": method.pooling, "mean": trainer.info.mean,
        "std": trainer.info.std, "evaluated": method.evaluated, "weights_sha256": checkpoint.sha256(payload),
    })  # fmt: skip
    cost = compute.report(config, trainer.device, trainer.steps, trainer.seconds, trainer.flops_per_image)
    runs.write_json(run.folder / "compute.json", cost)
    last = [row for row in run.metrics() if "monitor_collapsed" in row][-1:]
    values = {k.removeprefix("monitor_"): v for row in last for k, v in row.items() if k.startswith("monitor_")}
    reason = collapse_reason(values, config.backbone.embed_dim) if "std" in values else ""
    reason = reason or ("non-finite features" if values.get("collapsed") else "")
    runs.set_status(run, state="finished", step=trainer.step, steps=trainer.steps, collapsed=bool(reason), collapse_reason=reason)


def _append(path: Path, row: dict[str, Any]) -> None:
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def _truncate(path: Path, step: int) -> None:
    """Drop rows after the checkpoint (and a line cut short by a kill): they will be written again, the same."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            break
    write_atomic(path, "".join(f"{line}\n" for line in kept).encode())


__all__ = ["Order", "Split", "Trainer", "clip_gradients", "pretrain", "set_schedules"]
