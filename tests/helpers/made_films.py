"""Films of random pictures, as folders of frames."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def film(seed: int, length: int, size: tuple[int, int] = (25, 16), level: int = 0, **more: Any) -> list[bytes]:
    """So many random pictures of (width, height), each brighter than 0 by `level`, as PNG."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(length):
        pixels = rng.integers(level, level + 150, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(out := io.BytesIO(), "PNG", **more)
        made.append(out.getvalue())
    return made


def write_films(root: Path, splits: Sequence[str] = ("train", "test"), step: int = 4, size: tuple[int, int] = (25, 16)):
    """Two classes of 8 training and 4 test films, 8 frames each; those of the second are brighter by `step`."""
    for part, split in enumerate(splits):
        for label, name in enumerate("ab"):
            for n in range(8 if part == 0 else 4):
                (place := root / split / name / f"{n}").mkdir(parents=True)
                for i, picture in enumerate(film(1000 * part + 100 * label + n, 8, size, step * label)):
                    (place / f"{i}.png").write_bytes(picture)
