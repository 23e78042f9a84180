"""What an item is: the seam between data and everything that learns from it.

A kind of item has one small file (images.py is the first). It says how an item is stored, read and checked, how stored
items become numbers, and on which grid their tokens lie. Its tokenizer stands under its name in models/tokenizer.py,
its crops, colours and corruptions in views/. Nothing else asks what an item shows: a method gets `DataInfo.item`, the
transformer a grid. No torch here: the processes that build a store start in a fraction of a second.
"""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ssl_bench.config.schema import DataConfig, size_text
from ssl_bench.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from ssl_bench.rng import Rng

KINDS = {  # name -> where its class is, imported when it is asked for
    "image": "ssl_bench.data.images:Images",
    "clip": "ssl_bench.data.clips:Clips",
    "trajectory": "ssl_bench.data.trajectories:Trajectories",
    "sound": "ssl_bench.data.sounds:Sounds",
    "points": "ssl_bench.data.points:Points",
    "text": "ssl_bench.data.texts:Texts",
    "captioned": "ssl_bench.data.captioned:Captioned",
}
OWN = {"frames": "clip", "frame_step": "clip", "mel": "sound"}  # settings of the data that only one kind reads
# raw rows beside `pixels`: the kind each is of
RAW = {"difference": "clip", "logmel": "sound", "moments": "points", "counts": "text"}


Form = tuple[str, tuple[int, int]]  # of an item as its file has it: mode (RGB), and width and height


