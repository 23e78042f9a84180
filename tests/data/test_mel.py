"""Log-mel spectrograms against those of the published codebases (torchaudio's Kaldi fbank, run on CPU)."""

from __future__ import annotations

import math

import pytest
import torch
from sines import sines

from ssl_bench.config.sound import MelConfig
from ssl_bench.data.mel import BOTTOM, SPAN, log_mel, pictures

AUDIO_JEPA = MelConfig(32_000, 10_000 / 512, 25_000 / 512, "hann", 20, 16_000)


def centred(waves: torch.Tensor) -> torch.Tensor:
    return waves - waves.mean()


def test_audiojepas_spectrogram():
    wave = centred(sines(1, 1, 320_000))
    found = log_mel(centred(wave / wave.abs().max() + 1e-6), AUDIO_JEPA, 96)[0]
    assert found.shape == (510, 96)
    for (frame, band), value in {(0, 0): -3.348320, (0, 95): 10.436153, (509, 50): 6.222815}.items():
        assert float(found[frame, band]) == pytest.approx(value, abs=2e-4)
    assert float(found.mean()) == pytest.approx(5.412527, abs=1e-4)


def test_audiomaes_spectrogram():
    found = log_mel(centred(0.5 * sines(1, 1, 160_000)), MelConfig(), 128)[0]
    assert found.shape == (998, 128)
    for (frame, band), value in {(0, 0): -4.094746, (500, 64): 3.221788, (997, 127): 6.219192}.items():
        assert float(found[frame, band]) == pytest.approx(value, abs=2e-4)
    assert float(found[500, 64] + 4.2677393) / (2 * 4.5689974) == pytest.approx(0.819603, abs=1e-4)


def test_beats_spectrogram():
    found = log_mel(0.5 * sines(1, 1, 160_000) * 2**15, MelConfig(window="povey"), 128)[0]
    normal = (found - 15.41663) / (2 * 6.55582)
    assert float(normal[0, 0]) == pytest.approx(0.100597, abs=1e-4)
    assert float(normal[500, 64]) == pytest.approx(0.663427, abs=1e-4)
    assert float(normal.mean()) == pytest.approx(0.530947, abs=1e-4)


def test_a_louder_wave_is_a_number_added():
    wave = 0.1 * sines(3, 2, 4000)
    assert torch.allclose(
        log_mel(3 * wave, MelConfig(), 40), log_mel(wave, MelConfig(), 40) + 2 * math.log(3), atol=1e-4
    )


def test_pictures_have_the_lowest_band_first_and_silence_at_the_bottom():
    mel = MelConfig(8000, window_ms=32)
    time = torch.arange(mel.samples(20)) / 8000
    waves = torch.stack(
        [(20_000 * torch.sin(2 * math.pi * f * time)).short() for f in (150, 3000)] + [0 * time.short()]
    )
    shown = pictures(waves, mel, 32)
    assert shown.shape == (3, 1, 32, 20) and shown.min() >= 0 and shown.max() <= 1
    assert shown[0, 0].mean(1).argmax() < 4 and shown[1, 0].mean(1).argmax() > 24
    assert float(shown[2].max()) == pytest.approx((math.log(2**-23) - BOTTOM) / SPAN, abs=1e-3)
