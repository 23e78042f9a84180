"""Bytes that one process hands to collectives: what a step costs the network.

with Traffic() as traffic: trainer.train_step()
traffic.sent(world)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

KINDS = {
    "allreduce": "all-reduce",
    "allgather": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "broadcast": "broadcast",
}


class Traffic(TorchDispatchMode):
    """Counts while active. `bytes[kind]` is the size of the whole message (gathered, or before it is scattered)."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = func.__name__.partition(".")[0].strip("_")
            kind = next((kind for part, kind in KINDS.items() if name.startswith(part)), name)
            sizes = [sum(t.nbytes for t in tree_leaves(a) if isinstance(t, Tensor)) for a in args]
            self.bytes[kind] += max(sizes)  # of output and input, the one that holds every process' part
            self.calls[kind] += 1
        return func(*args, **(kwargs or {}))

    def sent(self, world: int) -> float:
        """Bytes that each process sends by the ring algorithms, whose times these bound on one network link."""
        share: dict[str, Callable[[int], float]] = {"all-reduce": lambda w: 2 * (w - 1) / w, "broadcast": lambda w: 1.0}
        return sum(size * share.get(kind, lambda w: (w - 1) / w)(world) for kind, size in self.bytes.items())
