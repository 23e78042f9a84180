"""The one loop. No method's name appears here; a method that does not fit gets a better interface."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from ssl_bench import checkpoint, compute, distributed, find, launch, runs, sharding
from ssl_bench.backbone import DropPath, explicit_attention
from ssl_bench.config import Config, to_dict
from ssl_bench.data import Dataset, open_data
from ssl_bench.errors import NonFinite, UserError
from ssl_bench.files import sweep, write_atomic
from ssl_bench.journal import Journal, Observer
from ssl_bench.method import DataInfo, Method
from ssl_bench.monitor import collapse_reason
from ssl_bench.optimizer import clip_gradients, make_optimizer, set_schedules
from ssl_bench.rng import Order, Rng, mix
from ssl_bench.stop import Stop


def build(config: Config, info: DataInfo, device: torch.device) -> Method:
    """The method on its device, initialised from the seed."""
    cls = find.defined(find.module("methods", config.method), Method)
    torch.manual_seed(mix(config.seed, "init"))
    method: Method = cls(config, info).to(device)
    explicit_attention(method, device.type == "cpu")
    return method


class Trainer:
    """One run from its config to its encoder; every public step of it is resumable."""

    def __init__(self, config: Config, data: Dataset, device: torch.device) -> None:
        self.config, self.data, self.device = config, data, device
        if not data.labelled and find.defined(find.module("methods", config.method), Method).uses_labels:
            raise UserError(f"'{config.method}' trains on labels and '{data.name}' has none: name another data set.")
        self.info = DataInfo(data.image_size, data.channels, len(data.classes), data.mean, data.std)
        self.method = build(config, self.info, device)
        self.flops_per_image = self.method.flops()
        self.share = sharding.share(config.budget.batch_size, config.budget.accumulate)
        self.model = sharding.wrap(self.method, self.method.encoder, config.run.sharding, device)
        self.drop_paths = [m for m in self.method.modules() if isinstance(m, DropPath)]
        self.steps = compute.steps(config.budget, len(data.train), self.flops_per_image)
        self.optimizer = make_optimizer(self.method, config)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.order = Order(config.seed, len(data.train), config.budget.batch_size)
        self.step, self.seconds = 0, 0.0
        self.window: dict[str, float] = {}
        self.skipped: list[int] = []  # steps without an update, counted from 1

    def state(self) -> dict[str, Any]:
        """Everything a restart needs, on any number of processes; all of them call this together.

        Generators and the place in the data follow from the step.
        """
        return {
            "step": self.step, "seconds": self.seconds, "window": self.window, "skipped": self.skipped,
            "fingerprint": self.data.fingerprint, "method": sharding.whole(self.method.state_dict()),
            "optimizer": sharding.whole(self.optimizer.state_dict()),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        if state.get("fingerprint", self.data.fingerprint) != self.data.fingerprint:
            raise UserError(
                f"The images of '{self.config.data.name}' have changed since this run began "
                f"({state['fingerprint']} then, {self.data.fingerprint} now). Start a new run with another --root."
            )
        try:
            self.method.load_state_dict(sharding.cut_like(state["method"], self.method.state_dict()))
            self.optimizer.load_state_dict(sharding.cut_optimizer(state["optimizer"], self.parameters))
            self.step, self.seconds, self.window = int(state["step"]), state["seconds"], dict(state["window"])
            self.skipped = list(state.get("skipped", []))
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(
                f"The checkpoint does not fit '{self.config.method}' as it is now ({str(error)[:300]}). "
                "Its code has changed since: go back to that code, or start a new run with another --root."
            ) from error

    def rows(self, step: int, part: int) -> tuple[slice, np.ndarray]:
        """Which rows of a step's batch this process has in a micro-batch, and their places in the training part."""
        start = (part * distributed.world_size() + distributed.rank()) * self.share
        rows = slice(start, start + self.share)
        return rows, self.order(step)[rows]

    def batch(self, part: int) -> tuple[Tensor, Tensor, Rng]:
        """Images, labels and random numbers of micro-batch `part` of this step: this process' share of them."""
        budget, split = self.config.budget, self.data.train
        rows, indices = self.rows(self.step, part)
        rng, dropped = (
            Rng(mix(self.config.seed, what, self.step), budget.batch_size, rows, self.device)
            for what in ("step", "drop path")
        )
        for module in self.drop_paths:
            module.rng = dropped
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
            with sharding.without_exchange(self.model, part < config.budget.accumulate - 1):
                with compute.autocast(config, self.device):
                    out = self.model(views, at)
                (out["loss"] / config.budget.accumulate).backward()
            for key, value in out.items():
                logs[key] = logs.get(key, torch.zeros(())) + value.detach().float().cpu() / config.budget.accumulate
        logs = distributed.average(logs)
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


def ignore(state: dict[str, Any]) -> None:
    """The observer where nobody watches."""


def pretrain(config: Config, root: Path, observe: Observer = ignore) -> runs.Run:
    """Train one run to its end, or go on where it stopped; the same command again does nothing more.

    With run.devices, torchrun or srun, several processes are in here together; process 0 alone writes and observes.
    """
    config.check()
    with launch.group(config.run.devices, config.run.device, pretrain, config, root):
        launch.use_threads(config.run.threads)
        return _pretrain(config, root, ignore if distributed.rank() else observe)


