"""Log-mel spectrograms as Kaldi's `fbank` makes them, batched, on the waveforms' own device.

Shapes: B waveforms of L samples, T frames, M mel bands. Kaldi's order, as torchaudio's `compliance.kaldi.fbank` has it
with dither 0 and whole frames only (`snip_edges`): each frame's mean off, pre-emphasis, window, zeros up to a power of
two, power spectrum, mel bands, natural logarithm. Values are held against the published codebases' in the tests.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.config.sound import MelConfig

EMPHASIS = 0.97
LEAST = 1.1920928955078125e-07  # of a band's power, Kaldi's: float32's epsilon
BOTTOM, TOP = -16.0, 10.0  # nats: the range that is shown; LEAST lies at -15.94, a full-scale tone of 32 ms near 8
SPAN = TOP - BOTTOM


def log_mel(waves: Tensor, config: MelConfig, bands: int) -> Tensor:
    """[B, L] in [-1, 1] (at whatever scale: BEATs multiplies by 2^15) -> natural logarithms [B, T, M]."""
    with torch.autocast(waves.device.type, enabled=False):
        frames = waves.float().unfold(1, config.width, config.hop)
        frames = frames - frames.mean(2, keepdim=True)
        frames = frames - EMPHASIS * F.pad(frames, (1, 0), mode="replicate")[..., :-1]
        size = 1 << (config.width - 1).bit_length()
        shape = _window(config.window, config.width).to(waves.device)
        power = torch.fft.rfft(frames * shape, n=size).abs().square()
        return (power @ _bands(config, bands, size).to(waves.device).T).clamp_(min=LEAST).log_()


def pictures(waves: Tensor, config: MelConfig, bands: int) -> Tensor:
    """int16 [B, L] -> [B, 1, M, T] in [0, 1]: BOTTOM is 0 and TOP is 1, the lowest band in the first row."""
    found = log_mel(waves.float() / 32768, config, bands)
    return ((found - BOTTOM) / SPAN).clamp_(0, 1).mT[:, None]


@lru_cache(maxsize=8)
def _window(name: str, width: int) -> Tensor:
    hann = torch.hann_window(width, periodic=False, dtype=torch.float32)
    return hann if name == "hann" else hann.pow(0.85)


@lru_cache(maxsize=8)
def _bands(config: MelConfig, bands: int, size: int) -> Tensor:
    """Triangles [M, size / 2 + 1], equal in mel (1127 ln(1 + f / 700)); the last bin belongs to none, as in Kaldi."""
    low, high = (1127.0 * math.log(1 + f / 700) for f in (config.low, config.top))
    step = (high - low) / (bands + 1)
    bins = 1127.0 * (1 + config.rate / size * torch.arange(size // 2) / 700).log()
    left = low + step * torch.arange(bands)[:, None]
    up, down = (bins - left) / step, (left + 2 * step - bins) / step
    return F.pad(torch.minimum(up, down).clamp(min=0), (0, 1))
