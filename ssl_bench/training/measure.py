"""Timing on a shared machine: what is compared runs alternately, ceilings are measured in the same rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

Action = Callable[[], object]


@dataclass
class Timing:
    """Seconds of one case, one entry per round."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def rates(self, work: float) -> tuple[float, float, float]:
        """Work per second: lowest, median, highest."""
        return work / max(self.seconds), work / self.median, work / min(self.seconds)


def clock(device: torch.device) -> float:
    """Seconds on which other people's load has the least effect.

    One CPU thread: CPU time of the process, which stands still while others have the core. Several threads, or a GPU:
    the time on the wall.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if alone else time.perf_counter()


def alternate(cases: dict[str, Action], rounds: int = 5, now: Callable[[], float] | None = None) -> dict[str, Timing]:
    """Each case once to warm up, then A B C A B C ...: a slow minute of the machine falls on all of them."""
    now = now or (lambda: clock(torch.device("cpu")))
    for action in cases.values():
        action()
    out = {name: Timing() for name in cases}
    for _ in range(rounds):
        for name, action in cases.items():
            began = now()
            action()
            out[name].seconds.append(now() - began)
    return out


def ratio(slow: Timing, fast: Timing) -> tuple[float, float, float]:
    """How many times faster the second is, round by round: lowest, median, highest."""
    ratios = [a / b for a, b in zip(slow.seconds, fast.seconds, strict=True)]
    return min(ratios), statistics.median(ratios), max(ratios)


def gemm(rows: int, inner: int, columns: int, dtype: torch.dtype, device: torch.device) -> tuple[Action, float]:
    """A matrix product as a step has many of, repeated for about 5 GFLOP, and its FLOPs: the ceiling of arithmetic."""
    x = torch.randn(rows, inner, device=device, dtype=torch.float32).to(dtype)
    weight = torch.randn(columns, inner, device=device).to(dtype)
    flops = 2.0 * rows * inner * columns
    times = max(1, round(5e9 / flops))

    def action() -> None:
        for _ in range(times):
            torch.nn.functional.linear(x, weight)

    return action, times * flops


def copy(device: torch.device, size: int = 1 << 26) -> tuple[Action, float]:
    """A copy too large for the caches, and the bytes it reads and writes: the ceiling of memory."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def action() -> None:
        for _ in range(4):
            target.copy_(source)

    return action, 8.0 * size
