"""The nearest images by cosine, and their votes. Used while training (`monitor`) and by the protocol `knn`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 256  # queries at once
UNDERFLOW = 80  # exp(-80) is far from single precision's 0
GROUPS = 16  # images of the bank that are looked at by their best one first


def nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosines and indices [Q, k] of the most similar of the bank [M, D] to each of the queries [Q, D], best first."""
    return closest(bank, queries, k, "cosine")


def closest(bank: Tensor, queries: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """The same by metric `cosine`, or by `l2`: x.y - |y|^2 / 2, the larger the nearer, and indices.

    Exact, in two steps: of columns of GROUPS images each, the k best are among the k columns with the best maximum.
    One pass for the maxima and two small selections take a third of the time of one selection among all.
    """
    half = bank.square().sum(1) / 2 if metric == "l2" else None
    bank, queries = (bank, queries) if metric == "l2" else (F.normalize(bank, dim=1), F.normalize(queries, dim=1))
    k, width = min(k, len(bank)), -(-len(bank) // GROUPS)
    sims = bank.new_full((min(CHUNK, len(queries)), GROUPS * width), -torch.inf)  # where no image is
    found: list[tuple[Tensor, Tensor]] = []
    for chunk in queries.split(CHUNK):
        here = sims[: len(chunk)]
        torch.mm(chunk, bank.T, out=here[:, : len(bank)])
        if half is not None:
            here[:, : len(bank)] -= half
        if width <= k:
            values, indices = here.topk(k, dim=1)
            found.append((values, indices))
            continue
        columns = here.view(len(chunk), GROUPS, width)
        best = columns.amax(1).topk(k, dim=1).indices
        among = best[:, None].expand(-1, GROUPS, -1)
        top = columns.gather(2, among).flatten(1).topk(k, dim=1)
        place = (among + width * torch.arange(GROUPS, device=best.device)[:, None]).flatten(1)
        found.append((top.values, place.gather(1, top.indices)))
    return torch.cat([s for s, _ in found]), torch.cat([i for _, i in found])


def votes(sims: Tensor, near: Tensor, k: list[int], t: float, num_classes: int) -> Tensor:
    """DINO's weighted votes [len(k), Q, C] of neighbours with cosines [Q, n] and labels [Q, n], best first.

    They are exp((cosine - 1) / t): DINO's ranking, and no overflow in low precision. Where t is so small that this may
    be 0 for all, each query's best cosine stands for 1, which ranks the same; a vote is never 0.
    """
    most = sims[:, :1] if 2 / t > UNDERFLOW else 1
    weights = ((sims - most) / t).exp().clamp_min(torch.finfo(torch.float32).tiny)
    empty = sims.new_zeros(len(sims), num_classes)
    return torch.stack([empty.scatter_add(1, near[:, :n], weights[:, :n]) for n in k])


def knn_votes(bank: Tensor, labels: Tensor, queries: Tensor, k: list[int], t: float, num_classes: int) -> Tensor:
    """DINO's weighted k-NN: votes [len(k), Q, C] for queries [Q, D] from a bank [M, D], both L2-normalised here."""
    sims, index = nearest(bank, queries, max(k))
    return votes(sims, labels[index], k, t, num_classes)
