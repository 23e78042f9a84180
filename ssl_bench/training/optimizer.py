"""The optimizer of every method: fused AdamW, schedules per parameter group, gradient clipping."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_bench.config.schema import Config
from ssl_bench.models.timm_parts import AdamW
from ssl_bench.training.method import Method, cosine, warmup_cosine


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
