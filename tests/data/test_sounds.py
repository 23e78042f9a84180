"""Sounds as items: what is read, what is said of it, and that no speaker stands on two sides of a split."""

from __future__ import annotations

import re
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from ssl_bench.cli.data import command
from ssl_bench.config.overrides import resolve
from ssl_bench.config.schema import DataConfig, RunConfig, identity, to_dict
from ssl_bench.config.sound import MelConfig
from ssl_bench.data import catalogue, items, registry
from ssl_bench.data.dataset import open_data, open_test
from ssl_bench.data.images import Item
from ssl_bench.data.pixels import Unreadable
from ssl_bench.data.sounds import Sounds, decoded, wav
from ssl_bench.errors import UserError

MEL = MelConfig(rate=8000, window_ms=32)
KIND = Sounds(16, 24, MEL)  # 2,096 samples
DIGITS = DataConfig("fsdd30", image_size=24, mel=MEL)


def tone(hertz: float = 440, seconds: float = 0.262, rate: int = 8000, loud: float = 0.5) -> np.ndarray:
    return np.rint(loud * 32767 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.int16)


def read(data: bytes) -> tuple[np.ndarray, str]:
    stored, _, odd, _ = KIND.read(Item(data, "a", "here"), keep_bytes=False)
    assert stored.dtype == np.int16 and stored.shape == KIND.shape
    return stored, odd


def test_a_description_is_read_back():
    for kind in (KIND, Sounds(64, 64, MEL), Sounds(128, 1024), Sounds(8, 8, replace(MEL, peak=True))):
        assert items.written(kind.facts) == kind
    assert KIND.shape == (2096,) and KIND.places == 16 * 24 and KIND.channels == 1 and KIND.grid(8) == (2, 3)
    assert registry.item(DIGITS) == Sounds(24, 24, MEL)


def test_a_wave_file_of_16_bits_is_stored_as_it_is_without_soundfile(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    stored, odd = read(wav(tone(), 8000))
    assert (stored == tone()).all() and odd == ""
    assert (KIND.decode(wav(tone(), 8000)) == stored).all()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_whole_numbers_of_every_width_are_read(width):
    values = tone().astype(np.int64) << 16
    raw = values.astype("<i4").view(np.uint8).reshape(-1, 4)[:, 4 - width :]
    raw = raw ^ 0x80 if width == 1 else raw
    head = struct.pack("<HHIIHH", 1, 1, 8000, 8000 * width, width, 8 * width)
    body = b"fmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", raw.size) + raw.tobytes()
    stored, _ = read(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body)
    assert np.abs(stored.astype(int) - tone()).max() <= (256 if width == 1 else 1)


@pytest.mark.parametrize(("samples", "rate", "says"), [
    (tone(seconds=0.1), 8000, "shorter (silence added)"), (tone(seconds=1), 8000, "longer (cut at the end)"),
    (np.zeros(2096, np.int16), 8000, "silent"), (tone(loud=4.0).clip(-32768, 32767), 8000, ""),
    (np.stack([tone(), 0 * tone()], 1), 8000, "of several channels (their mean)"),
    (tone(rate=16000), 16000, "resampled from 16,000 Hz"), (np.sign(tone()) * 32767, 8000, "clipped"),
])  # fmt: skip
def test_what_is_unusual_is_said(samples, rate, says):
    assert read(wav(samples.astype(np.int16), rate))[1] == says


def test_what_is_done_about_it():
    short = read(wav(tone(seconds=0.1), 8000))[0]
    assert (short[:800] == tone(seconds=0.1)).all() and not short[800:].any()
    again = Sounds(16, 24, replace(MEL, fill="repeat")).read(Item(wav(tone(seconds=0.1), 8000), "a", "here"), False)
    assert again[2] == "shorter (repeated)" and (again[0] == np.tile(tone(seconds=0.1), 3)[:2096]).all()
    loudest = Sounds(16, 24, replace(MEL, peak=True))
    found = loudest.read(Item(wav(tone(loud=0.1) + 500, 8000), "a", "here"), False)[0].astype(int)
    assert np.abs(found).max() >= 32767 and abs(found.mean()) < 5
    assert not loudest.read(Item(wav(np.full(2096, 7, np.int16), 8000), "a", "here"), False)[0].std()
    assert (read(wav(tone(seconds=1), 8000))[0] == tone(seconds=1)[:2096]).all()
    assert (read(wav(np.stack([tone(), 0 * tone()], 1), 8000))[0] - tone() / 2).max() <= 0.5
    other = read(wav(tone(rate=16000), 16000))[0].astype(int)
    assert np.abs(other - tone())[50:-50].max() < 200  # of 16,383: the filter's ripple


