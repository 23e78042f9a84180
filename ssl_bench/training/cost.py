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


def report(
    config: Config, device: torch.device, total_steps: int, seconds: float, flops_per_image: float
) -> dict[str, Any]:
    """What compute.json holds. `seconds` is time in training, summed over restarts, start-up left out.

    FLOPs and images are those of all processes together, memory is that of the process with the most.
    """
    images = total_steps * config.budget.batch_size
    return {
        "flops": flops_per_image * images,
        "flops_per_image": flops_per_image,
        "seconds": round(seconds, 3),
        "device": device_label(device),
        "instructions": instructions(device),
        "precision": used_precision(config, device),
        "devices": collectives.world_size(),
        "images": images,
        "images_per_second": round(images / max(seconds, 1e-9), 2),
        "peak_memory_bytes": collectives.largest(peak_memory(device)),
        "steps": total_steps,
    }
