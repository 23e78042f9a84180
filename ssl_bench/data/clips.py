"""The kind `clip`: some frames of a film, uint8 [T, C, H, W], all of one length and size.

For evaluations a film may be seen in several views (`#views=SxV`): a clip of each of S equal segments, in each of V
crops, stored as [V, S, T, C, H, W]. The segments are encoded one by one and their tokens put together; the middle crop
is learned from, and on test items all crops vote.

No torch in here: the processes that build a store start in a fraction of a second.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ssl_bench.config.schema import DataConfig, Size, as_size, sides
from ssl_bench.data import films
from ssl_bench.data.images import Images, Item
from ssl_bench.data.items import Form, Kind
from ssl_bench.data.pixels import Unreadable
from ssl_bench.data.splits import choice
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
    segments: int = 1
    crops: int = 1  # 1: the centre, cut from the film; 3: see films.crops

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
        return cls(config.frames, *config.size, config.channels, config.frame_step, *choice(config.name)[1].views)

    @classmethod
    def written(cls, facts: dict[str, Any]) -> Clips:
        height, width = sides(facts["image_size"])
        more = {name: facts[name] for name in ("frame_step", "segments", "crops") if name in facts}
        return cls(facts["frames"], height, width, facts["channels"], **more)

    @property
    def facts(self) -> dict[str, Any]:
        more = {"frame_step": self.frame_step} if self.frame_step else {}
        more |= {"segments": self.segments, "crops": self.crops} if self.views != (1, 1) else {}
        return {"item": "clip", "frames": self.frames, "image_size": self.size, "channels": self.bands, **more}

    @classmethod
    def known(cls) -> str:
        return f"{super().known()[:-1]}, or folders of frames ({', '.join(sorted(cls.parts))})."

    @property
    def size(self) -> Size:
        """As `data.image_size` is typed."""
        return as_size(self.height, self.width)

    @property
    def shape(self) -> tuple[int, ...]:
        seen = (self.frames, self.bands, self.height, self.width)
        return seen if self.views == (1, 1) else (self.crops, self.segments, *seen)

    @property
    def told(self) -> str:
        return super().told + (f", {self.segments} segments x {self.crops} crops" if self.views != (1, 1) else "")

    @property
    def views(self) -> tuple[int, int]:
        return self.segments, self.crops

    def rows(self, store: Any, index: np.ndarray, every: bool) -> tuple[Any, np.ndarray]:
        """Of several views: rows of one crop each, the middle one of every item or, item after item, all of them."""
        if self.views == (1, 1):
            return store, index
        seen = np.arange(self.crops) if every else np.array([self.crops // 2])
        return Crops(store, self.crops), (index[:, None] * self.crops + seen).reshape(-1)

    @property
    def channels(self) -> int:
        return self.bands

    def by_channel(self, stored: np.ndarray) -> np.ndarray:
        if not stored.size:
            return np.zeros((self.bands, 0), np.uint8)
        return np.moveaxis(stored, -3, 0).reshape(self.bands, -1)

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
        middle = pixels.reshape(self.crops, -1, *pixels.shape[-3:])[self.crops // 2]
        return pixels, packed, " and ".join(filter(None, [odd, _unusual(middle)])), form

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
            found, length, odd = films.pictures(film, self.frames, self.frame_step, self.segments)
            kind = Images(self.height, self.width, self.bands)
            whole = films.uncut(found[0], kind) if self.crops > 1 else kind
            pixels, more, form = films.decode(found, whole)
        except (Unreadable, UserError):
            raise
        except Exception as error:
            raise Unreadable(f"{type(error).__name__}: {str(error)[:120]}") from error
        if films.too_short(length // self.segments, self.frames, self.frame_step):
            odd = " and ".join(filter(None, [odd, "too short (frames repeated)"]))
        if self.crops > 1:
            pixels = films.crops(pixels, self.height, self.width)
            more = " and ".join(filter(None, [more, "of the crops' form (all are one)" * (whole == kind)]))
        return pixels.reshape(self.shape), " and ".join(filter(None, [self.rule, odd, more])), form

    @property
    def rule(self) -> str:
        """Which frames of a film a clip has, in words."""
        each = f"every {self.frame_step}. frame of the middle" if self.frame_step else "evenly from first to last"
        if self.views == (1, 1):
            return f"films to {self.frames} frames, {each}"
        cut = f", {self.crops} crops along the longer side" if self.crops > 1 else ""
        return f"films to {self.segments} x {self.frames} frames, of each equal segment {each}{cut}"

    def decode(self, data: bytes) -> np.ndarray:
        return np.frombuffer(zlib.decompress(data), np.uint8).reshape(self.shape)

    def changed(self, stored: np.ndarray, control: str, rows: np.ndarray) -> np.ndarray:
        """The middle frame repeated; frames in an order drawn for each row; or from the last frame to the first.

        Of several segments, [B, S, T, C, H, W] in rows of `Crops`: of all frames of the film, alike in all its crops.
        """
        if stored.ndim == 6:
            film = replace(self, frames=self.segments * self.frames, segments=1, crops=1)
            flat = stored.reshape(len(stored), *film.shape)
            return film.changed(flat, control, rows // self.crops).reshape(stored.shape)
        if control == "one frame":
            return np.repeat(stored[:, self.frames // 2, None], self.frames, 1)
        if control == "reversed":
            return stored[:, ::-1]
        orders = np.stack([np.random.default_rng(mix(control, int(row))).permutation(self.frames) for row in rows])
        return np.take_along_axis(stored, orders[:, :, None, None, None], 1)

    def pictures(self, stored: np.ndarray) -> np.ndarray:
        """The frames of the first clip, one after another."""
        return stored[0].reshape(-1, *stored.shape[-3:])

    def floats(self, stored: Tensor) -> Tensor:
        """In [0, 1]: [B, T, C, H, W]."""
        return stored.float() / 255


@dataclass(frozen=True)
class Crops:
    """A store of items [V, S, T, C, H, W] as rows of one crop each: row r is crop r % V of item r // V."""

    store: Any
    crops: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.store) * self.crops, *self.store.shape[2:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """[B, S, T, C, H, W]; an item is fetched once for all its crops."""
        items, place = np.unique(rows // self.crops, return_inverse=True)
        return np.asarray(self.store[items])[place.reshape(-1), rows % self.crops]


def _unusual(pixels: np.ndarray) -> str:
    if (pixels == pixels[:1, :, :1, :1]).all():
        return "blank (one single colour)"
    return "still (all frames alike)" if len(pixels) > 1 and (pixels == pixels[:1]).all() else ""
