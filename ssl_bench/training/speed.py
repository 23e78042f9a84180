"""Images per second of one method on this machine, its share of it, and where the time goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ssl_bench import screen
from ssl_bench.config.schema import Config
from ssl_bench.data.dataset import Dataset, Split, open_data
from ssl_bench.data.registry import item as item_of
from ssl_bench.errors import UserError
from ssl_bench.parallel import devices
from ssl_bench.training import cost, measure, rate
from ssl_bench.training.monitor import Monitor
from ssl_bench.training.train import Trainer, rehearse

STAGES = ("data", "forward", "backward", "clip", "optimizer", "EMA", "rest")


def noise(config: Config, images: int = 0) -> Dataset:
    """Random images of the config's size in memory: speed does not depend on what they show."""
    item, count = item_of(config.data), images or max(2 * config.budget.batch_size, 64)
    labels = torch.arange(count) % 10
    part = Split(item.noise(count), np.arange(count), labels)
    moments = (0.5,) * item.channels, (0.25,) * item.channels
    return Dataset("noise", tuple("0123456789"), "", *moments, item, config.data, part, part)


def trainer(config: Config, device: torch.device) -> Trainer:
    """A trainer on random images that never ends."""
    config = replace(config, budget=replace(config.budget, steps=10**9, epochs=0, images=0, flops=0, hours=0))
    return Trainer(config, noise(config), device)


class Stages:
    """Seconds of each stage of a training step, by marks where one stage hands over to the next."""

    def __init__(self, t: Trainer, now: Callable[[], float]) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.now, self.stage, self.last = now, "rest", now()
        self._mark(t, "batch", "data", "data")
        self._mark(t.method, "views", "data", "rest")
        self._mark(t.method, "forward", "forward", "backward")
        self._mark(t.method, "before_step", "rest", "clip")
        self._mark(t.optimizer, "step", "optimizer", "rest")
        self._mark(t.method, "after_step", "EMA", "rest")

    def _mark(self, owner: Any, name: str, during: str, after: str) -> None:
        inner = getattr(owner, name)

        def marked(*args: Any, **kwargs: Any) -> Any:
            self.enter(during)
            out = inner(*args, **kwargs)
            self.enter(after)
            return out

        setattr(owner, name, marked)

    def enter(self, stage: str) -> None:
        """Time since the last mark belongs to the stage that ends here."""
        now = self.now()
        self.seconds[self.stage] += now - self.last
        self.stage, self.last = stage, now


def tokens(t: Trainer) -> int:
    """Rows of the matrix products of one step, roughly: every patch of every image."""
    return t.config.budget.batch_size * t.method.encoder.num_patches


def ceilings(t: Trainer) -> dict[str, tuple[measure.Action, float]]:
    """The machine's matrix product at this step's shape and precision, and its copy."""
    dtype = torch.bfloat16 if devices.used_precision(t.config, t.device) == "bf16" else torch.float32
    width = t.config.backbone.embed_dim
    product = measure.gemm(min(tokens(t), 8192), width, 4 * width, dtype, t.device)
    return {"matrix product": product, "copy": measure.copy(t.device)}


def run(config: Config, rounds: int) -> Iterator[str]:
    """The report, line by line."""
    device = devices.pick_device(config.run.device)
    now = partial(measure.clock, device)
    t, batch = trainer(config, device), config.budget.batch_size
    tops = ceilings(t)
    cases: dict[str, measure.Action] = {"step": t.train_step} | {name: action for name, (action, _) in tops.items()}
    timing = measure.alternate(cases, rounds, now)
    low, middle, high = timing["step"].rates(batch)
    kind = "CPU seconds" if device.type == "cpu" and torch.get_num_threads() == 1 else "seconds"
    yield (
        f"{config.method} {config.recipe}, {devices.used_precision(config, device)}, batch {batch}, "
        f"{t.method.encoder.num_patches} patches, "
        f"{devices.device_label(device)}, {rounds} rounds, images per {kind.removesuffix('s')}"
    )
    yield f"  {middle:.1f} images/s ({low:.1f} to {high:.1f}), {1e3 * timing['step'].median:.0f} ms per step"
    peak = tops["matrix product"][1] / timing["matrix product"].median
    achieved, copied = t.flops_per_image * middle, tops["copy"][1] / timing["copy"].median
    yield (
        f"  {screen.quantity(achieved, 'FLOP/s')} of the {screen.quantity(peak, 'FLOP/s')} that matrix products of "
        f"this shape reach: {100 * achieved / peak:.0f} %; copy {screen.quantity(copied, 'B/s')}"
    )
    yield f"  peak memory {screen.quantity(devices.peak_memory(device), 'B')}"
    stages = Stages(t, now)
    for _ in range(rounds):
        t.train_step()
    stages.enter("rest")
    whole = sum(stages.seconds.values())
    shares = ", ".join(f"{name} {100 * seconds / whole:.1f} %" for name, seconds in stages.seconds.items())
    yield f"  where the time goes: {shares}"
    yield f"  {bookkeeping(t, config, timing['step'].median, now)}"


