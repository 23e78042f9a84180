"""The kind `trajectory`: frames of a world and the actions between them, in one uint8 item [P, H, W] (P planes).

Frames come first, T of them with C planes each; the planes behind them hold the actions' float32 bytes, padded with
zeros. So stores, batches and the loop know nothing of actions: `frames` and `actions` take an item apart. Between two
frames lie `every` actions. The states are the set's targets, in no part of an item, and reach no method.

Whatever sees single pictures (an image method, an encoder of images, the monitor) gets one frame of each item, through
`as_kind` and `floats`: training a frame drawn at random, everybody else the first. No torch is imported in here.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ssl_bench.config.schema import DataConfig, Size, as_size, sides
from ssl_bench.data.images import Images, Item
from ssl_bench.data.items import Form, Kind
from ssl_bench.data.pixels import Unreadable
from ssl_bench.data.world import parse
from ssl_bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from ssl_bench.rng import Rng


@dataclass(frozen=True)
class Trajectories(Kind):
    """`length` frames of one size, and `every` actions from each to the next."""

    length: int
    every: int
    action_dim: int
    height: int
    width: int
    bands: int = 3

    name: ClassVar[str] = "trajectory"
    noun: ClassVar[str] = "trajectories"
    compared: ClassVar[str] = "--methods lewm,pldm --recipe quick --protocols plan,state"
    suffixes: ClassVar[frozenset[str]] = frozenset()  # they come from a world

    @classmethod
    def asked(cls, config: DataConfig) -> Trajectories:
        world = parse(config.name).world
        height, width = config.size
        if height != width or config.channels != 3:
            raise UserError(
                f"'{config.name}' is drawn square and in three channels: set data.image_size to one number, for "
                f"example {world.frame_size}, and leave data.channels."
            )
        return cls(world.steps // world.every + 1, world.every, world.action_dim, height, width)

    @classmethod
    def written(cls, facts: dict[str, Any]) -> Trajectories:
        height, width = sides(facts["image_size"])
        return cls(facts["length"], facts["every"], facts["action_dim"], height, width, facts["channels"])

    @property
    def facts(self) -> dict[str, Any]:
        own = {"length": self.length, "every": self.every, "action_dim": self.action_dim}
        return {"item": "trajectory", **own, "image_size": self.size, "channels": self.bands}

    @property
    def size(self) -> Size:
        """As `data.image_size` is typed."""
        return as_size(self.height, self.width)

    @property
    def block(self) -> int:
        """Numbers of all the actions between two frames, laid end to end."""
        return self.every * self.action_dim

    @property
    def planes(self) -> int:
        """Of the frames."""
        return self.length * self.bands

    @property
    def shape(self) -> tuple[int, ...]:
        action_bytes = 4 * (self.length - 1) * self.block
        return (self.planes + math.ceil(action_bytes / (self.height * self.width)), self.height, self.width)

    @property
    def channels(self) -> int:
        return self.bands

    @property
    def places(self) -> int:
        return self.length * self.height * self.width

    def by_channel(self, stored: np.ndarray) -> np.ndarray:
        if not stored.size:
            return np.zeros((self.bands, 0), np.uint8)
        frames = stored[: self.planes].reshape(self.length, self.bands, -1)
        return frames.swapaxes(0, 1).reshape(self.bands, -1)

    def grid(self, patch: int, tubelet: int = 1) -> tuple[int, int]:
        """Of one frame: methods encode frame by frame."""
        return (self.height // patch, self.width // patch)

    def packed(self, frames: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """uint8 [T, C, H, W] and fp32 [(T - 1) * every, A] -> an item; `Unreadable` where they are anything else."""
        for array, dtype, shape in (
            (frames, np.uint8, (self.length, self.bands, self.height, self.width)),
            (actions, np.float32, ((self.length - 1) * self.every, self.action_dim)),
        ):
            if array.dtype != dtype or array.shape != shape:
                raise Unreadable(f"{array.dtype} {array.shape} where {np.dtype(dtype)} {shape} is needed")
        if not np.isfinite(actions).all():
            raise Unreadable("an action is not finite")
        item = np.zeros(self.shape, np.uint8)
        item[: self.planes] = frames.reshape(self.planes, self.height, self.width)
        rest = np.frombuffer(actions.astype("<f4").tobytes(), np.uint8)
        item[self.planes :].reshape(-1)[: len(rest)] = rest
        return item

    def noise(self, count: int, seed: int = 0) -> np.ndarray:
        frames = super().noise(count, seed)
        frames[:, self.planes :] = 0  # random bytes are no actions
        return frames

    def frames(self, items: Tensor) -> Tensor:
        """uint8 [B, T, C, H, W] of items [B, P, H, W]."""
        return items[:, : self.planes].unflatten(1, (self.length, self.bands))

    def actions(self, items: Tensor) -> Tensor:
        """fp32 [B, T - 1, every * A]: the actions between two frames, laid end to end."""
        import torch

        count = (self.length - 1) * self.block
        raw = items[:, self.planes :].flatten(1)[:, : 4 * count].contiguous()
        return raw.view(torch.float32).reshape(len(items), self.length - 1, self.block)

    def read(self, item: Item, keep_bytes: bool) -> tuple[np.ndarray, bytes, str, Form]:
        if not callable(item.image):
            raise Unreadable("not a trajectory")
        stored = self.packed(*item.image(self))
        kept = zlib.compress(stored.tobytes(), 1) if keep_bytes else b""
        return stored, kept, "", ("trajectory", (self.width, self.height))

    def decode(self, data: bytes) -> np.ndarray:
        return np.frombuffer(zlib.decompress(data), np.uint8).reshape(self.shape)

    def floats(self, stored: Tensor) -> Tensor:
        """Of the first frame, in [0, 1]: [B, C, H, W]."""
        return stored[:, : self.bands].float() / 255

    def as_kind(self, names: tuple[str, ...]) -> Kind:
        return self if self.name in names or "image" not in names else Images(self.height, self.width, self.bands)

    def given(self, stored: Tensor, kind: Kind, rng: Rng | None = None) -> Tensor:
        if kind.name != "image":
            return stored
        if rng is None:
            return stored[:, : self.bands]
        import torch

        frames, which = self.frames(stored), (rng.rand() * self.length).long()
        return frames[torch.arange(len(frames), device=frames.device), which]
