"""From teacher logits to target distributions: centring (DINO) and Sinkhorn-Knopp (SwAV, DINOv2, MSN, CAPI).

Both stop one prototype from taking every image, and both look at the batch of all processes.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.parallel import collectives


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Logits [..., N, K] -> assignments [..., N, K]: rows sum to 1, prototypes get nearly equal shares.

    SwAV's algorithm (Caron et al. 2020, section 3.1; DINOv2's `sinkhorn_knopp_teacher` is the same): prototypes
    first, rows last. Leading dimensions are separate problems (CAPI: one per position). Processes may hold different
    numbers of rows, also none.
    """
    scaled = logits.float() / temperature
    if scaled.numel():
        top = scaled.max()
    else:
        top = scaled.new_full((), -torch.inf)
    if collectives.world_size() > 1:
        dist.all_reduce(top, dist.ReduceOp.MAX)
    q = torch.exp(scaled - top)  # one constant for all: it cancels, and nothing overflows
    for _ in range(iterations):
        q = q / collectives.total(q.sum(-2, keepdim=True)).clamp_min(1e-30)
        q = q / q.sum(-1, keepdim=True).clamp_min(1e-30)
    return q


class Center(nn.Module):
    """DINO's centre: a running mean of teacher logits, subtracted before their softmax.

    `forward` uses the centre as it was before this batch and remembers the batch's mean over all processes; `update`,
    called after the optimizer's step, moves the centre there (with several micro-batches, to their common mean).
    """

    def __init__(self, dim: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.seen: list[tuple[Tensor, Tensor]] = []  # (sum, count) per forward since the last update; within one step
        self.value: Tensor
        self.register_buffer("value", torch.zeros(dim))

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """Logits [..., K] -> probabilities."""
        rows = logits.float().flatten(0, -2)
        count = torch.tensor(float(len(rows)), device=rows.device)
        self.seen.append((collectives.total(rows.sum(0)), collectives.total(count)))
        return F.softmax((logits.float() - self.value) / temperature, dim=-1)

    @torch.no_grad()
    def update(self) -> None:
        """center <- momentum * center + (1 - momentum) * mean; unchanged where nothing was seen."""
        count = sum((n for _, n in self.seen), torch.zeros((), device=self.value.device))
        mean = sum((s for s, _ in self.seen), torch.zeros_like(self.value)) / count.clamp_min(1)
        self.value.lerp_(mean, (1 - self.momentum) * count.clamp(max=1))
        self.seen = []

    def forget(self) -> None:
        """The step was skipped: what it saw does not count."""
        self.seen = []
