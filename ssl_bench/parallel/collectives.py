"""What a loss and the loop need from other processes; at world size 1 nothing here does anything.

The convention is DDP's: gradients are averaged over processes. A loss over the gathered batch is the same number on
every process and its averaged gradient is that of one process with the whole batch; a loss that is a mean over local
images needs no help. Tests hold every method to this. All processes must hold equally many images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ssl_bench.errors import UserError

Value = TypeVar("Value")


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


def average(logs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scalars on the CPU -> their means over processes, in one message: what one process logs for the whole batch."""
    if world_size() == 1:
        return logs
    values = torch.stack(list(logs.values()))
    dist.all_reduce(values)
    return dict(zip(logs, values / world_size(), strict=True))


def any_of(*flags: bool) -> list[bool]:
    """Whether each flag is set on any process: all of them act at the same step, or none does."""
    if world_size() == 1:
        return list(flags)
    seen = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(seen, dist.ReduceOp.MAX)
    return seen.bool().tolist()


def largest(number: int) -> int:
    """The largest of the processes' numbers."""
    if world_size() == 1:
        return number
    seen = torch.tensor(number)
    dist.all_reduce(seen, dist.ReduceOp.MAX)
    return int(seen)


def first(call: Callable[[], Value]) -> Value:
    """What process 0's `call` returns, on every process (tensors on the CPU); its error is raised on all of them."""
    if world_size() == 1:
        return call()
    leaves: list[Any] = []
    box: list[Any] = [None, None, None]  # an error, the shape of the value, its leaves with tensors as (size, dtype)
    if rank() == 0:
        try:
            leaves, spec = tree_flatten(call())
        except BaseException as error:
            told = str(error) if isinstance(error, UserError) else f"Process 0 stopped: {error!r}"
            dist.broadcast_object_list([told, None, None], device=torch.device("cpu"))
            raise
        box = [None, spec, [_Empty(x.shape, x.dtype) if isinstance(x, Tensor) else x for x in leaves]]
    dist.broadcast_object_list(box, device=torch.device("cpu"))
    if box[0] is not None:
        raise UserError(box[0])
    for i, leaf in enumerate(box[2]):
        if isinstance(leaf, _Empty):  # one by one: a checkpoint in one message would need its memory three times
            box[2][i] = leaves[i].cpu().contiguous() if leaves else torch.empty(leaf.shape, dtype=leaf.dtype)
            dist.broadcast(box[2][i], 0)
    return tree_unflatten(box[2], box[1])


class _Empty:
    """A tensor that follows."""

    def __init__(self, shape: torch.Size, dtype: torch.dtype) -> None:
        self.shape, self.dtype = shape, dtype


def leave() -> None:
    """End the group: what follows is this process' own."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


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