@pytest.mark.parametrize(("data", "says"), [
    (wav(np.zeros(0, np.int16), 8000), "no samples"), (b"", "zero bytes"), (b"\x89PNG....", "not a sound file"),
    (wav(tone(), 8000)[:500], "where its head says|too early"), (b"RIFF\0\0\0\0WAVE", "damaged WAV|too early"),
])  # fmt: skip
def test_what_cannot_be_read_says_why(data, says):
    with pytest.raises(Unreadable, match=says):
        KIND.read(Item(data, "a", "here"), keep_bytes=False)


def test_other_formats_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UserError, match=r"pip install 'ssl-bench\[audio\]'"):
        decoded(b"fLaC" + bytes(40))


def test_soundfile_reads_what_it_has_written():
    soundfile = pytest.importorskip("soundfile")
    import io

    out = io.BytesIO()
    soundfile.write(out, tone(), 8000, format="FLAC")
    assert (read(out.getvalue())[0] == tone()).all()
    with pytest.raises(Unreadable, match="soundfile"):
        KIND.read(Item(out.getvalue()[:60], "a", "here"), keep_bytes=False)


def test_cells_of_tables_hold_files_or_samples():
    assert Sounds.cell(b"x") == (b"x", "") and Sounds.cell({"bytes": b"x", "path": "a.wav"}) == (b"x", "a.wav")
    data, name = Sounds.cell({"array": tone().tolist(), "sampling_rate": 8000, "path": "a.wav"})
    assert (read(data)[0] == tone()).all() and name == "a.wav"
    floats = Sounds.cell({"array": (tone() / 32767).tolist(), "sampling_rate": 8000})[0]
    assert (read(floats)[0] == tone()).all()
    for wrong in ({"array": [0, 1], "sampling_rate": None}, {"array": [[0], [1, 2]], "sampling_rate": 8000}):
        assert isinstance(Sounds.cell(wrong)[0], Unreadable)


