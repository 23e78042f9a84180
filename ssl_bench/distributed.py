"""What a loss needs from other processes, with exact gradients; at world size 1 nothing here does anything.

The convention is DDP's: gradients are averaged over processes. A loss over the gathered batch is the same number on
every process and its averaged gradient is that of one process with the whole batch; a loss that is a mean over local
images needs no help. Tests hold every method to this. All processes must hold equally many images.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    """Processes that train together; 1 outside torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process' number."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)  # every process' loss depends on these rows; gloo has no reduce-scatter
        return gradient[rank() * ctx.rows : (rank() + 1) * ctx.rows]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradients[0])


def gather(x: Tensor) -> Tensor:
    """x [B, ...] of all processes [W * B, ...] in the order of their ranks, with gradient to each of them."""
    return x if world_size() == 1 else _Gather.apply(x)


def total(x: Tensor) -> Tensor:
    """Sum over processes, with gradient."""
    return x if world_size() == 1 else _Sum.apply(x)


def mean(x: Tensor) -> Tensor:
    """Mean over processes, with gradient."""
    return x if world_size() == 1 else _Sum.apply(x) / world_size()


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm of [N, D] with the statistics of this batch over all processes, in training and in eval mode.

    It keeps no running statistics: it serves projection heads, which never run outside training, and a teacher's head
    must use its batch's statistics too (BYOL, MoCo v3). torch's SyncBatchNorm refuses CPU tensors.
    """

    def __init__(self, dim: int, affine: bool = True) -> None:
        super().__init__(dim, affine=affine, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        if world_size() == 1:
            return super().forward(x)
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        centred = wide - mean(wide.mean(0))
        out = centred * torch.rsqrt(mean(centred.square().mean(0)) + self.eps)
        return (out * self.weight + self.bias if self.affine else out).to(x.dtype)
