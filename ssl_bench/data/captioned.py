"""The kind `captioned`: an image with questions and their answers, in one uint8 item [C + 1, H, W].

The last plane holds the texts as bytes, `QUESTIONS` slots of a question and its answer, zeros behind each. Whatever
sees single pictures gets the image (`as_kind`). In the sealed file the plane of a test item is empty: what is right
there the set's targets alone tell. No torch in here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ssl_bench.config.schema import DataConfig, Size, as_size, sides
from ssl_bench.data.images import Images, Item, decode
from ssl_bench.data.items import Form, Kind
from ssl_bench.data.pixels import Unreadable
from ssl_bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from ssl_bench.rng import Rng

QUESTIONS, LENGTH = 4, 26  # of an item; bytes of a question or an answer


@dataclass(frozen=True)
class Captioned(Kind):
    """Images of one size with four questions each."""

    height: int
    width: int
    bands: int = 3

    name: ClassVar[str] = "captioned"
    noun: ClassVar[str] = "images with questions"
    compared: ClassVar[str] = "--methods vljepa,vljepa:clip,vljepa:caption --recipe quick --protocols zeroshot"
    suffixes: ClassVar[frozenset[str]] = frozenset()  # they are made

    @classmethod
    def asked(cls, config: DataConfig) -> Captioned:
        kind = cls(*config.size)
        if config.channels != 3 or kind.height * kind.width < kind.nbytes_of_text:
            raise UserError(
                f"The images of '{config.name}' have three channels and at least {kind.nbytes_of_text} pixels, for "
                "their texts: leave data.channels, and set data.image_size to 16 or more."
            )
        return kind

    @classmethod
    def written(cls, facts: dict[str, Any]) -> Captioned:
        return cls(*sides(facts["image_size"]), facts["channels"])

    @property
    def facts(self) -> dict[str, Any]:
        return {"item": "captioned", "image_size": self.size, "channels": self.bands}

    @property
    def size(self) -> Size:
        """As `data.image_size` is typed."""
        return as_size(self.height, self.width)

    @property
    def nbytes_of_text(self) -> int:
        return QUESTIONS * 2 * LENGTH

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.bands + 1, self.height, self.width)

    @property
    def channels(self) -> int:
        return self.bands

    @property
    def places(self) -> int:
        return self.height * self.width

    def by_channel(self, stored: np.ndarray) -> np.ndarray:
        return stored[: self.bands].reshape(self.bands, -1) if stored.size else np.zeros((self.bands, 0), np.uint8)

    def grid(self, patch: int, tubelet: int = 1) -> tuple[int, int]:
        return (self.height // patch, self.width // patch)

    def read(self, item: Item, keep_bytes: bool) -> tuple[np.ndarray, bytes, str, Form]:
        if not callable(item.image):
            raise Unreadable("no image with questions")
        image, pairs = item.image(self)
        pixels, odd = decode(image, Images(self.height, self.width, self.bands))
        texts = np.zeros((QUESTIONS, 2, LENGTH), np.uint8)
        for slots, pair in zip(texts, pairs, strict=True):
            for slot, text in zip(slots, pair, strict=True):
                if not 0 < len(written := text.encode()) <= LENGTH:
                    raise Unreadable(f"a text of {len(written)} bytes, where 1 to {LENGTH} are needed")
                slot[: len(written)] = list(written)
        stored = np.zeros(self.shape, np.uint8)
        stored[: self.bands] = pixels
        stored[self.bands].reshape(-1)[: texts.size] = texts.ravel()
        return stored, stored.tobytes() if keep_bytes else b"", odd, ("RGB", (self.width, self.height))

    def decode(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.uint8).reshape(self.shape)

    def sealed(self, pages: Iterator[bytes]) -> Iterator[bytes]:
        """Without their texts."""
        for page in pages:
            item = self.decode(page).copy()
            item[self.bands] = 0
            yield item.tobytes()

    def texts(self, items: Tensor) -> Tensor:
        """uint8 [B, QUESTIONS, 2, LENGTH] of items [B, C + 1, H, W]: each question and its answer."""
        return items[:, self.bands].flatten(1)[:, : self.nbytes_of_text].unflatten(1, (QUESTIONS, 2, LENGTH))

    def floats(self, stored: Tensor) -> Tensor:
        """The image in [0, 1]: [B, C, H, W]."""
        return stored[:, : self.bands].float() / 255

    def as_kind(self, names: tuple[str, ...]) -> Kind:
        return self if self.name in names or "image" not in names else Images(self.height, self.width, self.bands)

    def given(self, stored: Tensor, kind: Kind, rng: Rng | None = None) -> Tensor:
        return stored[:, : self.bands] if kind.name == "image" else stored