def _pretrain(config: Config, root: Path, observe: Observer) -> runs.Run:
    held: list[Any] = []

    def begin() -> tuple[runs.Run, bool]:
        run = runs.start(root, config)
        if run.status().get("state") == "finished":
            return run, True
        held.append(runs.lock(run))
        sweep(run.folder, but="config.json")  # which a process that is refused by the lock may be writing
        return run, False

    run, finished = distributed.first(begin)
    if finished:
        return run
    stop = Stop()
    try:
        _train(config, run, stop, observe)
    except BaseException as error:
        state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        with suppress(UserError):  # a full disk takes no status either, and what went wrong is said by `error`
            if held:
                runs.set_status(run, state=state, reason=str(error), **getattr(error, "facts", {}))
        raise
    finally:
        stop.restore()
        for lock in held:
            lock.close()
    return run


def _train(config: Config, run: runs.Run, stop: Stop, observe: Observer) -> None:
    device = compute.pick_device(config.run.device)
    data = open_data(config.data, config.run)
    if config.budget.hours:
        from ssl_bench import forecast

        config = forecast.in_steps(config, data, device, run.folder / "steps.json")
    trainer = Trainer(config, data, device)
    state, remarks = distributed.first(lambda: checkpoint.resume(run.folder))
    remarks += compute.crowded(device) + compute.without_bf16(config, device)
    if state is not None:
        trainer.restore(state)
    facts: dict[str, Any] = {"data": {"name": data.name, "fingerprint": data.fingerprint}, "remarks": remarks}
    facts |= {"device": compute.device_label(device), "processes": distributed.world_size(), "resumed_at": trainer.step}
    distributed.first(lambda: runs.write_json(run.folder / "provenance.json", runs.provenance(facts)))
    distributed.first(lambda: runs.set_status(run, state="running", reason="", non_finite=None))
    begin = {"step": trainer.step, "steps": trainer.steps, "resumed": trainer.step > 0}
    observe({"run": run.name, "remarks": remarks, **begin})
    journal = Journal(trainer, run, observe)
    stopping = False
    with closing(journal), checkpoint.Writer(run.folder, trainer.step if state else None) as writer:
        while trainer.step < trainer.steps and not stopping:
            try:
                journal.record(trainer.train_step())
            except FloatingPointError as error:
                if len(trainer.skipped) >= config.run.nan_skips:
                    raise _non_finite(trainer, writer, str(error)) from error
                trainer.skip()
                journal.record({}, skipped=str(error))
            stopping, due = distributed.any_of(stop.asked, writer.ready(journal.checkpoint_due()))
            if due:
                _keep(trainer, writer)
        distributed.first(writer.wait)
        if distributed.first(lambda: trainer.step != writer.last):
            _keep(trainer, writer)
            distributed.first(writer.wait)  # a launcher may end all processes when one of them has ended
    if stopping:
        raise KeyboardInterrupt("stopped by a signal; the checkpoint is written")
    _finish(trainer, run)


def _keep(trainer: Trainer, writer: checkpoint.Writer) -> None:
    """Write the state, if it is worth keeping: all processes gather it, process 0 writes."""
    if not trainer.finite():
        trainer.step -= 1  # the step that made them
        raise _non_finite(trainer, writer, "weights")
    state = trainer.state()
    distributed.first(lambda: writer.save(state))


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
    weights = sharding.whole(trainer.method.encoder.state_dict())
    cost = compute.report(trainer.config, trainer.device, trainer.steps, trainer.seconds, trainer.flops_per_image)
    distributed.first(lambda: _leave(trainer, run, weights, cost))


def _leave(trainer: Trainer, run: runs.Run, weights: dict[str, Tensor], cost: dict[str, Any]) -> None:
    """What a finished run leaves in its folder."""
    method, info = trainer.method, trainer.info
    payload = save({k: v.detach().cpu().contiguous() for k, v in weights.items()})
    write_atomic(run.folder / "encoder.safetensors", payload)
    meta = {"backbone": to_dict(method.encoder.config), "image_size": info.image_size, "channels": info.channels}
    meta |= {"pooling": method.pooling, "mean": info.mean, "std": info.std, "evaluated": method.evaluated}
    runs.write_json(run.folder / "encoder.json", meta | {"weights_sha256": checkpoint.sha256(payload)})
    runs.write_json(run.folder / "compute.json", {**cost, "skipped_steps": trainer.skipped})
    (run.folder / checkpoint.PREVIOUS).unlink(missing_ok=True)  # of no use beside a finished run's last
    reason = _collapse(run)
    runs.set_status(
        run, state="finished", step=trainer.step, steps=trainer.steps, collapsed=bool(reason), collapse_reason=reason
    )


def _collapse(run: runs.Run) -> str:
    """Why the run counts as collapsed, or "". One look is enough: what recovers is another run than was asked for."""
    for row in run.metrics():
        if row.get("monitor_collapsed"):
            signals = {k.removeprefix("monitor_"): v for k, v in row.items() if k.startswith("monitor_")}
            return f"{collapse_reason(signals)} at step {row['step']:,}"
    return ""
