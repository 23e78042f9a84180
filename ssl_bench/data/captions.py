"""The set `captions`: the images of `factors` with questions and their answers: shape, colour, texture, whole caption.

24 of the 144 combinations are in no training image (`held`: each shape with each texture in one colour), and as often
as any other in the test split: what a network answers there it has not seen together. `captions` has 5,000 training
images, `captions:N` N of them, and a quarter as many for the test split. No torch in here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from ssl_bench.data import factors
from ssl_bench.data.factors import HUES, SHAPES
from ssl_bench.data.images import Item
from ssl_bench.data.source import Content, Source, drawn, files, number_of, sizes
from ssl_bench.rng import mix

KIND, DIRECTED, FACTORS = "captioned", False, factors.FACTORS
LOOKS = ("plain", "striped", "checked", "dotted")  # as captions call the textures
CAPTIONS = tuple(f"{hue} {look} {shape}" for shape in SHAPES for hue in HUES for look in LOOKS)  # by combination
ANSWERS = {"shape": SHAPES, "colour": HUES, "texture": LOOKS, "caption": CAPTIONS}  # by question, in order of levels
QUESTIONS = tuple(ANSWERS)


def combination(targets: np.ndarray) -> np.ndarray:
    """Which of `CAPTIONS` is true of targets [..., F]."""
    shape, hue, look = (targets[..., i].astype(np.int64) for i in range(3))
    place: np.ndarray = (shape * len(HUES) + hue) * len(LOOKS) + look
    return place


def held(targets: np.ndarray) -> np.ndarray:
    """Whether images with these targets [..., F] are in no training split."""
    missing: np.ndarray = targets[..., :3].astype(np.int64).sum(-1) % len(HUES) == 0
    return missing


@lru_cache(maxsize=4)
def numbers(split: str, count: int) -> tuple[int, ...]:
    """Which images of `factors` are the first so many of a split."""

    def fitting() -> Iterator[int]:
        i = 0
        while True:
            rng = np.random.default_rng(mix("factors", split, i))
            if split == "test" or not held(factors.targets(rng)):
                yield i
            i += 1

    found = fitting()
    return tuple(next(found) for _ in range(count))


def source(rest: str) -> Source:
    """The set as `data.name=captions` or `captions:N` names it."""
    number = number_of("captions", rest, "images", factors.DEFAULT, 20)

    def make(split: str, i: int) -> Item:
        image, shape, values = factors.item(split, numbers(split, sizes(number)[split])[i])
        told = [*(ANSWERS[q][int(values[j])] for j, q in enumerate(QUESTIONS[:3])), CAPTIONS[int(combination(values))]]
        pairs = list(zip(QUESTIONS, told, strict=True))
        return Item(lambda kind: (image, pairs), shape, f"captions {split} image {i}", values)

    def content() -> Content:
        return Content(drawn(number, make), number * 3 * factors.SIDE**2)

    here = Path(__file__)
    return Source([f for path in (here, here.with_name("factors.py")) for f in files(path)], content, KIND)
