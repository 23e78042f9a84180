"""The kind `clip`: some frames of a film, uint8 [T, C, H, W], all of one length and size.

No torch in here: the processes that build a store start in a fraction of a second.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ssl_bench.config.schema import DataConfig, Size, sides
from ssl_bench.data import films
from ssl_bench.data.images import Images, Item
from ssl_bench.data.items import Form, Kind
from ssl_bench.data.pixels import Unreadable
from ssl_bench.errors import UserError
from ssl_bench.rng import mix

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Clips(Kind):
    """`frames` pictures of one size, in the order of time."""

    frames: int
    height: int
    width: int
    bands: int = 3
    frame_step: int = 0  # of films: see films.chosen

    name: ClassVar[str] = "clip"
    noun: ClassVar[str] = "clips"
    compared: ClassVar[str] = "--recipe clips"
    recipe: ClassVar[str] = "clips"
    suffixes: ClassVar[frozenset[str]] = films.FILMS | films.ANIMATED
    parts: ClassVar[frozenset[str]] = films.FRAMES
    controls: ClassVar[tuple[str, ...]] = ("one frame", "shuffled frames", "reversed")
    columns: ClassVar[tuple[str, ...]] = ("frames", "video", "clip", "mp4")

    @classmethod
    def asked(cls, config: DataConfig) -> Clips:
        return cls(config.frames, *config.size, config.channels, config.frame_step)

    @classmethod
    def written(cls, facts: dict[str, Any]) -> Clips:
        size = facts["image_size"]
        height, width = sides(tuple(size) if isinstance(size, list) else size)
        return cls(facts["frames"], height, width, facts["channels"], facts.get("frame_step", 0))

    @property
    def facts(self) -> dict[str, Any]:
        step = {"frame_step": self.frame_step} if self.frame_step else {}
        return {"item": "clip", "frames": self.frames, "image_size": self.size, "channels": self.bands, **step}

    @classmethod
    def known(cls) -> str:
        return f"{super().known()[:-1]}, or folders of frames ({', '.join(sorted(cls.parts))})."

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

    @classmethod
    def cell(cls, value: Any) -> tuple[Any, str]:
        """A film's bytes, or a list of frames, each bytes or a struct with `bytes`."""
        return ([Kind.cell(frame)[0] for frame in value], "") if isinstance(value, list) else Kind.cell(value)

    def read(self, item: Item, keep_bytes: bool) -> tuple[np.ndarray, bytes, str, Form]:
        pixels, odd, form = self._made(item.image) if callable(item.image) else self._filmed(item.image)
        packed = zlib.compress(pixels.tobytes(), 1) if keep_bytes else b""
        return pixels, packed, " and ".join(filter(None, [odd, _unusual(pixels)])), form

    def _made(self, make: Callable[..., Any]) -> tuple[np.ndarray, str, Form]:
        if self.frame_step:
            raise UserError("data.frame_step chooses frames of films and has no effect on clips made here: leave it.")
        pixels = np.ascontiguousarray(make(self))
        if pixels.shape != self.shape or pixels.dtype != np.uint8:
            raise Unreadable(f"{pixels.dtype} {pixels.shape} where uint8 {self.shape} is needed")
        return pixels, "", ("clip", (self.width, self.height))

    def _filmed(self, film: Any) -> tuple[np.ndarray, str, Form]:
        """Every reason why a film cannot be read becomes `Unreadable`: counted and named, none hidden."""
        if isinstance(film, Unreadable):
            raise film
        try:
            found, length, odd = films.pictures(film, self.frames, self.frame_step)
            pixels, more, form = films.decode(found, Images(self.height, self.width, self.bands))
        except (Unreadable, UserError):
            raise
        except Exception as error:
            raise Unreadable(f"{type(error).__name__}: {str(error)[:120]}") from error
        if films.too_short(length, self.frames, self.frame_step):
            odd = " and ".join(filter(None, [odd, "too short (frames repeated)"]))
        return pixels, " and ".join(filter(None, [self.rule, odd, more])), form

    @property
    def rule(self) -> str:
        """Which frames of a film a clip has, in words."""
        each = f"every {self.frame_step}. frame of the middle" if self.frame_step else "evenly from first to last"
        return f"films to {self.frames} frames, {each}"

    def decode(self, data: bytes) -> np.ndarray:
        return np.frombuffer(zlib.decompress(data), np.uint8).reshape(self.shape)

    def changed(self, stored: np.ndarray, control: str, rows: np.ndarray) -> np.ndarray:
        """The middle frame repeated; frames in an order drawn for each row; or from the last frame to the first."""
        if control == "one frame":
            return np.repeat(stored[:, self.frames // 2, None], self.frames, 1)
        if control == "reversed":
            return stored[:, ::-1]
        orders = np.stack([np.random.default_rng(mix(control, int(row))).permutation(self.frames) for row in rows])
        return np.take_along_axis(stored, orders[:, :, None, None, None], 1)

    def pictures(self, stored: np.ndarray) -> np.ndarray:
        """The frames of the first clip, one after another."""
        return stored[0]

    def floats(self, stored: Tensor) -> Tensor:
        """In [0, 1]: [B, T, C, H, W]."""
        return stored.float() / 255


def _unusual(pixels: np.ndarray) -> str:
    if (pixels == pixels[:1, :, :1, :1]).all():
        return "blank (one single colour)"
    return "still (all frames alike)" if len(pixels) > 1 and (pixels == pixels[:1]).all() else ""
