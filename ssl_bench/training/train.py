"""The one loop. No method's name appears here; a method that does not fit gets a better interface."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ssl_bench import find
from ssl_bench.config.bounds import zeros
from ssl_bench.config.schema import Config, identity, size_text
from ssl_bench.data.dataset import Dataset, other_images
from ssl_bench.data.registry import item as item_of
from ssl_bench.errors import UserError
from ssl_bench.models.vit import DropPath, explicit_attention
from ssl_bench.parallel import collectives, devices, sharding
from ssl_bench.rng import Order, Rng, mix
from ssl_bench.training import cost
from ssl_bench.training.method import DataInfo, Method
from ssl_bench.training.optimizer import clip_gradients, make_optimizer, set_schedules


def build(config: Config, info: DataInfo, device: torch.device) -> Method:
    """The method on its device, initialised from the seed."""
    cls = find.defined(find.module("methods", config.method), Method)
    torch.manual_seed(mix(config.seed, "init"))
    method: Method = cls(config, info).to(device)
    explicit_attention(method, device.type == "cpu")
    return method


class _Unfilled(TorchFunctionMode):
    """Parameters and copies of large tensors stay as they were allocated: filling them takes seconds, and memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first: Any = args[0] if args else (kwargs or {}).get("tensor")
        name = func.__name__
        if isinstance(first, nn.Parameter) and name.strip("_") + "_" == name != "requires_grad_":
            return first
        if func is Tensor.clone and first.numel() > 1 << 16:
            return torch.empty_like(first)
        return func(*args, **(kwargs or {}))


