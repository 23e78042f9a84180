"""Random numbers of one training step, and the order of the images.

Every draw is a function of (seed, step) and of the image's place in the *global* batch, so a batch is the same
on any number of workers, processes or restarts, and no generator state has to be saved.
"""

from __future__ import annotations

import copy
import hashlib

import numpy as np
import torch
from torch import Tensor


def mix(*parts: int | str) -> int:
    """A 63-bit seed from any parts; unlike `seed + step`, neighbouring seeds share no stream."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Rng:
    """Draws for the images `rows` of a global batch of `batch` images.

    `rand` and `randn` are per image: the first dimension is the local batch, the numbers are drawn for the whole
    global batch and cut to this process' rows. `shared` draws one set for all images of all processes.
    """

    def __init__(self, seed: int, batch: int, rows: slice | None = None, device: torch.device | str = "cpu") -> None:
        self.generator = torch.Generator(device).manual_seed(seed)
        self.device = torch.device(device)
        self.batch = batch
        self.rows = rows or slice(0, batch)

    @property
    def local(self) -> int:
        """Images of this process."""
        return len(range(*self.rows.indices(self.batch)))

    @property
    def whole(self) -> Rng:
        """The same stream for every row of the global batch: for what all processes must agree on (see masks.py)."""
        whole = copy.copy(self)  # shallow: both move one generator on
        whole.rows = slice(0, self.batch)
        return whole

    def rand(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), shape `[local batch, *shape]`."""
        return torch.rand(self.batch, *shape, generator=self.generator, device=self.device)[self.rows]

    def randn(self, *shape: int) -> Tensor:
        """Standard normal, shape `[local batch, *shape]`."""
        return torch.randn(self.batch, *shape, generator=self.generator, device=self.device)[self.rows]

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in [low, high), shape `[local batch, *shape]`."""
        return low + (high - low) * self.rand(*shape)

    def shared(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), the same numbers on every process, no batch dimension."""
        return torch.rand(*shape, generator=self.generator, device=self.device)


class Order:
    """Batch i of the endless stream of shuffled epochs, as positions in the training part: a function of (seed, i)."""

    def __init__(self, seed: int, num_images: int, batch_size: int) -> None:
        self.seed, self.num_images, self.batch_size = seed, num_images, batch_size
        self.permutations: dict[int, np.ndarray] = {}

    def permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self.permutations:
            generator = torch.Generator().manual_seed(mix(self.seed, "order", epoch))
            fresh = torch.randperm(self.num_images, generator=generator).numpy()
            self.permutations = {e: p for e, p in self.permutations.items() if e >= epoch - 1} | {epoch: fresh}
        return self.permutations[epoch]

    def __call__(self, step: int) -> np.ndarray:
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        return np.array([self.permutation(p // self.num_images)[p % self.num_images] for p in places.tolist()])
