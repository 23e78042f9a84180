"""Clips as items, and the set that is made here: what it shows, what it does not give away, what is said of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny

from ssl_bench.config.schema import DataConfig, RunConfig, identity
from ssl_bench.data import items, movingphotos, registry
from ssl_bench.data.clips import Clips
from ssl_bench.data.dataset import open_data
from ssl_bench.data.images import Item
from ssl_bench.data.movingphotos import MOTIONS, block, draws, path, targets
from ssl_bench.data.pixels import Unreadable
from ssl_bench.encoders.resolve import resolve
from ssl_bench.errors import UserError
from ssl_bench.evaluation.features import cache_key
from ssl_bench.rng import Rng
from ssl_bench.views.augment import AugmentConfig, augment
from ssl_bench.views.corrupt import corrupt
from ssl_bench.views.plain import plain

SMALL = DataConfig("movingphotos:0:120", image_size=24, val_fraction=0.2)


def test_a_description_is_read_back():
    kind = registry.item(SMALL)
    assert kind == Clips(8, 24, 24) == items.written(kind.facts) and kind.shape == (8, 3, 24, 24)
    assert kind.channels == 3 and kind.grid(6, 2) == (4, 4, 4) and kind.grid(6) == (8, 4, 4)
    stored = np.arange(8 * 3 * 24 * 24).reshape(kind.shape)
    assert (kind.by_channel(stored)[1] == stored[:, 1].flatten()).all()


def test_what_a_store_keeps_is_what_was_made():
    kind = Clips(4, 16, 16)
    pixels = np.random.default_rng(0).integers(0, 256, kind.shape).astype(np.uint8)
    stored, data, odd, _ = kind.read(Item(lambda k: pixels, "a", "here"), keep_bytes=True)
    assert (stored == pixels).all() and (kind.decode(data) == pixels).all() and odd == ""
    still = np.repeat(pixels[:1], 4, 0)
    assert kind.read(Item(lambda k: still, "a", "here"), False)[2] == "still (all frames alike)"
    with pytest.raises(Unreadable, match="uint8"):
        kind.read(Item(lambda k: pixels[:3], "a", "here"), False)


def test_a_clip_depends_on_its_number_alone():
    whole = block("train", 1, 0, 8, 24)
    assert (whole[5] == movingphotos.clip("train", 1, 5, Clips(8, 24, 24))).all()
    assert not (whole[5] == block("test", 1, 0, 8, 24)[5]).all()
    longer = block("train", 0, 0, 12, 24)
    assert (longer[:, :8] == block("train", 0, 0, 8, 24)).all()


def test_the_disc_moves_as_the_label_says():
    drawn = {**draws("train", 0, 100), "speed": 1, "places": np.full((2, 2), 8.0), "orbit": 5.0, "phase": 0.0}
    for name, step in {"right": (2, 0), "up": (0, -2), "down_left": (-(2**0.5), 2**0.5)}.items():
        places = path({**drawn, "motion": MOTIONS.index(name)}, 3)
        assert np.allclose(places[1] - places[0], step) and np.allclose(places[2] - places[0], 2 * np.array(step))
    round_ = path({**drawn, "motion": MOTIONS.index("clockwise")}, 2)
    assert round_[1, 1] > round_[0, 1]  # from its rightmost point downwards
    assert np.linalg.norm(round_ - 8, axis=1) == pytest.approx(5)
    back = path({**drawn, "motion": MOTIONS.index("counterclockwise")}, 2)
    assert back[1, 1] < back[0, 1]


def test_the_disc_shows_in_the_place_that_is_drawn():
    clips = block("train", 0, 0, 8, 32).astype(int)
    changed = np.abs(np.diff(clips, axis=1)).sum(2)  # level 0: only the disc changes
    for i in range(8):
        x, y = path(draws("train", i, len(movingphotos.photos("train", 32).classes)), 8)[3]
        far = np.hypot(*((np.stack(np.mgrid[0:32, 0:32][::-1]) + 0.5 - np.array([x, y])[:, None, None] + 16) % 32 - 16))
        assert changed[i, 3][far > 12].sum() == 0 < changed[i, 3][far < 8].sum()


def test_the_place_in_a_frame_says_nothing_of_the_motion():
    """Uniform on the torus in every frame: for each motion the mean cosine and sine are near 0."""
    values = [(d := draws("train", i, 100), path(d, 8)) for i in range(4000)]
    motion = np.array([d["motion"] for d, _ in values])
    angles = 2 * np.pi / 32 * np.stack([p for _, p in values])
    for frame in (0, 4, 7):
        for m in range(len(MOTIONS)):
            place = angles[motion == m, frame]
            assert np.abs(np.cos(place).mean(0)).max() < 0.15 and np.abs(np.sin(place).mean(0)).max() < 0.15


def test_levels_add_a_still_disc_and_then_a_moving_camera():
    zero, one, two = (block("train", level, 0, 8, 24).astype(int) for level in (0, 1, 2))
    assert (zero != one).any((1, 2, 3, 4)).all()
    share = [(np.abs(np.diff(c, axis=1)).max(2) > 0).mean() for c in (zero, one, two)]
    assert share[0] < 0.6 and share[1] < 0.6 < share[2]


def test_the_store_keeps_clips_moments_and_factors():
    data = open_data(SMALL, RunConfig(store="decoded"))
    assert data.item == Clips(8, 24, 24) and data.classes == MOTIONS and len(data.train) + len(data.val) == 120
    batch = data.train.batch(np.arange(len(data.train)))
    whole = torch.cat([batch, data.val.batch(np.arange(len(data.val)))]).float() / 255
    assert torch.allclose(whole.mean((0, 1, 3, 4)), torch.tensor(data.mean), atol=2e-4)
    assert torch.allclose(whole.std((0, 1, 3, 4)), torch.tensor(data.std), atol=2e-4)
    assert data.train.targets is not None
    assert (data.train.targets[:, 0].long() == data.train.labels).all()
    assert [f.name for f in data.train.factors] == ["motion", "speed", "object", "background", "start", "radius"]
    packed = open_data(SMALL, RunConfig(store="encoded"))
    assert packed.fingerprint == data.fingerprint
    assert torch.equal(packed.train.batch(np.arange(5)), data.train.batch(np.arange(5)))


def test_targets_are_what_was_drawn():
    values = np.stack([targets("train", i) for i in range(50)])
    assert np.allclose(values[:, 4] ** 2 + values[:, 5] ** 2, 1, atol=1e-5) and (np.abs(values[:, 8] - 6) <= 1).all()
    assert values[:, 2].max() < 10 and (values[:, 2] != values[:, 3]).any()


@pytest.mark.parametrize(("name", "says"), [
    ("movingphotos:3", "a level from 0 to 2"), ("movingphotos:0:7", "40 or more"), ("movingphoto", "'movingphotos'"),
])  # fmt: skip
def test_wrong_names_are_one_sentence(name, says):
    with pytest.raises(UserError, match=says):
        registry.find(name)


def test_sizes_that_cannot_be_made_are_refused():
    with pytest.raises(UserError, match="made square"):
        open_data(replace(SMALL, image_size=(16, 24)))
    with pytest.raises(UserError, match=r"data\.frames has no effect on the images of 'clothing48'"):
        registry.item(DataConfig(frames=4))


def test_identities_of_images_know_nothing_of_frames():
    config = tiny("ijepa", "folder:x")
    assert identity(config) == identity(replace(config, data=replace(config.data, frames=8)))
    assert identity(config) != identity(replace(config, data=replace(config.data, frames=4)))


def test_all_frames_get_one_crop_one_colour_and_one_corruption():
    frame = torch.randint(0, 256, (4, 1, 3, 24, 24), dtype=torch.uint8)
    clips = frame.expand(-1, 5, -1, -1, -1)
    settings = AugmentConfig(flip=0.5, brightness=0.4, hue=0.1, jitter_p=0.8, gray_p=0.2, blur_p=0.5, solarize_p=0.2)
    out = augment(clips, Rng(0, 4), 16, settings, [0.5] * 3, [0.25] * 3)
    alone = augment(frame[:, 0], Rng(0, 4), 16, settings, [0.5] * 3, [0.25] * 3)
    assert out.shape == (4, 5, 3, 16, 16)
    for t in range(5):
        assert torch.allclose(out[:, t], alone, atol=1e-5)
    noisy = corrupt(clips, "gaussian_noise", 3, 0)
    assert torch.equal(noisy[:, 0], noisy[:, 4]) and torch.equal(
        noisy[:, 0], corrupt(frame[:, 0], "gaussian_noise", 3, 0)
    )
    seen = plain(clips, 16, 0, "bicubic", [0.5] * 3, [0.25] * 3)
    assert torch.allclose(seen[:, 2], plain(frame[:, 0], 16, 0, "bicubic", [0.5] * 3, [0.25] * 3), atol=1e-5)


def test_raw_rows_of_clips_are_told_apart_and_images_have_no_difference(tmp_path):
    data = open_data(SMALL)
    raw, moved = (resolve(name, tmp_path, data=data) for name in ("pixels", "difference"))
    assert cache_key(raw, data.val, "x") != cache_key(moved, data.val, "x")
    clips = data.val.batch(np.arange(3))
    x = raw.prepare(clips)
    assert raw.encode(clips)["mean"].shape == (3, 1, 8 * 3 * 24 * 24)
    assert torch.allclose(moved.encode(clips)["mean"][:, 0], x.diff(dim=1).abs().mean(1).flatten(1))
    with pytest.raises(UserError, match="images have one"):
        resolve("difference", tmp_path)
    with pytest.raises(UserError, match="takes clips of 8 frames, and these are images"):
        raw.encode(clips[:, 0])
