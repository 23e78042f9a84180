"""Heads on patch tokens that answer with label maps; the protocol `dense` chooses among their settings.

Shapes: N images of T patches and H x W pixels, D width, C classes, S settings. Tokens are standardised.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.data.masks import VOID
from ssl_bench.errors import UserError
from ssl_bench.evaluation.logistic import rotate, solve
from ssl_bench.evaluation.patch_maps import PatchMap, voted
from ssl_bench.rng import mix
from ssl_bench.screen import paced
from ssl_bench.training.method import warmup_cosine
from ssl_bench.training.neighbours import closest


class DenseHead:
    """Fitted on tokens z [N, T, D] and masks uint8 [N, H, W]."""

    names: list[str]  # of the settings

    def __init__(self, where: PatchMap, num_classes: int, device: torch.device) -> None:
        self.where, self.num_classes, self.device = where, num_classes, device

    def maps(self, z: Tensor, which: Sequence[int]) -> Tensor:
        """Label maps uint8 [S, n, H, W] of z [n, T, D], of the settings with these places in `names`."""
        raise NotImplementedError


class Logistic(DenseHead):
    """L2 logistic regression from each patch to the most frequent class of its pixels, at several strengths."""

    def fit(self, z: Tensor, masks: Tensor, powers: Sequence[float], tol: float) -> Logistic:
        self.names = [f"C={c:.3g}" for c in powers]
        labels = self.where.labels(masks, self.num_classes).flatten()
        if not (labels >= 0).any():
            raise UserError("Every pixel of the training masks is void: there is nothing to learn.")
        flat = z.flatten(0, 1)[labels >= 0]
        scores, self.axes = rotate(flat.__getitem__, len(flat), device=self.device)
        self.weights: list[Tensor] = []
        for c in paced("fitting patches", list(powers), len(powers)):
            start = self.weights[-1] if self.weights else None
            found = solve(scores, labels[labels >= 0], self.num_classes, c, start=start, tol=tol)
            self.weights.append(found.weight)
        return self

    def maps(self, z: Tensor, which: Sequence[int]) -> Tensor:
        scores = self.axes(z.flatten(0, 1).to(self.device))
        found = [(scores @ self.weights[i].T).argmax(1).view(z.shape[:2]).cpu() for i in which]
        return torch.stack([self.where.spread(labels) for labels in found])


class Neighbours(DenseHead):
    """Each pixel goes to the class that most of the nearest patches have at its place, by several metrics and k."""

    def fit(self, z: Tensor, masks: Tensor, settings: Sequence[tuple[str, int]]) -> Neighbours:
        self.settings, self.names = list(settings), [f"{metric}/k={k}" for metric, k in settings]
        self.bank, self.pixels = z.flatten(0, 1).to(self.device), self.where.at_places(masks).flatten(0, 1)
        return self

    def maps(self, z: Tensor, which: Sequence[int]) -> Tensor:
        asked = [self.settings[i] for i in which]
        found: dict[tuple[str, int], Tensor] = {}
        for metric in dict.fromkeys(m for m, _ in asked):
            ks = sorted({k for m, k in asked if m == metric})
            near = closest(self.bank, z.flatten(0, 1).to(self.device), ks[-1], metric)[1].cpu()
            for k in ks:
                parts = [voted(self.pixels[rows], self.num_classes) for rows in near[:, :k].split(4096)]
                found[metric, k] = torch.cat(parts).view(*z.shape[:2], -1)[:, self.where.patches, self.where.offsets]
        return torch.stack([found[setting] for setting in asked])


class Linear(DenseHead):
    """BatchNorm, dropout and a 1 x 1 convolution, trained on logits that are bilinear at the masks' size."""

    def fit(self, z: Tensor, masks: Tensor, steps: int, size: int, lr: float, decay: float, seed: int) -> Linear:
        self.names, generator = ["linear"], torch.Generator().manual_seed(mix("dense", seed))
        with torch.random.fork_rng():
            torch.manual_seed(mix("dense", seed))
            self.norm = nn.BatchNorm1d(z.shape[2]).to(self.device)
            self.head = nn.Linear(z.shape[2], self.num_classes).to(self.device)
            nn.init.normal_(self.head.weight, std=0.01)
            nn.init.zeros_(self.head.bias)
            adam = torch.optim.AdamW([*self.norm.parameters(), *self.head.parameters()], lr=lr, weight_decay=decay)
            for step in paced("training the linear head", range(steps), steps):
                adam.param_groups[0]["lr"] = lr * warmup_cosine(step / steps, 1500 / 40000, 0.0, 1.0, 0.0)
                rows = torch.randint(len(z), (size,), generator=generator)
                truth = masks[rows].long().to(self.device)
                logits = self.where.upsampled(self.head(F.dropout(self.normed(z[rows]), 0.1)))
                loss = F.cross_entropy(logits, truth, ignore_index=VOID, reduction="sum")
                adam.zero_grad()
                (loss / (truth != VOID).sum().clamp(min=1)).backward()
                adam.step()
        self.norm.eval()
        return self

    def normed(self, z: Tensor) -> Tensor:
        return self.norm(z.to(self.device).flatten(0, 1)).view(z.shape)

    @torch.no_grad()
    def maps(self, z: Tensor, which: Sequence[int]) -> Tensor:
        parts = [self.where.upsampled(self.head(self.normed(part))).argmax(1) for part in z.split(32)]
        return torch.cat(parts).to(torch.uint8).cpu()[None]
