"""The two stores: the same data set from both, built in pieces, by several processes, and once."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny
from PIL import Image

from ssl_bench.config.schema import DataConfig, RunConfig
from ssl_bench.data import images, source, store_build
from ssl_bench.data.dataset import notes, open_data, open_test
from ssl_bench.errors import UserError
from ssl_bench.training.pretrain import pretrain

ENCODED = RunConfig(store="encoded", workers=2)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and chunks small enough that the photographs make several."""
    monkeypatch.setenv("SSL_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(source, "CHUNK", 25)
    return tmp_path


def jpegs(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 8)):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
                coarse.resize((160, 120)).save(folder / split / name / f"{i}.jpg", quality=90)
    return folder


def test_both_stores_are_the_same_set(fresh: Path) -> None:
    config = DataConfig(f"folder:{jpegs(fresh / 'set')}", 16, 0.2)
    packed = open_data(config, ENCODED)
    sealed = open_test(config).batch(slice(None))
    plain = open_data(config, RunConfig(store="decoded"))
    assert packed.train.decodes and not plain.train.decodes
    assert packed.fingerprint == plain.fingerprint and packed.mean == plain.mean
    for a, b in ((packed.train, plain.train), (packed.val, plain.val)):
        assert torch.equal(a.labels, b.labels) and torch.equal(a.batch(slice(None)), b.batch(slice(None)))
    assert torch.equal(open_test(config).batch(slice(None)), sealed)


def test_what_is_decoded_ahead_changes_nothing(fresh: Path) -> None:
    split = open_data(DataConfig(f"folder:{jpegs(fresh / 'set')}", 16, 0.2), ENCODED).train
    rng = np.random.default_rng(0)
    asked = [rng.integers(0, len(split), 9) for _ in range(8)]
    expected = [split.batch(rows) for rows in asked]
    for rows in reversed(asked):  # more than are kept, in another order
        split.ahead(rows)
    assert all(torch.equal(split.batch(rows), want) for rows, want in zip(asked, expected, strict=True))


def test_training_is_the_same_from_both_stores(photos: Path, fresh: Path) -> None:
    weights = []
    for kind in ("decoded", "encoded"):
        config = tiny("simsiam", f"folder:{photos}", steps=12)
        run = pretrain(replace(config, run=replace(config.run, store=kind)), fresh / kind)
        weights.append((run.folder / "encoder.safetensors").read_bytes())
    assert len(list((fresh / "cache" / "stores").glob("*-*coded"))) == 2
    assert weights[0] == weights[1]


