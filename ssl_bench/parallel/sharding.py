"""DDP or FSDP2 around a method, and a state that any number of processes can read.

Under DDP every process holds everything. Under FSDP2 a parameter (and its gradient and optimizer state) is cut along
its first dimension; each block gathers its own for the time it runs, the method gathers the rest, and outside its
forward all of them are cut: an EMA of cut parameters is the cut EMA. Both keep fp32, so the numbers are the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

from ssl_bench.errors import UserError
from ssl_bench.parallel.collectives import world_size

LARGE = 300_000_000  # parameters of the evaluated encoder; ViT-L has 303 million


def share(batch_size: int, accumulate: int) -> int:
    """Images of one process in one micro-batch."""
    parts = accumulate * world_size()
    if batch_size % parts:
        raise UserError(
            f"budget.batch_size={batch_size} cannot be shared by {world_size()} processes with "
            f"budget.accumulate={accumulate}: make it a multiple of {parts}."
        )
    return batch_size // parts


def wrap(method: nn.Module, encoder: nn.Module, sharding: str, device: torch.device) -> nn.Module:
    """What the loop calls instead of `method`; make the optimizer afterwards. `sharding`: auto, ddp or fsdp."""
    if world_size() == 1:
        if sharding != "auto":
            raise UserError(f"run.sharding={sharding} has no effect on one process: leave it out, or set run.devices.")
        return method
    if sharding == "auto":
        sharding = "fsdp" if sum(p.numel() for p in encoder.parameters()) >= LARGE else "ddp"
    if sharding == "ddp":
        # Buffers (centres, queues) are equal by construction: they are made from gathered values. Tests compare them.
        known = inspect.signature(DistributedDataParallel).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # torch < 2.15
        settings: dict[str, Any] = {sync: False, "gradient_as_bucket_view": True}
        return DistributedDataParallel(method, **settings)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world_size(),))
    for module in list(method.modules()):
        if isinstance(module, nn.ModuleList):  # transformer blocks and the like: each is called by itself
            for block in module:
                fully_shard(block, mesh=mesh)
    fully_shard(method, mesh=mesh)
    return method


def without_exchange(model: nn.Module, when: bool) -> AbstractContextManager[None]:
    """Around forward and backward of all micro-batches but the last: DDP sends one gradient per step.

    FSDP2 sends each micro-batch's: keeping whole gradients until the last would need the memory that it saves.
    """
    return model.no_sync() if when and isinstance(model, DistributedDataParallel) else nullcontext()


@contextmanager
def gathered(method: nn.Module) -> Iterator[None]:
    """Parts of a method may be called by themselves here, by all processes together, without gradient."""
    cut: Any = method if hasattr(method, "unshard") else None  # `fully_shard` adds it
    if cut is not None:
        cut.unshard()
    yield
    if cut is not None:
        cut.reshard()


def whole(state: Any) -> Any:
    """A state with every cut tensor gathered, as one process would have it. All processes must call it.

    So a checkpoint is the same file whatever made it, and any number of processes goes on from it. (Files per process,
    as torch.distributed.checkpoint writes them, would save a gathering of seconds, and would need their own ways to
    be atomic, checksummed and kept twice.)
    """
    if world_size() == 1:
        return state
    from torch.distributed.tensor import DTensor

    return tree_map(lambda x: x.full_tensor().cpu() if isinstance(x, DTensor) else x, state)


def cut_like(state: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """This process' part of every whole tensor that is cut in `like`; the others as they are."""
    if world_size() == 1:
        return state
    from torch.distributed.tensor import DTensor, distribute_tensor

    def cut(value: Tensor, own: Tensor | None) -> Tensor:  # every process holds the whole: nothing is sent
        if not isinstance(own, DTensor) or value.shape != own.shape:
            return value
        return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)

    return {key: cut(value, like.get(key)) for key, value in state.items()}


def cut_optimizer(state: dict[str, Any], parameters: list[Tensor]) -> dict[str, Any]:
    """A whole optimizer state, each entry cut like its parameter."""
    entries = {i: cut_like(entry, dict.fromkeys(entry, parameters[i])) for i, entry in state["state"].items()}
    return {**state, "state": entries}
