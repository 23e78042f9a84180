"""How a waveform becomes a spectrogram: the settings `data.mel.*` of sounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ssl_bench.errors import UserError


@dataclass(frozen=True)
class MelConfig:
    """Kaldi's filter bank; `data.image_size` says how many mel bands (height) and frames (width) there are."""

    rate: int = 16000  # samples per second that sounds are brought to
    hop_ms: float = 10.0  # milliseconds from one frame to the next
    window_ms: float = 25.0  # milliseconds of a frame
    window: Literal["hann", "povey"] = "hann"  # hann (AudioSet's codebases) or povey (Kaldi's own, BEATs)
    low: float = 20.0  # hertz where the lowest band begins
    high: float = 0.0  # hertz where the highest band ends; 0: half of the rate
    fill: Literal["silence", "repeat"] = "silence"  # what follows a sound that is too short: nothing, or itself again
    peak: bool = field(default=False, metadata={"later": True})  # take each sound's mean off, then divide by its peak

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return int(self.rate * self.hop_ms / 1000)

    @property
    def width(self) -> int:
        """Samples of a frame."""
        return int(self.rate * self.window_ms / 1000)

    @property
    def top(self) -> float:
        """Hertz where the highest band ends."""
        return self.high or self.rate / 2

    def samples(self, frames: int) -> int:
        """Samples that give exactly so many frames."""
        return self.hop * (frames - 1) + self.width

    def check(self) -> None:
        if not 1000 <= self.rate <= 192_000:
            raise UserError(f"data.mel.rate={self.rate} must lie between 1000 and 192000 samples per second.")
        if not 0 <= self.low < self.top <= self.rate / 2:
            raise UserError(
                f"data.mel.low={self.low:g} and data.mel.high={self.high:g} must be in order and at most half of "
                f"data.mel.rate={self.rate}."
            )
        if not (0 < self.hop_ms <= 1000 and 0 < self.window_ms <= 1000 and self.hop >= 1 and self.width >= 2):
            raise UserError(
                f"data.mel.hop_ms={self.hop_ms:g} and window_ms={self.window_ms:g} must be positive, at most 1000, and "
                "hold samples."
            )
