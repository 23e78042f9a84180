"""The kind `sound`: a waveform, int16 [L], all of one rate and length; networks see its log-mel spectrogram.

`data.image_size` is mel bands x frames, `data.mel.*` says the rest (config/sound.py), and both say how long a sound is:
a shorter one gets silence at its end or is repeated, a longer one is cut there. WAV files of whole numbers are read
with the standard library, all others (FLAC, OGG, MP3, WAV of floats) with soundfile, the extra `audio`.

No torch is imported before a spectrogram is made: listing a folder starts in a fraction of a second.
"""

from __future__ import annotations

import io
import math
import struct
import sys
import wave
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ssl_bench.config.schema import DataConfig, Size, as_size, sides, to_dict
from ssl_bench.config.sound import MelConfig
from ssl_bench.data.images import Item, encoded
from ssl_bench.data.items import Form, Kind
from ssl_bench.data.pixels import Unreadable
from ssl_bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

CLIPPED = 0.01  # share of samples at full scale from which on a sound counts as clipped
LONGEST = 2**28  # samples of one file
CHANNELS = 8  # of a table's array, at most
APART = 16  # times as many samples at least, so that neither axis is taken for the other


@dataclass(frozen=True)
class Sounds(Kind):
    """Waveforms of which `frames` frames of `bands` mel bands are seen."""

    bands: int
    frames: int
    mel: MelConfig = MelConfig()

    name: ClassVar[str] = "sound"
    noun: ClassVar[str] = "sounds"
    measured: ClassVar[str] = "samples x channels"
    plain: ClassVar[str] = "the same all over (silent)"
    compared: ClassVar[str] = "--recipe sound"
    recipe: ClassVar[str] = "sound"
    suffixes: ClassVar[frozenset[str]] = frozenset({".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".opus"})
    columns: ClassVar[tuple[str, ...]] = ("audio", "sound", "wav", "flac")
    dtype: ClassVar[str] = "int16"
    unit: ClassVar[float] = 1.0
    mirrors: ClassVar[bool] = False  # neither time nor frequency can be turned round

    @classmethod
    def asked(cls, config: DataConfig) -> Sounds:
        for name in ("channels", "background"):
            if getattr(config, name) != getattr(DataConfig, name):
                raise UserError(f"data.{name} has no effect on the sounds of '{config.name}': leave it out.")
        config.mel.check()
        return cls(*config.size, config.mel)

    @classmethod
    def written(cls, facts: dict[str, Any]) -> Sounds:
        return cls(*sides(facts["image_size"]), MelConfig(**facts["mel"]))

    @property
    def facts(self) -> dict[str, Any]:
        return {"item": "sound", "image_size": self.size, "channels": 1, "mel": to_dict(self.mel)}

    @property
    def size(self) -> Size:
        """As `data.image_size` is typed."""
        return as_size(self.bands, self.frames)

    @property
    def told(self) -> str:
        seconds = self.shape[0] / self.mel.rate
        return f"{self.bands} mel bands x {self.frames} frames, {seconds:.2f} s of {self.mel.rate:,} Hz"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.mel.samples(self.frames),)

    @property
    def channels(self) -> int:
        return 1

    @property
    def places(self) -> int:
        return self.bands * self.frames

    def by_channel(self, stored: np.ndarray) -> np.ndarray:
        if not stored.size:
            return np.zeros((1, 0), np.float64)
        import torch

        shown: np.ndarray = self.floats(torch.from_numpy(stored.reshape(1, -1))).double().numpy()
        return shown.reshape(1, -1)

    def grid(self, patch: int, tubelet: int = 1) -> tuple[int, int]:
        """Patches along frequency, then along time."""
        return (self.bands // patch, self.frames // patch)

    @staticmethod
    def cell(value: Any) -> tuple[Any, str]:
        """A struct with `bytes`, or as the Hugging Face hub has a decoded sound, with `array` and `sampling_rate`."""
        if not (isinstance(value, dict) and value.get("array") is not None):
            return Kind.cell(value)
        path = str(value.get("path") or "")
        try:
            return wav(_whole(np.asarray(value["array"])), int(value.get("sampling_rate") or 0)), path
        except Unreadable as why:
            return why.with_traceback(None), path  # which would hold the array
        except (TypeError, ValueError, OverflowError, struct.error, wave.Error) as why:
            return Unreadable(f"no samples with their rate ({why})"), path

    def read(self, item: Item, keep_bytes: bool) -> tuple[np.ndarray, bytes, str, Form]:
        try:
            data = encoded(item)
            samples, rate = decoded(data)
            stored, odd = self._fitted(samples, rate)
        except (Unreadable, UserError):
            raise
        except Exception as error:  # damaged files raise many kinds; each is counted and named, none hidden
            raise Unreadable(f"{type(error).__name__}: {str(error)[:120]}") from error
        form = f"{rate:,} Hz", (len(samples), samples.shape[1])
        return stored, data if keep_bytes else b"", odd, form

    def decode(self, data: bytes) -> np.ndarray:
        return self._fitted(*decoded(data))[0]

    def floats(self, stored: Tensor) -> Tensor:
        """The log-mel spectrogram in [0, 1]: [B, 1, bands, frames]."""
        from ssl_bench.data.mel import pictures

        return pictures(stored, self.mel, self.bands)

    def seen(self, stored: Tensor) -> Tensor:
        return self.floats(stored)

    def _fitted(self, samples: np.ndarray, rate: int) -> tuple[np.ndarray, str]:
        """int16 [L] at our rate, and what was unusual; `samples` fp32 [n, channels] in [-1, 1]."""
        if not samples.size:
            raise Unreadable("no samples")
        if not np.isfinite(samples).all():
            raise Unreadable("samples that are not finite")
        remarks = []
        if samples.shape[1] > 1:
            remarks.append("of several channels (their mean)")
        if (np.abs(samples) >= 32766 / 32768).mean() > CLIPPED:
            remarks.append("clipped")
        one = samples.mean(1)
        if not np.ptp(one):
            remarks.append("silent")
        if rate != self.mel.rate:
            from scipy.signal import resample_poly

            common = math.gcd(rate, self.mel.rate)
            one = resample_poly(one, self.mel.rate // common, rate // common)
            remarks.append(f"resampled from {rate:,} Hz")
        if self.mel.peak and np.ptp(one):  # silence stays silence
            one = one - one.mean()
            one = one / np.abs(one).max()
        (length,) = self.shape
        if len(one) != length:
            added = {"silence": "silence added", "repeat": "repeated"}[self.mel.fill]
            remarks.append(f"shorter ({added})" if len(one) < length else "longer (cut at the end)")
        whole = np.clip(np.rint(one[:length] * 32768), -32768, 32767).astype(np.int16)
        out = np.resize(whole, length)  # again and again
        out[len(whole) :] *= self.mel.fill == "repeat"
        return out, " and ".join(remarks)


def decoded(data: bytes) -> tuple[np.ndarray, int]:
    """A file's bytes -> fp32 [n, channels] in [-1, 1], and its rate. `Unreadable` says why not."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        try:
            return _wav(data)
        except wave.Error as why:
            if "unknown format" not in str(why):
                raise Unreadable(f"a damaged WAV file ({why})") from why
        except EOFError as why:
            raise Unreadable("a WAV file that ends too early") from why
    if not _known(data):
        raise Unreadable("not a sound file that is known")
    try:
        import soundfile
    except ImportError:
        raise UserError(
            "These sounds are no WAV files of whole numbers and need soundfile: pip install 'ssl-bench[audio]'."
        ) from None
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as why:
        raise Unreadable(f"soundfile: {str(why)[:120]}") from why
    return samples, int(rate)


def _known(data: bytes) -> bool:
    """Whether the first bytes are those of a sound file: soundfile is asked for only then."""
    starts = (b"fLaC", b"OggS", b"RIFF", b"RF64", b"FORM", b"ID3", b".snd", b"caff")
    return data.startswith(starts) or (len(data) > 2 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0)


def _wav(data: bytes) -> tuple[np.ndarray, int]:
    with wave.open(io.BytesIO(data)) as file:
        rate, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
        if file.getnframes() * channels > LONGEST:
            raise Unreadable(f"{file.getnframes():,} samples, more than {LONGEST // channels:,}")
        said, raw = file.getnframes(), file.readframes(file.getnframes())
    if not 0 < rate <= 1_000_000:
        raise Unreadable(f"a rate of {rate:,} samples per second")
    count = len(raw) // (width * channels)
    if count < said:
        raise Unreadable(f"{count:,} samples where its head says {said:,}")
    whole = np.frombuffer(raw, np.uint8).reshape(-1, width)
    if width == 1:  # unsigned, unlike all others
        values = whole[:, 0].astype(np.float32) / 128 - 1
    else:  # the bytes to the upper end of 32 bits
        wide = np.zeros((len(whole), 4), np.uint8)
        wide[:, 4 - width :] = whole
        values = (wide.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
    return values.reshape(-1, channels), rate


def _whole(found: np.ndarray) -> np.ndarray:
    """An array of a table, floats in [-1, 1] or whole numbers of 16 bits -> int16 [n] or [n, channels]."""
    few, many = sorted(found.shape) if found.ndim == 2 else (0, 0)
    if found.ndim != 1 and not (1 <= few <= CHANNELS and many >= APART * few):
        raise Unreadable(
            f"an array of shape {found.shape}: give [samples], or [samples, channels] of at most {CHANNELS} channels"
        )
    if few and found.shape[0] == few:
        found = found.T
    if found.dtype.kind not in "iu":
        if not np.isfinite(found).all():
            raise Unreadable("samples that are not finite")
        return np.rint(np.clip(found, -1, 1) * 32767).astype(np.int16)
    if found.size and (found.min() < -32768 or found.max() > 32767):
        raise Unreadable(
            f"whole numbers from {found.min():,} to {found.max():,}, more than 16 bits: give 16-bit values, or "
            "floats in [-1, 1]"
        )
    if found.size and found.min() >= 0 and 127 < found.max() < 256 and 64 < found.mean() < 192:
        raise Unreadable(
            f"whole numbers from {found.min()} to {found.max()} around {found.mean():.0f}, as unsigned 8-bit samples "
            "are: give 16-bit values, or floats in [-1, 1]"
        )
    return found.astype(np.int16)


def wav(samples: np.ndarray, rate: int) -> bytes:
    """int16 [n] or [n, channels] as a WAV file of 16 bits."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(samples.shape[1] if samples.ndim > 1 else 1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes() if sys.byteorder == "big" else samples.tobytes())
    return out.getvalue()
