"""The one loop. No method's name appears here; a method that does not fit gets a better interface."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from ssl_bench import checkpoint, compute, distributed, find, runs
from ssl_bench.backbone import explicit_attention
from ssl_bench.config import Config, to_dict
from ssl_bench.data import Dataset, open_data
from ssl_bench.errors import NonFinite, UserError
from ssl_bench.files import sweep, write_atomic
from ssl_bench.journal import Journal, Observer
from ssl_bench.lean import AdamW
from ssl_bench.method import DataInfo, Method, cosine, warmup_cosine
from ssl_bench.monitor import collapse_reason
from ssl_bench.rng import Rng, mix
from ssl_bench.stop import Stop


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
        return np.array([self.permutation(p // self.num_images)[p % self.num_images] for p in places.tolist()])


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
    return AdamW(groups, lr=o.lr, betas=(o.beta1, o.beta2), weight_decay=o.weight_decay, fused=True)


def set_schedules(optimizer: torch.optim.Optimizer, config: Config, at: float) -> dict[str, float]:
    """Learning rate and weight decay of this step, scaled per group."""
    o = config.optim
    lr = warmup_cosine(at, o.warmup, o.lr_start, o.lr, o.lr_end)
    wd = o.weight_decay if o.weight_decay_end is None else cosine(at, o.weight_decay, o.weight_decay_end)
    for group in optimizer.param_groups:
        group["lr"] = (o.lr if group.get("lr_constant") else lr) * group["lr_scale"]  # SimSiam's predictor: constant
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
        if not data.labelled and find.defined(find.module("methods", config.method), Method).uses_labels:
            raise UserError(f"'{config.method}' trains on labels and '{data.name}' has none: name another data set.")
        self.info = DataInfo(data.image_size, data.channels, len(data.classes), data.mean, data.std)
        self.method = build(config, self.info, device)
        self.flops_per_image = self.method.flops()
        self.steps = compute.steps(config.budget, len(data.train), self.flops_per_image)
        self.optimizer = make_optimizer(self.method, config)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.order = Order(config.seed, len(data.train), config.budget.batch_size)
        self.step, self.seconds = 0, 0.0
        self.window: dict[str, float] = {}
        self.skipped: list[int] = []  # steps without an update, counted from 1

    def state(self) -> dict[str, Any]:
        """Everything a restart needs. Generators and the place in the data follow from the step."""
        return {
            "step": self.step, "seconds": self.seconds, "window": self.window, "skipped": self.skipped,
            "fingerprint": self.data.fingerprint, "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        if state.get("fingerprint", self.data.fingerprint) != self.data.fingerprint:
            raise UserError(
                f"The images of '{self.config.data.name}' have changed since this run began "
                f"({state['fingerprint']} then, {self.data.fingerprint} now). Start a new run with another --root."
            )
        try:
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds, self.window = int(state["step"]), state["seconds"], dict(state["window"])
            self.skipped = list(state.get("skipped", []))
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(
                f"The checkpoint does not fit '{self.config.method}' as it is now ({str(error)[:300]}). "
                "Its code has changed since: go back to that code, or start a new run with another --root."
            ) from error

    def rows(self, step: int, part: int) -> tuple[slice, np.ndarray]:
        """Which rows of a step's batch a micro-batch is, and their positions in the training part."""
        size = self.config.budget.batch_size // self.config.budget.accumulate
        rows = slice(part * size, (part + 1) * size)
        return rows, self.order(step)[rows]

    def batch(self, part: int) -> tuple[Tensor, Tensor, Rng]:
        """Images, labels and random numbers of micro-batch `part` of this step."""
        budget, split = self.config.budget, self.data.train
        rows, indices = self.rows(self.step, part)
        rng = Rng(mix(self.config.seed, "step", self.step), budget.batch_size, rows, self.device)
        images = split.batch(indices)
        for later in range(part + 1, part + 3) if split.decodes else ():  # meanwhile
            split.ahead(self.rows(self.step + later // budget.accumulate, later % budget.accumulate)[1])
        return images.to(self.device), split.labels[indices].to(self.device), rng

    def train_step(self) -> dict[str, Tensor]:
        """One optimizer step; returns what the method logs, averaged over micro-batches."""
        config, method = self.config, self.method
        at = (self.step + 0.5) / self.steps  # the middle of the step: neither the first nor the last is a no-op
        torch.manual_seed(mix(config.seed, "dropout", self.step))
        set_schedules(self.optimizer, config, at)
        logs: dict[str, Tensor] = {}
        # a skipped step must leave no trace, and a forward pass may move buffers (BatchNorm's running statistics)
        before = {k: v.clone() for k, v in method.named_buffers()} if config.run.nan_skips else {}
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
        if trouble := self.trouble(logs["loss"]):
            for name, value in before.items():
                method.get_buffer(name).copy_(value)
            raise FloatingPointError(trouble)
        method.before_step(at)
        if config.optim.clip:
            clip_gradients(self.parameters, config.optim.clip, config.optim.clip_mode)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            method.after_step(at)
        self.step += 1
        return logs

    def trouble(self, loss: Tensor) -> str:
        """What of this step is not finite, the same on every process; "" where all is. `loss` is on the CPU."""
        gradients: list[Any] = [p.grad for p in self.parameters if p.grad is not None]
        norms = torch._foreach_norm([g.to_local() if hasattr(g, "to_local") else g for g in gradients])  # of a shard
        found = distributed.total(torch.stack([loss, torch.stack(norms).sum().cpu()]))
        return "" if torch.isfinite(found).all() else "gradient" if torch.isfinite(loss) else f"loss {float(loss)}"

    def skip(self) -> None:
        """Go on as if this step's update were zero; teachers, centres and queues stay as they are too."""
        self.optimizer.zero_grad(set_to_none=True)
        self.method.forget()
        self.step += 1
        self.skipped.append(self.step)

    def finite(self) -> bool:
        """Whether every weight is: a checkpoint with others must not replace a good one."""
        weights: list[Any] = list(self.parameters)
        norms = torch._foreach_norm([w.to_local() if hasattr(w, "to_local") else w for w in weights])
        return bool(torch.isfinite(distributed.total(torch.stack(norms).sum().cpu())))


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
        with suppress(UserError):  # a full disk takes no status either, and what went wrong is said by `error`
            runs.set_status(run, state=state, reason=str(error), **getattr(error, "facts", {}))
        raise
    finally:
        stop.restore()
        held.close()
    return run


def _train(config: Config, run: runs.Run, stop: Stop, observe: Observer) -> None:
    device = compute.pick_device(config.run.device)
    sweep(run.folder, but="config.json")  # which a process that is refused by the lock may be writing
    data = open_data(config.data, config.run)
    if config.budget.hours:
        from ssl_bench import forecast

        config = forecast.in_steps(config, data, device, run.folder / "steps.json")
    trainer = Trainer(config, data, device)
    state, remarks = checkpoint.resume(run.folder)
    if state is not None:
        trainer.restore(state)
    seen = {"name": data.name, "fingerprint": data.fingerprint}
    facts = {"data": seen, "device": compute.device_label(device), "resumed_at": trainer.step, "remarks": remarks}
    runs.write_json(run.folder / "provenance.json", runs.provenance(facts))
    runs.set_status(run, state="running", reason="", non_finite=None)
    begin = {"step": trainer.step, "steps": trainer.steps, "resumed": trainer.step > 0}
    observe({"run": run.name, "remarks": remarks, **begin})
    journal = Journal(trainer, run, observe)
    with checkpoint.Writer(run.folder, trainer.step if state else None) as writer:
        while trainer.step < trainer.steps and not stop.asked:
            try:
                journal.record(trainer.train_step())
            except FloatingPointError as error:
                if len(trainer.skipped) >= config.run.nan_skips:
                    raise _non_finite(trainer, writer, str(error)) from error
                trainer.skip()
                journal.record({}, skipped=str(error))
            if writer.ready(journal.checkpoint_due()):
                writer.save(_good(trainer, writer))
        writer.wait()
        if trainer.step != writer.last:
            writer.save(_good(trainer, writer))
    if stop.asked:
        raise KeyboardInterrupt("stopped by a signal; the checkpoint is written")
    _finish(trainer, run)


def _good(trainer: Trainer, writer: checkpoint.Writer) -> dict[str, Any]:
    """The state, if it is worth keeping."""
    if not trainer.finite():
        trainer.step -= 1  # the step that made them
        raise _non_finite(trainer, writer, "weights")
    return trainer.state()


def _non_finite(trainer: Trainer, writer: checkpoint.Writer, what: str) -> NonFinite:
    """What to say of a step that cannot be used."""
    writer.wait()
    batch, step = trainer.order(trainer.step).tolist(), trainer.step + 1
    shown = ", ".join(map(str, batch[:8])) + (f", ... (all {len(batch)} in status.json)" if len(batch) > 8 else "")
    last = f"the last good checkpoint is of step {writer.last}, in" if writer.last else "there is no checkpoint yet in"
    advice = "a lower optim.lr, or optim.clip=1" + ("" if what == "weights" else ", or --on-nan skip=N")
    return NonFinite(
        f"Non-finite {what} at step {step}; batch {shown}; {last} {writer.folder}. Try {advice}.",
        non_finite={"step": step, "what": what, "batch": batch, "last_good_checkpoint": writer.last},
    )


def _finish(trainer: Trainer, run: runs.Run) -> None:
    method, info = trainer.method, trainer.info
    payload = save({k: v.detach().cpu().contiguous() for k, v in method.encoder.state_dict().items()})
    write_atomic(run.folder / "encoder.safetensors", payload)
    meta = {"backbone": to_dict(method.encoder.config), "image_size": info.image_size, "channels": info.channels}
    meta |= {"pooling": method.pooling, "mean": info.mean, "std": info.std, "evaluated": method.evaluated}
    runs.write_json(run.folder / "encoder.json", meta | {"weights_sha256": checkpoint.sha256(payload)})
    cost = compute.report(trainer.config, trainer.device, trainer.steps, trainer.seconds, trainer.flops_per_image)
    runs.write_json(run.folder / "compute.json", {**cost, "skipped_steps": trainer.skipped})
    watched = [row for row in run.metrics() if "monitor_collapsed" in row][-1:]
    signals = {k.removeprefix("monitor_"): v for row in watched for k, v in row.items() if k.startswith("monitor_")}
    reason = collapse_reason(signals)
    (run.folder / checkpoint.PREVIOUS).unlink(missing_ok=True)  # of no use beside a finished run's last
    runs.set_status(
        run, state="finished", step=trainer.step, steps=trainer.steps, collapsed=bool(reason), collapse_reason=reason
    )
