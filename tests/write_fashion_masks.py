"""Writes a set of real photographs with masks, for protocol `dense`: Fashion-MNIST, cut out of its black ground.

python tests/write_fashion_masks.py SOURCE OUT

SOURCE holds the four idx files of Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747; MIT licence, Zalando SE): Debian's
package dataset-fashion-mnist has them (`apt-get download dataset-fashion-mnist`, `dpkg -x`, then
usr/share/datasets/fashion-mnist). OUT gets the first 200 training and 50 test images of each of the ten classes, and
their masks; read it as the line says that is printed at the end.

No person drew these masks. A pixel is the garment's where it is not black, and its class is the image's; black that the
garment encloses (a bag's handle, a print) is void, for nothing tells which it is. So which pixels are foreground is
decided by the pixels themselves, and only the class of the foreground asks for more: read a difference between methods
as one in classes told from a part of a garment, not in outlines. Of 48 masks looked at, all follow their garment.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
BLACK, VOID = 8, 255  # darker is the ground: its resizing left values of 1 to 7 around the garments
EACH = {"train": ("train", 200), "test": ("t10k", 50)}  # split -> name in the source, images of a class


def mask(image: np.ndarray, label: int) -> np.ndarray:
    """uint8 [h, w] of a grey image: 0 ground, `label` + 1 the garment, void what is black inside it."""
    dark = Image.fromarray(np.pad(np.where(image < BLACK, 1, 0).astype(np.uint8), 1, constant_values=1)).copy()
    ImageDraw.floodfill(dark, (0, 0), 2)
    found = np.asarray(dark)[1:-1, 1:-1]
    return np.choose(found, [label + 1, VOID, 0]).astype(np.uint8)


def idx(path: Path, header: int) -> np.ndarray:
    """The bytes of a gzipped idx file after its header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def write(source: Path, out: Path) -> None:
    for split, (name, each) in EACH.items():
        images = idx(source / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        labels = idx(source / f"{name}-labels-idx1-ubyte.gz", 8)
        for label, word in enumerate(CLASSES):
            for kind in ("images", "masks"):
                (out / kind / split / word).mkdir(parents=True, exist_ok=True)
            for i in np.flatnonzero(labels == label)[:each].tolist():
                Image.fromarray(images[i]).save(out / "images" / split / word / f"{i:05d}.png")
                Image.fromarray(mask(images[i], label)).save(out / "masks" / split / word / f"{i:05d}.png")
    print(f"--data 'folder:{out}#masks=masks#classes={','.join(('ground', *CLASSES))}'")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
