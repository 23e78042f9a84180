"""The set `factors`: drawn images whose every factor is known, so that a probe can say what a representation keeps.

One textured shape on a dark gradient, with distractors. Each factor is drawn independently and evenly; nothing is
downloaded. `factors` has 5,000 training images, `factors:N` N of them, and a quarter as many for the test split.
Image i depends on i and on its split alone: a larger set begins with the smaller one.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssl_bench.data.images import Item
from ssl_bench.data.masks import Masks
from ssl_bench.data.source import Content, Source, drawn, files, number_of, sizes
from ssl_bench.rng import mix

DEFAULT, SIDE = 5000, 64  # training images; pixels per side before the store resizes them
SHAPES = ("ell", "ellipse", "halfdisc", "rectangle", "tee", "triangle")  # sorted: a label is an index into classes
HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")
TEXTURES = ("plain", "stripes", "checks", "dots")


@dataclass(frozen=True)
class Factor:
    """One factor: `levels` > 0 is a choice among so many, 0 a number; `columns` of the targets it fills."""

    name: str
    levels: int
    columns: tuple[int, ...]


KIND, DIRECTED = "image", False
FACTORS = (
    Factor("shape", len(SHAPES), (0,)),
    Factor("colour", len(HUES), (1,)),
    Factor("texture", len(TEXTURES), (2,)),
    Factor("position", 0, (3, 4)),
    Factor("scale", 0, (5,)),
    Factor("rotation", 0, (6,)),  # within 60 degrees either way: no shape looks the same at two of these angles
    Factor("noise", 0, (7,)),  # distractors behind the shape and noise on every pixel
)


def targets(rng: np.random.Generator) -> np.ndarray:
    """The eight numbers of one image: three choices, then x, y and half-width / side, degrees, noise in 0..1."""
    choices = [rng.integers(n) for n in (len(SHAPES), len(HUES), len(TEXTURES))]
    x, y = rng.uniform(0.3, 0.7, 2)
    return np.array([*choices, x, y, rng.uniform(0.12, 0.25), rng.uniform(-60, 60), rng.uniform(0, 1)], np.float32)


def distance(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Negative inside: about the distance to the edge of a shape that fills [-1, 1], at the points (u, v)."""

    def box(left: float, right: float, top: float, bottom: float) -> np.ndarray:
        return np.maximum(np.abs(u - (left + right) / 2) - (right - left) / 2,
                          np.abs(v - (top + bottom) / 2) - (bottom - top) / 2)  # fmt: skip

    if shape == "ellipse":
        return (np.hypot(u, v / 0.55) - 1) * 0.55
    if shape == "rectangle":
        return box(-1, 1, -0.5, 0.5)
    if shape == "halfdisc":
        return np.maximum(np.hypot(u, v - 0.4) - 1, v - 0.4)
    if shape == "triangle":
        return np.maximum(v - 0.9, (3 * np.abs(u) - v - 0.9) / np.sqrt(10))
    if shape == "tee":
        return np.minimum(box(-1, 1, -1, -0.4), box(-0.3, 0.3, -1, 1))
    return np.minimum(box(-0.7, -0.1, -1, 1), box(-0.7, 0.8, 0.4, 1))  # ell


def texture(kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Brightness 0.45 or 1 at pixels; in the frame of the image, so that it says nothing about rotation."""
    a, b = np.floor(x / 3) % 2, np.floor(y / 3) % 2
    dark = {"plain": 0 * a, "stripes": b, "checks": np.abs(a - b), "dots": a * b}[kind]
    return 1 - 0.55 * dark


MASK_CLASSES = ("background", *SHAPES)


def cover(values: np.ndarray, side: int = SIDE) -> np.ndarray:
    """How much of each pixel the shape covers, [side, side] in 0..1."""
    cx, cy, size, angle = (float(v) for v in values[3:7])
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) + 0.5
    turn, half = np.deg2rad(angle), size * side
    dx, dy = x - cx * side, y - cy * side
    u, v = (dx * np.cos(turn) + dy * np.sin(turn)) / half, (dy * np.cos(turn) - dx * np.sin(turn)) / half
    return np.clip(0.5 - distance(SHAPES[int(values[0])], u, v) * half, 0, 1)


def mask(values: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The exact mask uint8 [side, side] of an image: its shape where that covers half of a pixel, else background."""
    return np.where(cover(values, side) >= 0.5, 1 + int(values[0]), 0).astype(np.uint8)


def draw(values: np.ndarray, rng: np.random.Generator, side: int = SIDE) -> np.ndarray:
    """The image uint8 [side, side, 3] of eight targets; `rng` draws what is not a factor."""
    hue, kind, noise = int(values[1]) / len(HUES), TEXTURES[int(values[2])], float(values[7])
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) + 0.5
    slope = rng.uniform(-0.1, 0.1, 2)
    grey = rng.uniform(0.1, 0.25) + slope[0] * (x / side - 0.5) + slope[1] * (y / side - 0.5)
    image = np.repeat(grey[..., None], 3, axis=2)
    for _ in range(round(6 * noise)):  # small grey discs
        (px, py), radius, level = rng.uniform(0, side, 2), rng.uniform(0.02, 0.06) * side, rng.uniform(0.3, 0.7)
        disc = np.clip(radius - np.hypot(x - px, y - py) + 0.5, 0, 1)[..., None]
        image = image * (1 - disc) + level * disc
    inside = cover(values, side)[..., None]
    paint = np.array(colorsys.hsv_to_rgb(hue, 0.75, 0.95)) * texture(kind, x, y)[..., None]
    image = image * (1 - inside) + paint * inside + rng.normal(0, 0.12 * noise, image.shape)
    return np.rint(255 * image.clip(0, 1)).astype(np.uint8)


def example(split: str, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Image [SIDE, SIDE, 3] and targets [8] of number i."""
    rng = np.random.default_rng(mix("factors", split, i))
    values = targets(rng)
    return draw(values, rng), values


def item(split: str, i: int) -> tuple[bytes, str, np.ndarray]:
    """(encoded image, shape, targets) of number i, as the store takes them."""
    image, values = example(split, i)
    return b"P6 %d %d 255\n" % (SIDE, SIDE) + image.tobytes(), SHAPES[int(values[0])], values


def items(num_train: int) -> Iterator[tuple[bytes, str, str, np.ndarray]]:
    """(encoded image, shape, split, targets) of all images."""
    for split, number in sizes(num_train).items():
        for i in range(number):
            image, shape, values = item(split, i)
            yield image, shape, split, values


def source(rest: str) -> Source:
    """The set as `data.name=factors` or `factors:N` names it."""
    number = number_of("factors", rest, "images", DEFAULT, 20)

    def make(split: str, i: int) -> Item:
        image, shape, values = item(split, i)
        return Item(image, shape, f"factors {split} image {i}", values, mask=mask(values))

    def content() -> Content:
        return Content(drawn(number, make), number * 3 * SIDE**2, masks=Masks(MASK_CLASSES, drawn=True))

    return Source(files(Path(__file__)), content)