@pytest.mark.parametrize("bits", [17, 24, 32])
def test_whole_numbers_of_more_than_16_bits_in_a_table_are_refused(bits):
    """They were wrapped to 16 bits: noise in place of the wave."""
    for wide in (tone().astype(np.int64) << (bits - 15), np.full(2096, 2**63, np.uint64)):
        found, name = Sounds.cell({"array": wide, "sampling_rate": 8000, "path": "a.wav"})
        assert isinstance(found, Unreadable) and name == "a.wav"
        assert "more than 16 bits: give 16-bit values, or floats in [-1, 1]" in str(found)
    edges = Sounds.cell({"array": [-32768, 32767] * 1048, "sampling_rate": 8000})[0]
    assert read(edges)[0][:2].tolist() == [-32768, 32767]
    unsigned = Sounds.cell({"array": tone().clip(0).astype(np.uint64), "sampling_rate": 8000})[0]
    assert (read(unsigned)[0] == tone().clip(0)).all()


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_the_channels_of_a_table_may_be_first_or_last(channels, whole):
    parts = np.stack([tone() // (i + 1) for i in range(channels)])
    given = parts if whole else parts / 32767
    for array in (given, given.T):
        samples, rate = decoded(Sounds.cell({"array": array.tolist(), "sampling_rate": 8000})[0])
        assert rate == 8000 and np.array_equal(np.rint(samples * 32768), parts.T)


@pytest.mark.parametrize(("value", "says"), [
    ({"array": np.zeros((9, 8000))}, r"shape \(9, 8000\): give \[samples\], or"),
    ({"array": np.zeros((80000, 9))}, r"shape \(80000, 9\)"), ({"array": np.zeros((4, 40))}, r"shape \(4, 40\)"),
    ({"array": [0.1, float("nan")]}, "not finite"),
    ({"array": np.uint8(tone() // 256 + 128)}, "from 64 to 192 around 128, as unsigned 8-bit samples are"),
    ({"array": np.zeros((2, 2, 8000))}, r"shape \(2, 2, 8000\)"), ({"array": 5}, r"shape \(\)"),
    ({"array": [[], []]}, r"shape \(2, 0\)"), ({"array": [0.5], "sampling_rate": 3e9}, "no samples with their rate"),
    ({"array": [0.5], "sampling_rate": float("inf")}, "no samples with their rate"),
])  # fmt: skip
def test_arrays_of_a_table_that_are_surely_no_sound_say_why(value, says):
    found, _ = Sounds.cell({"sampling_rate": 8000, **value})
    assert isinstance(found, Unreadable) and re.search(says, str(found)), found


def test_an_array_without_samples_is_told_when_it_is_read():
    with pytest.raises(Unreadable, match="no samples"):
        read(Sounds.cell({"array": [], "sampling_rate": 8000})[0])


def test_the_embedded_digits_are_split_by_speaker():
    data = open_data(DataConfig("fsdd30", image_size=64, mel=MEL))
    assert data.fingerprint == "3919a8a890a70f95" and data.classes == tuple("0123456789")
    assert (len(data.train), len(data.val), len(open_test(data.config))) == (450, 150, 300)  # 3, 1 and 2 speakers
    assert catalogue.entries()["fsdd30"]["mean"] == list(data.mean)
    shown = data.item.floats(torch.cat([data.train.batch(slice(None)), data.val.batch(slice(None))]))
    assert shown.shape == (600, 1, 64, 64) and shown.min() >= 0 and shown.max() <= 1
    assert float(shown.mean()) == pytest.approx(data.mean[0], abs=1e-4)
    assert float(shown.std()) == pytest.approx(data.std[0], abs=1e-4)
    size = sum(p.stat().st_size for p in catalogue.EMBEDDED["fsdd30"].iterdir())
    assert size < 4e6 and (catalogue.EMBEDDED["fsdd30"] / "LICENSE.md").exists()
    for split, speakers in (("train", {"george", "jackson", "lucas", "nicolas"}), ("test", {"theo", "yweweler"})):
        table = pq.read_table(catalogue.EMBEDDED["fsdd30"] / f"{split}.parquet", columns=["group"])
        assert set(table["group"].to_pylist()) == speakers


def test_official_folds_are_test_splits_and_keep_speakers_whole():
    at = {fold: replace(DIGITS, name=f"fsdd30#fold=fold:{fold}") for fold in (0, 2)}
    first, last = (open_data(at[fold]) for fold in at)
    assert len(first.train) == 450 and len(open_test(at[0])) == 300 and first.fingerprint != last.fingerprint
    usual = open_data(DIGITS)
    assert last.fingerprint == usual.fingerprint and "the rows where fold is 2" in str(
        registry.find(at[2].name).content().read
    )
    for wrong, says in (("speakers:2", "fold=COLUMN:VALUE"), ("fold:7", "no row"), ("fold", "COLUMN:VALUE")):
        with pytest.raises(UserError, match=says):
            open_data(replace(DIGITS, name=f"fsdd30#fold={wrong}"))
    with pytest.raises(UserError, match=r"leave #train="):
        open_data(replace(DIGITS, name="fsdd30#splits=none#fold=fold:1"))


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of tones: low, middle, high; the file's name tells the recording it was cut from."""
    root = tmp_path_factory.mktemp("tones")
    for name, hertz in (("low", 200), ("middle", 500), ("high", 1500)):
        (root / name).mkdir()
        for i in range(16):
            (root / name / f"take{i // 2}_{i % 2}.wav").write_bytes(wav(tone(hertz + i), 8000))
    return root


@pytest.mark.parametrize("store", ["decoded", "encoded"])
def test_folders_of_class_folders_keep_recordings_whole(tones, store):
    config = DataConfig(f"folder:{tones}#kind=sound#group=[a-z]+/take\\d+", (16, 24), 0.2, mel=MEL)
    data = open_data(config, RunConfig(store=store))
    assert data.item == KIND and data.classes == ("high", "low", "middle") and len(data.train) + len(data.val) < 48
    files = [{f.decode().partition("_")[0] + str(int(y)) for f, y in zip(s.files, s.labels, strict=True)}
             for s in (data.train, data.val)]  # fmt: skip
    assert files[0] and files[1] and not files[0] & files[1]
    rows = data.item.floats(data.train.batch(np.arange(len(data.train)))).mean(3)[:, 0].argmax(1)
    assert all(rows[data.train.labels == 1] < 4) and all(rows[data.train.labels == 0] > 8)


def test_a_folder_read_as_images_says_which_kind_it_is(tones):
    with pytest.raises(UserError, match=r"#kind=sound after the data's name reads .wav"):
        open_data(DataConfig(f"folder:{tones}", 24))


def test_a_check_tells_what_to_type_next_and_draws_spectrograms(tones, tmp_path):
    words = [f"folder:{tones}#kind=sound", "data.image_size=16x24", "data.mel.rate=8000", "data.mel.window_ms=32"]
    done = CliRunner().invoke(command, ["check", *words, "--sheet", str(tmp_path / "sheet.png")])
    assert done.exit_code == 0 and "16 mel bands x 24 frames, 0.26 s of 8,000 Hz" in done.output, done.output
    flat = " ".join(done.output.split())
    assert "--recipe sound" in flat and "data.mel.rate=8000 data.mel.window_ms=32" in flat
    assert Image.open(tmp_path / "sheet.png").size[1] >= 3 * 16


def test_broken_sounds_are_counted_and_named(tones, tmp_path):
    rows = [(p.read_bytes(), p.parent.name, p.stem.partition("_")[0] + p.parent.name) for p in tones.rglob("*.wav")]
    rows.append((b"RIFF\0\0\0\0WAVE", "low", "take0low"))
    columns = dict(zip(("audio", "label", "group"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "all.parquet")
    config = DataConfig(f"parquet:{tmp_path}/all.parquet#kind=sound", (16, 24), 0.2, mel=MEL)
    with pytest.raises(UserError, match=r"1 of 49 .*row 48.*damaged WAV|1 of 49 .*row 48.*too early"):
        open_data(config)
    data = open_data(config, RunConfig(bad_limit=0.05))
    assert any("1 unreadable" in note for note in data.notes)


@pytest.mark.parametrize(("setting", "says"), [
    ("data.channels=1", "data.channels has no effect on the sounds"), ("data.frames=4", "data.frames has no effect"),
    ("data.mel.rate=10", "data.mel.rate"), ("data.mel.high=9000", "half of"), ("data.mel.hop_ms=0", "hop_ms"),
    ("data.mel.hops=1", "Did you mean"), ("data.image_size=60x64", "patch_size"),
])  # fmt: skip
def test_settings_that_cannot_be_are_one_sentence(setting, says):
    from methods.audiojepa import quick

    with pytest.raises(UserError, match=says):
        registry.item(resolve(quick(), [setting]).data)


def test_settings_of_sounds_mean_nothing_to_images_and_change_no_identity():
    from methods.mae import quick, sound

    with pytest.raises(UserError, match=r"data\.mel has no effect on the images of 'clothing48'"):
        registry.item(resolve(quick(), ["data.mel.rate=8000"]).data)
    assert "mel" not in to_dict(quick())["data"] and identity(quick()) == "5c1d6b93dd6a"
    changed = [resolve(sound(), [s]) for s in ("data.mel.low=50", "data.mel.window=povey", "data.image_size=64x32")]
    assert len({identity(c) for c in [sound(), *changed]}) == 4
    assert replace(sound().data, mel=MelConfig()) != sound().data
