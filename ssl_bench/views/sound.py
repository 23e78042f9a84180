"""What may be done to a sound and leaves it the same: moved in time, louder or softer, with another one behind it.

Shapes: spectrograms [B, 1, M, T] in [0, 1], as data/mel.py gives them: SPAN nats from BOTTOM, 0 is silence. All of it
is on the spectrogram, as in BYOL-A (Niizumi et al. 2021, arXiv 2103.06695): a louder waveform is a number added to its
log-mel. Random resized crops are those of `augment`. Never mirrored: neither time nor frequency can be turned round.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_bench.data.mel import SPAN
from ssl_bench.errors import UserError
from ssl_bench.rng import Rng


@dataclass(frozen=True)
class SoundConfig:
    """One view of a sound, before it is cropped. 0: left out."""

    shift: float = 0.0  # rolled in time, either way, by at most this share of its length
    gain: float = 0.0  # louder or softer by at most so many nats of power (0.69: half or twice the power)
    mixup: float = 0.0  # share of another sound mixed in, uniform from 0 to this (log-mixup-exp: .4 in BYOL-A)

    def check(self) -> None:
        if not (0 <= self.shift <= 1 and 0 <= self.gain < SPAN and 0 <= self.mixup < 1):
            raise UserError(
                f"sound.shift={self.shift:g} and sound.mixup={self.mixup:g} must lie in [0, 1], sound.gain="
                f"{self.gain:g} from 0 to below {SPAN:g} nats."
            )


def change(images: Tensor, rng: Rng, config: SoundConfig) -> Tensor:
    """Mixed with another, louder or softer, moved in time; as it was where all are 0."""
    if config.mixup:
        images = _mixed(images, 1 - rng.uniform(0, config.mixup))
    if config.gain:
        images = louder(images, rng.uniform(-config.gain, config.gain))
    if config.shift:
        length = images.shape[-1]
        images = rolled(images, (rng.uniform(-config.shift, config.shift) * length).round().long())
    return images


def log_mixup_exp(a: Tensor, b: Tensor, share: Tensor | float, eps: float = 1.1920929e-07) -> Tensor:
    """log(share e^a + (1 - share) e^b): logarithms of power whose powers are added (BYOL-A, `log_mixup_exp`)."""
    return (share * a.exp() + (1 - share) * b.exp() + eps).log()


def _mixed(images: Tensor, share: Tensor) -> Tensor:
    """Each with its neighbour in pairs of the batch, so that no process needs what another one has.

    The last of an odd number has none and stays as it is.
    """
    place = torch.arange(len(images), device=images.device)
    partner = (place ^ 1).where((place ^ 1) < len(images), place)
    share = share.view(-1, 1, 1, 1)
    nats = (images - 1) * SPAN  # below 0: e^x cannot overflow
    return (log_mixup_exp(nats, nats[partner], share, 0.0) / SPAN + 1).clamp_(0, 1)


def louder(images: Tensor, nats: Tensor) -> Tensor:
    """`nats` [B] added to all that is not silence."""
    return torch.where(images > 0, images + nats.view(-1, 1, 1, 1) / SPAN, images).clamp_(0, 1)


def rolled(images: Tensor, frames: Tensor) -> Tensor:
    """Moved by `frames` [B] to the right; what leaves on one side comes in on the other."""
    length = images.shape[-1]
    source = (torch.arange(length, device=images.device) - frames[:, None]) % length
    return images.gather(-1, source[:, None, None, :].expand(images.shape))
