"""What a run costs: steps that spend a budget, FLOPs, seconds, images/s, peak memory."""

from __future__ import annotations

import math
from typing import Any

import torch

from ssl_bench.config.schema import BudgetConfig, Config
from ssl_bench.parallel import collectives
from ssl_bench.parallel.devices import device_label, instructions, peak_memory, used_precision


def steps(budget: BudgetConfig, num_images: int, flops_per_image: float) -> int:
    """Optimizer steps that spend the budget, at least one; `ValueError` for hours, which need a rate besides."""
    if budget.steps:
        return budget.steps
    if budget.epochs:
        return max(1, math.ceil(budget.epochs * num_images / budget.batch_size))
    if budget.images:
        return max(1, round(budget.images / budget.batch_size))
    if budget.flops:
        return max(1, round(budget.flops / (flops_per_image * budget.batch_size)))
    raise ValueError(f"budget.hours={budget.hours:g} is no number of steps: `rate.in_steps` measures how many it has.")


def leg(config: Config, device: torch.device, seconds: float) -> dict[str, Any]:
    """Time in training on one machine, start-up left out; memory is that of the process with the most."""
    return {
        "seconds": round(seconds, 3),
        "device": device_label(device),
        "instructions": instructions(device),
        "precision": used_precision(config, device),
        "devices": collectives.world_size(),
        "peak_memory_bytes": collectives.largest(peak_memory(device)),
    }


def added(legs: list[dict[str, Any]], last: dict[str, Any]) -> list[dict[str, Any]]:
    """A run's legs with one more; restarts on the same machine, as many of it, are one leg."""
    *before, same = legs or [{}]
    if any(last[k] != same.get(k) for k in ("device", "instructions", "precision", "devices")):
        return [*legs, last]
    seconds, memory = round(same["seconds"] + last["seconds"], 3), "peak_memory_bytes"
    return [*before, {**last, "seconds": seconds, memory: max(same[memory], last[memory])}]


def report(config: Config, total_steps: int, legs: list[dict[str, Any]], flops_per_image: float) -> dict[str, Any]:
    """What compute.json holds: FLOPs and images of all processes together, seconds summed over restarts.

    The machine is the last one. Of a run that went on elsewhere `legs` says what each took, and only a sum over them
    is its device-seconds.
    """
    images = total_steps * config.budget.batch_size
    seconds = sum(part["seconds"] for part in legs)
    return {
        **legs[-1],
        "flops": flops_per_image * images,
        "flops_per_image": flops_per_image,
        "seconds": round(seconds, 3),
        "images": images,
        "images_per_second": round(images / max(seconds, 1e-9), 2),
        "peak_memory_bytes": max(part["peak_memory_bytes"] for part in legs),
        "steps": total_steps,
        **({"legs": legs} if len(legs) > 1 else {}),
    }