def rehearse(config: Config) -> None:
    """Raise `UserError` where this method cannot be trained with these settings, before anything is written.

    A micro-batch may be too small for its loss, or a grid of patches for its masks: a few made-up images are cut into
    views once, by a method whose weights are never drawn. What only real images and weights tell is left to the run.
    """
    cls = find.defined(find.module("methods", config.method), Method)
    budget, item = config.budget, item_of(config.data)
    if (images := budget.batch_size // budget.accumulate) < cls.fewest:
        parts = f" in {budget.accumulate} micro-batches of {images}" * (budget.accumulate > 1)
        raise UserError(
            f"'{config.method}' compares the images of a micro-batch with one another and needs at least {cls.fewest} "
            f"in each; this is budget.batch_size={budget.batch_size}{parts}. Raise budget.batch_size"
            f"{', or lower budget.accumulate.' if budget.accumulate > 1 else '.'}"
        )
    info = DataInfo(item.as_kind(cls.kinds), 2, (0.5,) * item.channels, (0.25,) * item.channels)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            with _Unfilled():
                method: Method = cls(config, info)
            items = item.given(torch.zeros(2, *item.shape, dtype=getattr(torch, item.dtype)), info.item)
            for at in (0.0, 1.0):  # of training: what is hidden may change on the way
                method.eval().views(info.item.seen(items), Rng(0, 2), at)
    except ValueError as error:
        size = size_text(config.data.image_size)
        grid = " x ".join(map(str, item.grid(config.backbone.patch_size, config.backbone.tubelet)))
        raise UserError(
            f"'{config.method}' cannot be trained on {grid} patches (data.image_size={size}, "
            f"backbone.patch_size={config.backbone.patch_size}): {error}"
        ) from error
    except (ArithmeticError, IndexError, RuntimeError) as error:
        blame_zeros(config, error)
        if not isinstance(error, RuntimeError):  # a method of one's own may compute on its weights: the run will tell
            raise


def blame_zeros(config: Config, error: Exception) -> None:
    """`UserError` where numbers of the objective are 0 and not so in the recipe: what cannot run is likely theirs."""
    usual = find.recipe(config.method, config.recipe)().objective if config.recipe else type(config.objective)()
    if told := zeros(config.objective, usual):
        raise UserError(f"'{config.method}' cannot be trained with {told}: {error}.") from error


def refuse_labels(config: Config, data: Dataset) -> None:
    """Raise `UserError` where a method that trains on labels has none to learn from."""
    if find.defined(find.module("methods", config.method), Method).uses_labels:
        if not data.labelled:
            raise UserError(f"'{config.method}' trains on labels and '{data.name}' has none: name another data set.")
        if len(found := data.train.labels.unique()) < 2:
            only = data.classes[int(found[0])]
            raise UserError(
                f"'{config.method}' trains on labels and all images of '{data.name}' are of one class, '{only}': "
                "name another data set."
            )


class Trainer:
    """One run from its config to its encoder; every public step of it is resumable."""

    def __init__(self, config: Config, data: Dataset, device: torch.device) -> None:
        self.config, self.data, self.device = config, data, device
        refuse_labels(config, data)
        kinds = find.defined(find.module("methods", config.method), Method).kinds
        self.info = DataInfo(data.item.as_kind(kinds), len(data.classes), data.mean, data.std)
        self.method = build(config, self.info, device)
        self.uses_labels = type(self.method).uses_labels  # as declared: an object that sets it later gets none
        self.flops_per_image = self.method.flops()
        self.share = sharding.share(config.budget.batch_size, config.budget.accumulate)
        self.model = sharding.wrap(self.method, self.method.encoder, config.run.sharding, device)
        self.drop_paths = [m for m in self.method.modules() if isinstance(m, DropPath)]
        self.steps = cost.steps(config.budget, len(data.train), self.flops_per_image)
        self.optimizer = make_optimizer(self.method, config)
        groups = self.optimizer.param_groups
        self.parameters = [p for group in groups for p in group["params"]]
        self.clipped = [p for group in groups for p in group["params"] if group.get("clip", True)]
        self.order = Order(config.seed, len(data.train), config.budget.batch_size)
        self.step, self.seconds = 0, 0.0
        self.before: list[dict[str, Any]] = []  # legs of the run until the checkpoint it goes on from
        self.window: dict[str, float] = {}
        self.skipped: list[int] = []  # steps without an update, counted from 1

    def state(self) -> dict[str, Any]:
        """Everything a restart needs, on any number of processes; all of them call this together.

        Generators and the place in the data follow from the step.
        """
        return {
            "step": self.step, "seconds": self.seconds, "window": self.window, "skipped": self.skipped,
            "legs": self.legs(), "identity": identity(self.config),
            "fingerprint": self.data.fingerprint, "method": sharding.whole(self.method.state_dict()),
            "optimizer": sharding.whole(self.optimizer.state_dict()),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        if state.get("fingerprint", self.data.fingerprint) != self.data.fingerprint:
            raise other_images(self.config.data.name, state["fingerprint"], self.data.fingerprint)
        if state.get("identity", identity(self.config)) != identity(self.config):
            raise UserError("The checkpoint is of a run with another config: restore this run's own, or remove it.")
        try:
            self.method.load_state_dict(sharding.cut_like(state["method"], self.method.state_dict()))
            self.optimizer.load_state_dict(sharding.cut_optimizer(state["optimizer"], self.parameters))
            self.step, self.seconds, self.window = int(state["step"]), state["seconds"], dict(state["window"])
            self.skipped, self.before = list(state.get("skipped", [])), list(state.get("legs", []))
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(
                f"The checkpoint does not fit '{self.config.method}' as it is now ({str(error)[:300]}). "
                "Its code has changed since: go back to that code, or start a new run with another --root."
            ) from error

    def legs(self) -> list[dict[str, Any]]:
        """What each machine has taken of the run so far; all processes call this together."""
        here = max(0.0, self.seconds - sum(part["seconds"] for part in self.before))
        return cost.added(self.before, cost.leg(self.config, self.device, here))

    def rows(self, step: int, part: int) -> tuple[slice, np.ndarray]:
        """Which rows of a step's batch this process has in a micro-batch, and their places in the training part."""
        start = (part * collectives.world_size() + collectives.rank()) * self.share
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
        drawn = Rng(mix(self.config.seed, "item", self.step), budget.batch_size, rows)
        images = self.data.item.given(images, self.info.item, drawn).to(self.device)
        return self.info.item.seen(images), split.labels[indices].to(self.device), rng

    def train_step(self) -> dict[str, Tensor]:
        """One optimizer step; returns what the method logs, averaged over micro-batches."""
        try:
            return self._train_step()
        except torch.OutOfMemoryError:
            raise
        except (ArithmeticError, IndexError, RuntimeError) as error:
            if not self.step and not self.config.run.nan_skips:  # else the caller skips what is not finite
                blame_zeros(self.config, error)
            raise

    def _train_step(self) -> dict[str, Tensor]:
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
            if self.uses_labels:
                views["labels"] = labels
            with sharding.without_exchange(self.model, part < config.budget.accumulate - 1):
                with devices.autocast(config, self.device):
                    out = self.model(views, at)
                (out["loss"] / config.budget.accumulate).backward()
            for key, value in out.items():
                logs[key] = logs.get(key, torch.zeros(())) + value.detach().float().cpu() / config.budget.accumulate
        logs = collectives.average(logs)
        if trouble := self.trouble(logs["loss"]):
            for name, value in before.items():
                method.get_buffer(name).copy_(value)
            raise FloatingPointError(trouble)
        method.before_step(at)
        if config.optim.clip:
            clip_gradients(self.clipped, config.optim.clip, config.optim.clip_mode)
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
        found = collectives.total(torch.stack([loss, torch.stack(norms).sum().cpu()]))
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
        return bool(torch.isfinite(collectives.total(torch.stack(norms).sum().cpu())))