def bookkeeping(t: Trainer, config: Config, step: float, now: Callable[[], float]) -> str:
    """What the monitor costs in a whole run of this config, whose steps take `step` seconds."""
    if not config.monitor_points:
        return "monitor: off"
    t.data = noise(config, 1000)
    try:
        t.steps = planned(t, config, step, now)
    except UserError:
        return "monitor: not measured, the data set is not here"
    seconds = config.monitor_points * look(t, now)
    share = seconds / (seconds + t.steps * step)
    return f"monitor: {config.monitor_points} looks in {t.steps} steps, {100 * share:.1f} % of the run"


def planned(t: Trainer, config: Config, step: float, now: Callable[[], float]) -> int:
    """Steps of a whole run; a budget of hours has as many as `pretrain` would find at this rate."""
    if config.budget.hours:
        return rate.affordable(config, step, look(t, now))
    return cost.steps(config.budget, len(open_data(config.data).train), t.flops_per_image)


def look(t: Trainer, now: Callable[[], float]) -> float:
    """Seconds of one look of the monitor, after one to warm up; it is smaller in a short run."""
    watch = Monitor(t)
    watch(t.method.encoder)
    began = now()
    watch(t.method.encoder)
    return now() - began


def sizes(t: Trainer) -> dict[str, int]:
    """What the time of a step may grow with, as it was built: a method may have an encoder of its own size."""
    encoder = t.method.encoder
    return {
        "batch": t.config.budget.batch_size, "depth": encoder.config.depth, "width": encoder.config.embed_dim,
        "tokens": encoder.num_patches,
    }  # fmt: skip


def smaller(config: Config, name: str) -> Config:
    """About half of one size (of tokens what patches twice as wide leave), the micro-batches as many as before."""
    budget, shape = config.budget, config.backbone
    if name == "batch":
        images = budget.batch_size // budget.accumulate
        if images == 1:
            raise UserError("one image in a micro-batch has no half")
        made = replace(config, budget=replace(budget, batch_size=images // 2 * budget.accumulate))
    elif name == "depth":
        if shape.depth == 1:
            raise UserError("one block has no half")
        made = replace(config, backbone=replace(shape, depth=shape.depth // 2))
    elif name == "width":
        made = replace(config, backbone=replace(shape, embed_dim=shape.embed_dim // 2))
    else:
        made = replace(config, backbone=replace(shape, patch_size=2 * shape.patch_size))
    rehearse(made.check())
    return made


def growth(config: Config, rounds: int) -> Iterator[str]:
    """How the time of one step grows: local exponents between about half of a size and this config's.

    Halves of odd numbers are rounded down, so each exponent is of the sizes that were built, and they are printed.
    """
    device = devices.pick_device(config.run.device)
    now = partial(measure.clock, device)
    this, parts = trainer(config, device), config.budget.accumulate
    for name, large in sizes(this).items():
        try:
            other = trainer(smaller(config, name), device)
            if (small := sizes(other)[name]) == large:
                raise UserError(f"'{config.method}' has {large} all the same")
        except (UserError, ValueError) as error:
            yield f"  time ~ {name}: not measured ({str(error).splitlines()[0]})"
            continue
        times = measure.alternate({"small": other.train_step, "large": this.train_step}, rounds, now)
        ratios = measure.ratio(times["large"], times["small"])
        low, middle, high = (math.log(r) / math.log(large / small) for r in ratios)
        yield (
            f"  time ~ {name}^{middle:.2f} ({low:.2f} to {high:.2f}), between {small} and this, {large}"
            f"{f', in {parts} micro-batches each' if name == 'batch' and parts > 1 else ''}"
        )