class Kind(ABC):
    """Every item of one data set: a frozen dataclass of what they have in common."""

    name: ClassVar[str]
    noun: ClassVar[str]  # what a sentence calls several of them
    suffixes: ClassVar[frozenset[str]]  # of files that hold one, lower case, with the dot
    parts: ClassVar[frozenset[str]] = frozenset()  # of files several of which, in one folder or sample, are one item
    measured: ClassVar[str] = "width x height"  # what the size of a file means
    plain: ClassVar[str] = "of one single colour"  # what is said of an item that is the same everywhere
    compared: ClassVar[str] = "--recipe quick"  # how a first comparison on these is asked for
    recipe: ClassVar[str] = "small"  # that a method has for these, where none is named
    columns: ClassVar[tuple[str, ...]] = ()  # names a parquet column of items may have
    varied: ClassVar[bool] = True  # whether random views are made of an item
    worded: ClassVar[bool] = False  # whether such a column holds text, and not bytes or numbers
    controls: ClassVar[
        tuple[str, ...]
    ] = ()  # what `changed` can take from an item; evaluations score test items so too
    dtype: ClassVar[str] = "uint8"  # of a stored item, as numpy calls it
    unit: ClassVar[float] = 255.0  # `by_channel` divided by it has the mean and std that a data set has
    mirrors: ClassVar[bool] = True  # whether left and right may be changed for one another

    @classmethod
    @abstractmethod
    def asked(cls, config: DataConfig) -> Kind:
        """What the settings ask for."""

    @classmethod
    @abstractmethod
    def written(cls, facts: dict[str, Any]) -> Kind:
        """The inverse of `facts`."""

    @classmethod
    def known(cls) -> str:
        """Which files hold one, in words."""
        return f"{cls.noun.capitalize()} are {', '.join(sorted(cls.suffixes)) or 'made, not read'}."

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the description of a store or an encoder holds, JSON-ready; "item" names the kind, but for images."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of one stored item; of pictures height and width last."""

    @property
    def told(self) -> str:
        """How much is seen of each, in words."""
        return f"{size_text(self.facts['image_size'])} px"

    @property
    def nbytes(self) -> int:
        """Bytes of one stored item."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def views(self) -> tuple[int, int]:
        """Parts in time that are encoded one by one, and crops that vote for a test item: see `Clips`."""
        return 1, 1

    def rows(self, store: Any, index: np.ndarray, every: bool) -> tuple[Any, np.ndarray]:
        """A store and rows [N] of it as evaluations see them: as they are, but for items of several `views`."""
        return store, index

    @property
    def channels(self) -> int:
        """Numbers at each place: what mean and std have one of each for."""
        return self.shape[0]

    @property
    def places(self) -> int:
        """Numbers of each channel that `by_channel` has of an item."""
        return math.prod(self.shape) // self.channels

    def by_channel(self, stored: np.ndarray) -> np.ndarray:
        """[C, places] of one stored item, of which mean and std are made; of an empty one, [C, 0]."""
        return stored.reshape(self.channels, -1)

    def moments(self, sums: np.ndarray, squares: np.ndarray) -> tuple[list[float], list[float]]:
        """Mean and std per channel, of numbers divided by `unit`, from each item's sums [N, C] over its places."""
        count = max(len(sums), 1) * self.places
        mean = sums.sum(0) / count / self.unit
        std = np.sqrt(squares.sum(0) / count / self.unit**2 - mean**2)
        return [round(float(m), 4) for m in mean], [round(float(s), 4) or 1.0 for s in std]

    @abstractmethod
    def grid(self, patch: int, tubelet: int = 1) -> tuple[int, ...]:
        """Tokens along each axis, for patches of `patch` places per side (and, in clips, of `tubelet` frames)."""

    @classmethod
    def cell(cls, value: Any) -> tuple[Any, str]:
        """What a table's cell holds of an item, as `Item.image` takes it, and the name of its file."""
        return (value.get("bytes"), str(value.get("path") or "")) if isinstance(value, dict) else (value, "")

    @abstractmethod
    def read(self, item: Any, keep_bytes: bool) -> tuple[np.ndarray, bytes, str, Form]:
        """A source's item -> stored array, encoded bytes (b"" unless kept), what was unusual, form; or `Unreadable`."""

    @abstractmethod
    def decode(self, data: bytes) -> np.ndarray:
        """The stored array of encoded bytes that `read` has kept."""

    def described(self, item: Any, stored: np.ndarray) -> Any:
        """A source's item with what its stored array (of an unreadable one: an empty one) tells of it besides."""
        return item

    def sealed(self, pages: Iterator[bytes]) -> Iterator[bytes]:
        """Stored bytes of the test items as they may be seen before anything is scored."""
        return pages

    def changed(self, stored: np.ndarray, control: str, rows: np.ndarray) -> np.ndarray:
        """Stored items [B, *shape], in `rows` of their store, without what the control takes from them."""
        raise NotImplementedError

    def pictures(self, stored: np.ndarray) -> np.ndarray:
        """What a sheet shows of stored items [N, *shape]: uint8 [M, C, H, W]."""
        import torch

        return (self.floats(torch.from_numpy(stored)) * 255).round().byte().numpy()

    def noise(self, count: int, seed: int = 0) -> np.ndarray:
        """[count, *shape] of items that show nothing: what is timed on them does not depend on what they show."""
        rng, dtype = np.random.default_rng(seed), np.dtype(self.dtype)
        if dtype.kind == "f":
            return rng.standard_normal((count, *self.shape), dtype)
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        return rng.integers(low, high, (count, *self.shape), dtype, endpoint=True)

    @abstractmethod
    def floats(self, stored: Tensor) -> Tensor:
        """Stored items [B, *shape] -> the numbers whose mean and std a data set has."""

    def counted(self, x: Tensor) -> Tensor | None:
        """How much each token [B, T] of prepared items counts in their mean; None where all count alike."""
        return None

    def as_kind(self, names: tuple[str, ...]) -> Kind:
        """What a method sees of these items that takes kinds of these `names`: as a rule the items themselves."""
        return self

    def given(self, stored: Tensor, kind: Kind, rng: Rng | None = None) -> Tensor:
        """Stored items [B, *shape] as items of `kind`, which `as_kind` has named; drawn by `rng` where one is given."""
        return stored

    def seen(self, stored: Tensor) -> Tensor:
        """What views are made of, on the device of the stored items [B, *shape]: pictures as they are stored."""
        return stored


def of_kind(name: str) -> type[Kind]:
    """The class of a kind."""
    if name not in KINDS:
        raise UserError(f"Unknown kind of item '{name}'. {nearest(name, KINDS)}")
    module, _, attribute = KINDS[name].partition(":")
    found: type[Kind] = getattr(importlib.import_module(module), attribute)
    return found


def asked(config: DataConfig, kind: str = "image") -> Kind:
    """The items that a source of this kind gives under these settings."""
    found = of_kind(kind)
    if kind != "clip" and "#views=" in config.name:
        raise UserError(f"#views= is of films, and '{config.name}' has {found.noun}: leave it, or add #kind=clip.")
    for name, owner in OWN.items():
        if kind != owner and getattr(config, name) != getattr(DataConfig, name):
            raise UserError(f"data.{name} has no effect on the {found.noun} of '{config.name}': leave it out.")
    return found.asked(config)


def written(facts: dict[str, Any]) -> Kind:
    """The items that a store's, a run's or an encoder's description speaks of."""
    return of_kind(facts.get("item", "image")).written(facts)