def test_a_build_goes_on_where_it_stopped(photos: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, read = DataConfig(f"folder:{photos}", 24, 0.2), images.read
    calls = []

    def stops(item: source.Item, *rest: object) -> object:
        calls.append(item)
        if len(calls) == 60:
            raise KeyboardInterrupt
        return read(item, *rest)

    monkeypatch.setattr(images, "read", stops)
    with pytest.raises(KeyboardInterrupt):
        open_data(config)
    whole = open_data(config)
    assert len(calls) == 60 + 156 - 50, "two chunks of 25 were there"
    monkeypatch.setenv("SSL_BENCH_CACHE", str(fresh / "other"))
    assert open_data(config).fingerprint == whole.fingerprint


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="helpers need a second core")
def test_helpers_build_the_same_store(photos: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(f"folder:{photos}", 24, 0.2)
    alone = open_data(config).fingerprint
    monkeypatch.setenv("SSL_BENCH_CACHE", str(fresh / "other"))
    monkeypatch.setattr(store_build, "ALONE", 50)
    started = []
    popen = store_build.subprocess.Popen
    monkeypatch.setattr(store_build.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    assert open_data(config).fingerprint == alone
    assert started and all(helper.poll() is not None for helper in started)


def test_a_changed_file_changes_the_fingerprint(photos: Path, fresh: Path) -> None:
    folder = jpegs(fresh / "set")
    config = DataConfig(f"folder:{folder}", 16, 0.2)
    before = open_data(config).fingerprint
    Image.new("RGB", (20, 20), (9, 9, 9)).save(folder / "train" / "a" / "0.jpg")
    assert open_data(config).fingerprint != before


def test_a_limit_given_once_holds_for_this_state_of_the_set(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = jpegs(fresh / "set")
    (folder / "train" / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    config = DataConfig(f"folder:{folder}", 16, 0.2)
    with pytest.raises(UserError, match=r"1 of 77 images .* 1.30%, more than run.bad_limit=0.001"):
        open_data(config)
    assert len(open_data(config, RunConfig(bad_limit=0.05)).train) == 48
    assert "1 unreadable image left out" in " ".join(capsys.readouterr().out.split())
    assert len(open_data(config).train) == 48, "an evaluation of that run goes on"
    (folder / "train" / "b" / "broken.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="2 of 78 images"):
        open_data(config)


def test_test_images_among_the_training_images_are_reported(fresh: Path) -> None:
    folder = jpegs(fresh / "set")
    (folder / "train" / "b" / "twin.jpg").write_bytes((folder / "test" / "a" / "3.jpg").read_bytes())
    (folder / "train" / "b" / "again.jpg").write_bytes((folder / "train" / "a" / "3.jpg").read_bytes())
    said = " ".join(notes(DataConfig(f"folder:{folder}", 16, 0.2)))
    assert "1 of 16 test images are also in the training split" in said
    assert "1 training images repeat" in said


def test_a_damaged_store_is_named(fresh: Path) -> None:
    config = DataConfig(f"folder:{jpegs(fresh / 'set')}", 16, 0.2)
    open_data(config, ENCODED)
    for path in (fresh / "cache" / "stores").rglob("*.pack"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match="could be read when the store was built"):
        open_data(config).train.batch([0])


def test_a_jpeg_is_decoded_at_a_smaller_scale_where_it_may_be() -> None:
    from ssl_bench.data.images import decode, square

    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).resize((768, 768))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95)
    reduced, _ = decode(buffer.getvalue(), square(24))
    full = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).resize((24, 24), Image.Resampling.BICUBIC))
    assert np.abs(reduced.transpose(1, 2, 0).astype(int) - full).max() <= 6


def test_a_refused_set_leaves_nothing_on_disk(fresh: Path) -> None:
    few = fresh / "few" / "a"
    few.mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (9, 9), (i, 0, 0)).save(few / f"{i}.png")
    with pytest.raises(UserError, match="Too few images"):
        open_data(DataConfig(f"folder:{fresh / 'few'}", 16))
    for path in few.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match="No image of"):
        open_data(DataConfig(f"folder:{fresh / 'few'}", 16))
    assert not list((fresh / "cache" / "stores").iterdir())


def test_a_refused_set_is_left_to_another_process_that_builds_it(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"folder:{jpegs(fresh / 'set')}"
    claim, held = store_build._claim, []
    monkeypatch.setattr(store_build, "_claim", lambda lock, at: claim(lock, at) and not held)
    held.append("as long as the other is there")
    monkeypatch.setattr(store_build.Build, "_build", lambda self, lock: (_ for _ in ()).throw(UserError("refused")))
    with pytest.raises(UserError, match="refused"):
        open_data(DataConfig(name, 16))
    assert list((fresh / "cache" / "stores").iterdir())


def test_both_stores_show_what_is_transparent_over_the_background_asked_for(fresh: Path) -> None:
    for i in range(24):
        place = fresh / "set" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (16, 16), (200, i, 0, 0)).save(place / f"{i}.png")
    config = DataConfig(f"folder:{fresh / 'set'}", 16, 0.2, background=(0, 40, 80))
    for run in (RunConfig(store="decoded"), ENCODED):
        data = open_data(config, run)
        assert data.train.batch(np.arange(len(data.train))).unique(dim=0)[:, :, 0, 0].tolist() == [[0, 40, 80]]
