"""Which groups of a cloud are context and which are to be predicted: Point-JEPA's order and its runs of neighbours.

Shapes: B clouds, G groups, T targets of m groups, n context groups.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_bench.rng import Rng


def sequence(centres: Tensor, start: str = "least") -> Tensor:
    """Indices [B, G] of centres [B, G, 3], each next one the nearest to the last that is left (ties: the first).

    Point-JEPA's `iterative_nearest_min_start`: from the least x + y + z on; `start="first"`: from index 0 on. Greedy,
    not a shortest path. Distances are summed over squared differences: a matrix product would lose near ties.
    """
    b, count = centres.shape[:2]
    rows = torch.arange(b, device=centres.device)
    far = (centres.unsqueeze(2) - centres.unsqueeze(1)).square().sum(-1)
    far.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    at = centres.sum(-1).argmin(1) if start == "least" else torch.zeros(b, dtype=torch.long, device=centres.device)
    out = [at]
    for _ in range(count - 1):
        far[rows, :, at] = torch.inf
        at = far[rows, at].argmin(1)
        out.append(at)
    return torch.stack(out, 1)


def runs(
    rng: Rng, count: int, targets: int, target_ratio: tuple[float, float], context_ratio: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Places in a sequence of `count` groups: context [n] and targets [T, m], one draw for a whole batch.

    Targets are runs of one length and may overlap. The context is a run of what is left without them, so it may jump
    over them; its ratio is of what is left. Where nothing is left, the context is the first group (Point-JEPA's way).
    """
    length = max(1, int(count * between(rng, target_ratio)))
    starts = torch.stack([(rng.shared(1)[0] * (count - length + 1)).long() for _ in range(targets)])
    places = starts[:, None] + torch.arange(length, device=starts.device)
    left = torch.ones(count, dtype=torch.bool, device=starts.device).index_fill(0, places.flatten(), False)
    free = left.nonzero()[:, 0] if left.any() else starts.new_zeros(1)
    size = max(1, int(between(rng, context_ratio) * len(free)))
    first = int(rng.shared(1)[0] * (len(free) - size + 1))
    return free[first : first + size], places


def between(rng: Rng, ends: tuple[float, float]) -> float:
    return ends[0] + (ends[1] - ends[0]) * float(rng.shared(1))
