"""The set `cues`: what is shown is what the targets say, the cue is long gone at the turn, and clips are their own."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_bench.config.schema import DataConfig
from ssl_bench.data import cues
from ssl_bench.data.clips import Clips
from ssl_bench.data.dataset import open_data
from ssl_bench.errors import UserError

KIND = Clips(40, 32, 32)


def test_the_disc_is_where_the_targets_say():
    for i in range(6):
        clip, centres = cues.clip("train", i, KIND).astype(float), cues.track(cues.draws("train", i))
        clip[: cues.TOLD] = 0  # frames with the square
        bright = (clip > 150).all(1)
        for t in range(cues.TOLD, 40):
            y, x = (float(v.mean()) + 0.5 for v in np.nonzero(bright[t]))
            assert (x, y) == pytest.approx(tuple(centres[t]), abs=0.35)


def test_after_the_turn_it_goes_where_the_square_said_and_before_it_does_not_know():
    ways, before = [], []
    for i in range(200):
        d = cues.draws("train", i)
        path, r = cues.track(d), d["radius"]
        step, turn = path[33] - path[32], np.array(list(cues.TURNS.values())[d["turn"]])
        if ((path[31:34] > r + 1) & (path[31:34] < 31 - r)).all():  # no edge near
            assert step == pytest.approx(d["speed"] * turn)
        ways.append(d["turn"])
        before.append(path[31] - path[30])
    counts = np.bincount(ways, minlength=4)
    assert counts.min() > 35
    means = np.stack([np.mean([b for b, w in zip(before, ways, strict=True) if w == k], 0) for k in range(4)])
    assert np.abs(means).max() < 0.2  # of steps of .6 to .9: the way before tells nothing of the turn


def test_the_square_is_seen_in_the_first_fifth_and_no_later():
    for i in range(8):
        clip, colour = cues.clip("test", i, KIND), np.array(cues.COLOURS[cues.draws("test", i)["turn"]])
        shown = [(np.abs(frame.astype(int) - colour[:, None, None]).sum(0) == 0).sum() for frame in clip]
        assert min(shown[: cues.TOLD]) >= 10
        assert max(shown[cues.TOLD :]) == 0


def test_fewer_frames_are_some_of_the_same_film():
    whole = cues.clip("train", 3, KIND)
    for frames in (5, 10, 20):
        assert (cues.clip("train", 3, Clips(frames, 32, 32)) == whole[:: 40 // frames]).all()


def test_no_test_clip_is_a_training_clip_and_larger_sets_begin_with_smaller_ones():
    def targets(name: str) -> tuple[set[bytes], set[bytes]]:
        data = open_data(DataConfig(name, image_size=16, frames=5, val_fraction=0.2))
        own = np.concatenate([data.train.targets.numpy(), data.val.targets.numpy()])
        return {row.tobytes() for row in own}, {data.train.targets[0].numpy().tobytes()}

    small, _ = targets("cues:40")
    large, _ = targets("cues:60")
    assert len(small) == 40
    assert small < large
    held = {cues.track(cues.draws("test", i)).tobytes() for i in range(40)}
    assert not held & {cues.track(cues.draws("train", i)).tobytes() for i in range(40)}


@pytest.mark.parametrize(
    "settings", [{"frames": 9}, {"frames": 8}, {"frames": 2}, {"image_size": 12}, {"image_size": (24, 32)}]
)
def test_other_frames_and_sides_are_refused_in_a_sentence(settings):
    with pytest.raises(UserError, match="40, 20, 10 or 5 frames"):
        open_data(DataConfig("cues:40", **({"image_size": 24, "frames": 40} | settings)))


@pytest.mark.parametrize("name", ["cues:x", "cues:3", "cues:40:2"])
def test_a_number_that_is_none_is_refused(name):
    with pytest.raises(UserError, match="cues"):
        open_data(DataConfig(name, image_size=24, frames=40))
