"""Masks beside the pixels: exact, in the images' order, and sealed for the test split."""

from __future__ import annotations

import json

import numpy as np
import torch

from ssl_bench.config.schema import DataConfig
from ssl_bench.data import factors, store, summary
from ssl_bench.data.dataset import open_data, open_test, open_truth
from ssl_bench.data.masks import fitted

SET = DataConfig("factors:40", image_size=64)


def test_masks_of_factors_are_where_the_colour_is():
    for i in range(40):
        values = factors.example("train", i)[1].copy()
        values[7] = 0  # neither discs nor noise: grey but for the shape
        image = factors.draw(values, np.random.default_rng(0)).astype(int)
        mask, cover = factors.mask(values), factors.cover(values)
        coloured = image.max(2) - image.min(2) > 0
        assert set(np.unique(mask)) == {0, 1 + int(values[0])}
        assert coloured[cover > 0.02].all() and not coloured[cover == 0].any()
        assert ((mask > 0) == (cover >= 0.5)).all()


def test_every_image_has_its_own_mask_and_the_fingerprint_is_as_it_was():
    data = open_data(DataConfig("factors:200"))
    assert data.fingerprint == "4ecf6b242cb796b2"  # before there were masks
    data = open_data(SET)
    for split, part in (("train", data.train), ("train", data.val), ("test", open_test(SET))):
        known = {factors.example(split, i)[0].tobytes(): i for i in range(40)}
        images = part.batch(slice(None)).permute(0, 2, 3, 1)
        masks = open_truth(SET)["masks"] if split == "test" else torch.from_numpy(part.masks[part.index])
        assert len(images) == len(masks)
        for image, mask in zip(images, masks, strict=True):
            values = factors.example(split, known[image.contiguous().numpy().tobytes()])[1]
            assert (mask.numpy() == factors.mask(values)).all()
    assert data.train.mask_classes == ("background", *factors.SHAPES)


def test_a_summary_tells_the_classes_of_masks_where_there_are_some():
    meta = json.loads((store.ensure(SET) / "meta.json").read_text())
    assert "  a mask for every image, 7 classes: background, ell, ellipse" in "\n".join(summary.lines(meta))
    assert "mask" not in "\n".join(summary.lines({k: v for k, v in meta.items() if k != "masks"}))


def test_the_masks_of_the_test_split_are_opened_by_open_truth_alone():
    test = open_test(SET)
    assert test.masks is None and open_truth(SET)["masks"].shape == (10, 64, 64)
    assert open_data(SET).train.bare().masks is None
    folder = store.ensure(SET)
    assert (folder / "train_masks.u8").stat().st_size == 40 * 64 * 64
    assert not (folder / "test_masks.u8").exists() and "masks" in json.loads((folder / "meta.json").read_text())


def test_a_mask_of_another_size_is_cut_and_taken_by_nearest_pixels():
    mask = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert (fitted(mask, 4, 4) == mask[1::2, 1::2]).all() or (fitted(mask, 4, 4) == mask[::2, ::2]).all()
    wide = np.repeat(np.array([[1, 2, 2, 3]], np.uint8), 2, 0)
    assert (fitted(wide, 2, 2) == 2).all()  # the centre, as of the image
