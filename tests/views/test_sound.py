"""What is done to spectrograms: held to BYOL-A's and Audio-JEPA's numbers, and to what it means for the waveform."""

from __future__ import annotations

import math

import pytest
import torch
from sines import sines

from ssl_bench.config.sound import MelConfig
from ssl_bench.data.mel import SPAN, pictures
from ssl_bench.errors import UserError
from ssl_bench.rng import Rng
from ssl_bench.views.augment import AugmentConfig, augment
from ssl_bench.views.masks_sound import complement, time_frequency
from ssl_bench.views.sound import SoundConfig, change, log_mixup_exp, louder, rolled

MEL = MelConfig(8000, window_ms=32)


def test_byolas_mixup():
    found = log_mixup_exp(sines(1, 1, 4, 8), sines(2, 1, 4, 8), 0.8)
    assert float(found.mean()) == pytest.approx(0.098120, abs=1e-5)
    assert float(found[0, 0, 0]) == pytest.approx(-0.033728, abs=1e-5)


def test_louder_is_a_louder_waveform():
    wave = (8000 * sines(1, 2, MEL.samples(12))).short()
    gained = louder(pictures(wave, MEL, 16), torch.full((2,), 2 * math.log(2)))
    assert torch.allclose(gained, pictures(2 * wave, MEL, 16), atol=1e-4)
    silence = torch.zeros(1, 1, 4, 4)
    assert torch.equal(louder(silence, torch.tensor([3.0])), silence)


def test_mixing_adds_powers_in_pairs_whatever_the_number_of_processes():
    images = pictures((8000 * sines(2, 6, MEL.samples(12))).short(), MEL, 16)
    config = SoundConfig(mixup=0.4)
    whole = change(images, Rng(0, 6), config)
    parts = [change(images[rows], Rng(0, 6, rows), config) for rows in (slice(0, 2), slice(2, 6))]
    assert torch.equal(whole, torch.cat(parts))
    share = 1 - 0.4 * Rng(0, 6).rand()[0]
    power = share * (images[0] * SPAN).exp() + (1 - share) * (images[1] * SPAN).exp()
    assert torch.allclose(whole[0] * SPAN, power.log(), atol=1e-3)
    assert torch.allclose(change(images[:5], Rng(0, 5), config)[4], images[4], atol=1e-6)


def test_rolled_in_time_alone():
    images = torch.rand(3, 1, 4, 10)
    moved = rolled(images, torch.tensor([0, 3, -2]))
    for i, frames in enumerate((0, 3, -2)):
        assert torch.equal(moved[i], images[i].roll(frames, -1))


def test_nothing_is_drawn_where_nothing_is_done():
    images = torch.rand(4, 1, 16, 16)
    plain = AugmentConfig(flip=0.0)
    assert change(images, Rng(0, 4), SoundConfig()) is images
    one, other = Rng(0, 4), Rng(0, 4)
    augment(images, one, 16, plain, [0.5], [0.25])
    torch.rand(4, 10, 2, generator=other.generator), torch.rand(4, 2, generator=other.generator)
    assert torch.equal(one.rand(), other.rand())


@pytest.mark.parametrize("wrong", [{"shift": 1.5}, {"gain": -1.0}, {"mixup": 1.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match=r"sound\.shift"):
        AugmentConfig(sound=SoundConfig(**wrong)).check(1)


def test_complements_share_one_size_and_leave_nothing_out():
    sizes = set()
    for seed in range(200):
        context, targets = complement(Rng(seed, 3), (6, 32))
        assert targets.shape == (3, 1, 192 - context.shape[1])
        assert torch.equal(torch.cat([context, targets[:, 0]], 1).sort(1).values, torch.arange(192).expand(3, -1))
        sizes.add(context.shape[1])
    assert 76 <= min(sizes) <= 80 and 111 <= max(sizes) <= 115  # int(192 (1 - r)), r uniform in .4 to .6
    with pytest.raises(ValueError, match="leave 0 of 4"):
        complement(Rng(0, 2), (2, 2), (0.8, 0.9))


def test_bands_and_times_of_targets_leave_the_context():
    grid = (16, 32)
    for removes in ("bands", "times", "both"):
        context, targets = time_frequency(Rng(1, 8), grid, removes=removes)
        for i in range(8):
            seen, hidden = set(context[i].tolist()), set(targets[i].flatten().tolist())
            assert not seen & hidden and len(seen) == context.shape[1] >= 10
            rows, columns = {t // 32 for t in hidden}, {t % 32 for t in hidden}
            if removes != "both":  # of both, less than need be could be left: then the least touched stay
                assert not any(t // 32 in rows for t in seen) or removes == "times"
                assert not any(t % 32 in columns for t in seen) or removes == "bands"
    whole, _ = time_frequency(Rng(1, 8), grid)
    part = [time_frequency(Rng(1, 8, rows), grid)[0] for rows in (slice(0, 3), slice(3, 8))]
    assert torch.equal(whole, torch.cat(part))


def test_a_flat_spectrogram_always_leaves_some_context():
    for seed in range(50):
        context, _ = time_frequency(Rng(seed, 4), (8, 64))  # three blocks of 5 or 6 rows: no row is free
        assert context.shape[1] >= 10
