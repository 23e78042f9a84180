"""The kind `points`: the shape of a thing as a cloud of points, fp32 [P, 3] in farthest-point order.

Every prefix of a stored cloud is its farthest-point sample from the first point on (Qi et al. 2017, arXiv 1706.02413),
so no training step has to draw one. `data.image_size` is P. Each cloud is centred on its mean and divided by its
largest norm when it is read: where a thing stands and how large it is are not told. Other numbers of a point (normals,
colours) are left out, and a note says so. No torch in here: the processes that build a store start quickly.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ssl_bench.config.schema import DataConfig, size_text
from ssl_bench.data.images import Item, encoded
from ssl_bench.data.items import Form, Kind
from ssl_bench.data.pixels import Unreadable
from ssl_bench.data.shapes import SUFFIXES, coordinates
from ssl_bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SHOWN = 64  # pixels per side of a picture
EACH = 2  # groups that a point is in, on average: 64 groups of 32 of 1,024 points in Point-BERT, Point-MAE, Point-JEPA


@dataclass(frozen=True)
class Points(Kind):
    """`count` points of x, y and z."""

    count: int

    name: ClassVar[str] = "points"
    noun: ClassVar[str] = "clouds of points"
    measured: ClassVar[str] = "points x coordinates"
    plain: ClassVar[str] = "of one point"
    compared: ClassVar[str] = "--methods pointjepa:points,mae:points,simclr:points"
    recipe: ClassVar[str] = "points"
    suffixes: ClassVar[frozenset[str]] = frozenset(SUFFIXES)
    columns: ClassVar[tuple[str, ...]] = ("points", "pos", "xyz", "point_cloud", "cloud", "pointcloud")
    dtype: ClassVar[str] = "float32"
    unit: ClassVar[float] = 1.0

    @classmethod
    def asked(cls, config: DataConfig) -> Points:
        if isinstance(config.image_size, tuple):
            raise UserError(
                f"data.image_size={size_text(config.image_size)} is a height and a width, and the clouds of "
                f"'{config.name}' have neither: it is their number of points, as in data.image_size=256; how many of "
                "them make a group is backbone.patch_size."
            )
        for setting in ("channels", "background", "frames"):
            if getattr(config, setting) != getattr(DataConfig, setting):
                raise UserError(f"data.{setting} has no effect on clouds of points: leave it out.")
        return cls(config.image_size)

    @classmethod
    def written(cls, facts: dict[str, Any]) -> Points:
        return cls(facts["image_size"])

    @property
    def facts(self) -> dict[str, Any]:
        return {"item": "points", "image_size": self.count, "channels": 1}

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count, 3)

    @property
    def channels(self) -> int:
        """One scale for all three coordinates: another one for each would bend the shape."""
        return 1

    def by_channel(self, stored: np.ndarray) -> np.ndarray:
        return stored.reshape(1, -1)

    def moments(self, sums: np.ndarray, squares: np.ndarray) -> tuple[list[float], list[float]]:
        """Nothing is left to take off: every cloud is centred and scaled by itself."""
        return [0.0], [1.0]

    def grid(self, patch: int, tubelet: int = 1) -> tuple[int]:
        """Groups of `patch` neighbours each, so many that a point is in two of them on average."""
        groups = EACH * self.count // patch
        if not 2 <= groups <= self.count or patch > self.count:
            raise UserError(
                f"{self.count} points do not make groups of {patch} ({groups} of them): set backbone.patch_size to "
                f"the points of a group, between 2 and {self.count}, or data.image_size to more points."
            )
        return (groups,)

    @classmethod
    def cell(cls, value: Any) -> tuple[Any, str]:
        """Bytes of a file as they are; nested lists of numbers as those of a .npy file."""
        if not isinstance(value, list):
            return Kind.cell(value)
        try:
            array = np.array(value)
        except ValueError:  # rows of different lengths
            return Unreadable("its points have different numbers of coordinates"), ""
        buffer = io.BytesIO()
        np.save(buffer, array.astype(float) if array.dtype == object and None in value else array)
        return buffer.getvalue(), ""

    def read(self, item: Item, keep_bytes: bool) -> tuple[np.ndarray, bytes, str, Form]:
        try:
            data = encoded(item)
            found, remark = coordinates(data)
        except Unreadable:
            raise
        except Exception as error:  # damaged files make numpy raise many kinds; each is counted and named
            raise Unreadable(f"no cloud of points ({type(error).__name__}: {str(error)[:100]})") from error
        cloud = canonical(found, self.count)
        return cloud, cloud.tobytes() if keep_bytes else b"", remark, ("xyz", (len(found), 3))

    def decode(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.float32).reshape(self.shape)

    @property
    def told(self) -> str:
        return f"{self.count} points"

    def pictures(self, stored: np.ndarray) -> np.ndarray:
        """Seen along z, y upwards, what is nearer brighter: uint8 [N, 1, SHOWN, SHOWN]."""
        out = np.zeros((len(stored), 1, SHOWN, SHOWN), np.uint8)
        for picture, cloud in zip(out[:, 0], stored, strict=True):
            x, y, z = ((cloud.T + 1) / 2).clip(0, 1)
            order = z.argsort()
            row, column = ((1 - y) * (SHOWN - 1)).round().astype(int), (x * (SHOWN - 1)).round().astype(int)
            picture[row[order], column[order]] = (75 + 180 * z[order]).astype(np.uint8)
        return out

    def floats(self, stored: Tensor) -> Tensor:
        """[B, P, 3] as they are."""
        return stored


def canonical(points: np.ndarray, count: int) -> np.ndarray:
    """Any points [M, 3] -> fp32 [count, 3]: the first farthest ones, centred, the largest norm 1.

    `Unreadable` says why a cloud cannot be used.
    """
    if bad := int((~np.isfinite(points)).any(1).sum()):
        raise Unreadable(f"{bad:,} of {len(points):,} points are NaN or infinite")
    if len(points) < count:
        raise Unreadable(f"{len(points):,} points, and data.image_size={count} asks for more")
    if len(points) and (points == points[0]).all():
        raise Unreadable(f"all {len(points):,} points are equal")
    chosen = points[farthest(points, count)]
    distinct = len(np.unique(chosen, axis=0))
    if distinct < count:
        raise Unreadable(f"{distinct:,} different points, and data.image_size={count} asks for more")
    centred = chosen - chosen.mean(0)
    return np.ascontiguousarray(centred / np.linalg.norm(centred, axis=1).max(), np.float32)


def farthest(points: np.ndarray, count: int, start: int = 0) -> np.ndarray:
    """Indices int64 [count] of farthest-point sampling: each next one is the farthest from all before; ties: the first.

    Deterministic: Point-MAE's starts at index 0 too, Point-JEPA's at a random point, also in evaluation.
    """
    points = np.ascontiguousarray(points, np.float64)
    out, near = np.empty(count, np.int64), np.full(len(points), np.inf)
    at = start
    for i in range(count):
        out[i] = at
        near = np.minimum(near, np.square(points - points[at]).sum(1))
        at = int(near.argmax())
    return out
