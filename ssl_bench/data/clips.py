"""The kind `clip`: some frames of a film, uint8 [T, C, H, W], all of one length and size.

No torch in here: the processes that build a store start in a fraction of a second.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ssl_bench.config.schema import DataConfig, Size, sides
from ssl_bench.data.images import Item
from ssl_bench.data.items import Form, Kind
from ssl_bench.data.pixels import Unreadable
from ssl_bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Clips(Kind):
    """`frames` pictures of one size, in the order of time."""

    frames: int
    height: int
    width: int
    bands: int = 3

    name: ClassVar[str] = "clip"
    noun: ClassVar[str] = "clips"
    suffixes: ClassVar[frozenset[str]] = frozenset()  # no reader of films yet: clips come from a generator

    @classmethod
    def asked(cls, config: DataConfig) -> Clips:
        return cls(config.frames, *config.size, config.channels)

    @classmethod
    def written(cls, facts: dict[str, Any]) -> Clips:
        size = facts["image_size"]
        return cls(facts["frames"], *sides(tuple(size) if isinstance(size, list) else size), facts["channels"])

    @property
    def facts(self) -> dict[str, Any]:
        return {"item": "clip", "frames": self.frames, "image_size": self.size, "channels": self.bands}

    @property
    def size(self) -> Size:
        """As `data.image_size` is typed."""
        return self.height if self.height == self.width else (self.height, self.width)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.frames, self.bands, self.height, self.width)

    @property
    def channels(self) -> int:
        return self.bands

    def by_channel(self, stored: np.ndarray) -> np.ndarray:
        return stored.swapaxes(0, 1).reshape(self.bands, -1) if stored.size else np.zeros((self.bands, 0), np.uint8)

    def grid(self, patch: int, tubelet: int = 1) -> tuple[int, int, int]:
        if self.frames % tubelet:
            raise UserError(
                f"{self.frames} frames cannot be joined in tubelets of {tubelet}: change data.frames or "
                "backbone.tubelet, so that the first is a multiple of the second."
            )
        return (self.frames // tubelet, self.height // patch, self.width // patch)

    def read(self, item: Item, keep_bytes: bool) -> tuple[np.ndarray, bytes, str, Form]:
        if not callable(item.image):
            raise Unreadable("not a clip")
        pixels = np.ascontiguousarray(item.image(self))
        if pixels.shape != self.shape or pixels.dtype != np.uint8:
            raise Unreadable(f"{pixels.dtype} {pixels.shape} where uint8 {self.shape} is needed")
        packed = zlib.compress(pixels.tobytes(), 1) if keep_bytes else b""
        return pixels, packed, _unusual(pixels), ("clip", (self.width, self.height))

    def decode(self, data: bytes) -> np.ndarray:
        return np.frombuffer(zlib.decompress(data), np.uint8).reshape(self.shape)

    def floats(self, stored: Tensor) -> Tensor:
        """In [0, 1]: [B, T, C, H, W]."""
        return stored.float() / 255


def _unusual(pixels: np.ndarray) -> str:
    if (pixels == pixels[:1, :, :1, :1]).all():
        return "blank (one single colour)"
    return "still (all frames alike)" if len(pixels) > 1 and (pixels == pixels[:1]).all() else ""
