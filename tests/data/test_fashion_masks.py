"""The set of photographs that tests/write_fashion_masks.py cuts out of their black ground."""

from __future__ import annotations

import gzip

import numpy as np
from PIL import Image
from write_fashion_masks import CLASSES, EACH, VOID, mask, write


def test_ground_is_black_that_reaches_the_edge_and_enclosed_black_is_void():
    image = np.zeros((6, 6), np.uint8)
    image[1:5, 1:5] = 90
    image[2:4, 2:4] = 3  # a handle, or a dark print
    image[0, 0] = 7  # left by resizing
    expected = np.zeros((6, 6))
    expected[1:5, 1:5], expected[2:4, 2:4] = 9, VOID
    assert (mask(image, 8) == expected).all()
    assert (mask(np.full((4, 4), 200, np.uint8), 0) == 1).all()  # fills the whole picture


def test_each_class_gets_its_first_images(tmp_path, monkeypatch):
    monkeypatch.setitem(EACH, "train", ("train", 1))
    monkeypatch.setitem(EACH, "test", ("t10k", 1))
    rng = np.random.default_rng(0)
    for name in ("train", "t10k"):
        images, labels = rng.integers(0, 255, (30, 28, 28), np.uint8), np.arange(30, dtype=np.uint8) % 10
        for kind, head, array in (("images-idx3", 16, images), ("labels-idx1", 8, labels)):
            (tmp_path / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(bytes(head) + array.tobytes()))
    write(tmp_path, tmp_path / "out")
    for i, word in enumerate(CLASSES):
        found = list((tmp_path / "out" / "images" / "test" / word).iterdir())
        assert [path.name for path in found] == [f"{i:05d}.png"]
        assert (np.asarray(Image.open(found[0])) == images[i]).all()
        values = np.asarray(Image.open(tmp_path / "out" / "masks" / "test" / word / found[0].name))
        assert set(np.unique(values)) <= {0, i + 1, VOID} and (values == i + 1).any()
