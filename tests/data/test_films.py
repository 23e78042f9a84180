"""Films in every layout: the frames that are chosen, what is refused and how it is named, the same set from each."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ssl_bench.config.schema import DataConfig, RunConfig
from ssl_bench.data import films
from ssl_bench.data.clips import Clips
from ssl_bench.data.dataset import Dataset, open_data
from ssl_bench.data.images import Item
from ssl_bench.data.pixels import Unreadable
from ssl_bench.errors import UserError

KIND = Clips(4, 16, 16)
with_av = pytest.mark.skipif(
    not importlib.util.find_spec("av"), reason="PyAV is not installed: pip install 'ssl-bench[video]'"
)


def frame(shade: int, size: tuple[int, int] = (24, 16), form: str = "PNG") -> bytes:
    """A picture whose left half is `shade` and whose right half is black."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2] = shade
    Image.fromarray(pixels).save(out := io.BytesIO(), form)
    return out.getvalue()


def film(first: int, length: int) -> list[bytes]:
    return [frame(first + 2 * i) for i in range(length)]


def shades(film: object, kind: Clips = KIND) -> list[int]:
    pixels, _, _, _ = kind.read(Item(film, "a", "here"), False)  # type: ignore[arg-type]
    assert pixels.shape == kind.shape and pixels.dtype == np.uint8
    return [int(p[0, 0, 0]) for p in pixels]


def odd(film: object, kind: Clips = KIND) -> str:
    return kind.read(Item(film, "a", "here"), False)[2]  # type: ignore[arg-type]


def test_the_frames_of_a_clip():
    assert films.chosen(100, 8, 0) == [0, 14, 28, 42, 57, 71, 85, 99]
    assert films.chosen(100, 8, 4) == [35, 39, 43, 47, 51, 55, 59, 63]
    assert films.chosen(8, 8, 0) == films.chosen(8, 8, 1) == list(range(8))
    assert films.chosen(3, 8, 0) == [0, 0, 1, 1, 1, 1, 2, 2] and films.chosen(3, 4, 2) == [0, 2, 2, 2]
    assert films.chosen(1, 4, 0) == [0] * 4
    assert not films.too_short(8, 8, 0) and films.too_short(7, 8, 0)
    assert not films.too_short(29, 8, 4) and films.too_short(28, 8, 4)


def test_frames_are_taken_evenly_or_by_a_step_and_both_are_said():
    assert shades(film(10, 10)) == [10, 16, 22, 28]
    assert odd(film(10, 10)) == "films to 4 frames, evenly from first to last"
    step = Clips(4, 16, 16, frame_step=2)
    assert shades(film(10, 10), step) == [12, 16, 20, 24]
    assert odd(film(10, 10), step) == "films to 4 frames, every 2. frame of the middle"
    assert odd(film(10, 3)).endswith("and too short (frames repeated)")


def test_a_folder_of_frames_is_in_natural_order(tmp_path: Path):
    for i, picture in enumerate(film(10, 12)):
        (tmp_path / f"frame{i}.png").write_bytes(picture)
    (tmp_path / "notes.txt").write_text("no frame")
    assert shades(tmp_path, Clips(12, 16, 16)) == [10 + 2 * i for i in range(12)]


def test_an_animation_needs_no_extra(tmp_path: Path):
    pictures = [Image.open(io.BytesIO(f)) for f in film(10, 5)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=40, disposal=2)
    assert shades(tmp_path / "a.gif", Clips(5, 16, 16)) == [10, 12, 14, 16, 18]
    assert shades((tmp_path / "a.gif").read_bytes(), Clips(5, 16, 16)) == [10, 12, 14, 16, 18]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ([], "a film without a frame"),
        (b"", "zero bytes"),
        ([frame(1), b"", frame(3), frame(4)], "a frame of zero bytes"),
        ([frame(1), b"no picture", frame(3), frame(4)], "no image that Pillow knows"),
        ([frame(1), frame(2), frame(3), frame(4, (16, 24))], r"frames of several sizes \(\(16, 24\) and \(24, 16\)\)"),
        ([frame(1, form="JPEG")[:200]] * 4, "[Tt]runcated"),
        (Unreadable("no bytes"), "no bytes"),
    ],
)
def test_a_bad_film_is_named(bad: object, why: str):
    with pytest.raises(Unreadable, match=why):
        KIND.read(Item(bad, "a", "here"), False)  # type: ignore[arg-type]


def test_portrait_films_lose_top_and_bottom():
    tall = [frame(10 + 2 * i, (16, 40)) for i in range(4)]
    assert shades(tall) == [10, 12, 14, 16]


def write(root: Path, layout: str) -> str:
    """Two classes of six clips each, as folders of frames, a parquet file or a tar file."""
    rows = [(f"{label}", film(10 * i + 3 * (label == "b"), 4 + i)) for i in range(6) for label in ("a", "b")]
    root.mkdir()
    if layout == "folder":
        for n, (label, pictures) in enumerate(rows):
            (place := root / label / f"clip{n}").mkdir(parents=True)
            for i, picture in enumerate(pictures):
                (place / f"{i}.png").write_bytes(picture)
        return f"folder:{root}#kind=clip"
    if layout == "parquet":
        table = {"frames": [p for _, p in rows], "label": [label for label, _ in rows]}
        pq.write_table(pa.table(table), root / "train.parquet")
        return f"parquet:{root}#kind=clip"
    with tarfile.open(root / "train.tar", "w") as tar:
        for n, (label, pictures) in enumerate(rows):
            members = {f"{n:03d}.{i}.png": p for i, p in enumerate(pictures)} | {f"{n:03d}.cls": label.encode()}
            for name, data in members.items():
                (told := tarfile.TarInfo(name)).size = len(data)
                tar.addfile(told, io.BytesIO(data))
    return f"webdataset:{root}#kind=clip"


def opened(name: str, **settings: object) -> Dataset:
    config = DataConfig(name, image_size=16, frames=4, val_fraction=0.25, **settings)  # type: ignore[arg-type]
    return open_data(config, RunConfig(bad_limit=0.5))


def test_three_layouts_are_one_set(tmp_path: Path):
    made = [opened(write(tmp_path / layout, layout)) for layout in ("folder", "parquet", "webdataset")]
    assert len({data.fingerprint for data in made}) == 1
    assert made[0].item == KIND and made[0].classes == ("a", "b")
    assert "12 films to 4 frames, evenly from first to last" in " ".join(made[0].notes)
    again = opened(f"folder:{tmp_path}/folder#kind=clip", frame_step=1)
    assert again.fingerprint != made[0].fingerprint and "every 1. frame" in " ".join(again.notes)


def test_bad_films_are_counted_and_pictures_beside_films_are_not_frames(tmp_path: Path):
    name = write(tmp_path / "set", "folder")
    (tmp_path / "set" / "a" / "empty.gif").write_bytes(b"")
    (tmp_path / "set" / "a" / "poster.png").write_bytes(frame(3))
    (tmp_path / "set" / "b" / "clip1" / "2.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"2 of 13 images .* cannot be read"):
        open_data(DataConfig(name, image_size=16, frames=4, val_fraction=0.25))
    notes = " ".join(opened(name).notes)
    assert "2 unreadable images left out" in notes and "zero bytes" in notes and "a frame that is no image" in notes
    assert "Not read, for their suffix: 1 .png" in notes


def test_settings_that_choose_no_frame_are_refused():
    with pytest.raises(UserError, match="clips made here"):
        opened("movingphotos:0:40", frame_step=2)
    with pytest.raises(UserError, match="no effect on the images"):
        opened("clothing48", frame_step=2)
    with pytest.raises(UserError, match="between 0"):
        DataConfig(frame_step=-1).check()


def test_without_the_extra_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(100))
    with pytest.raises(UserError, match=r"pip install 'ssl-bench\[video\]'"):
        KIND.read(Item(tmp_path / "a.mp4", "a", "here"), False)


def write_film(path: Path, length: int, gaps: bool = False) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for i in range(length):
            made = av.VideoFrame.from_image(Image.open(io.BytesIO(frame(40 + 20 * i, (48, 32)))))
            made.pts = i * (1 + 3 * (gaps and i > length // 2))
            container.mux(stream.encode(made))
        container.mux(stream.encode())


@with_av
def test_films_in_files(tmp_path: Path):
    write_film(tmp_path / "a.mp4", 10)
    assert shades(tmp_path / "a.mp4") == pytest.approx([40, 100, 160, 220], abs=6)
    assert shades((tmp_path / "a.mp4").read_bytes()) == shades(tmp_path / "a.mp4")
    write_film(tmp_path / "b.mp4", 10, gaps=True)
    assert "of variable rate" in odd(tmp_path / "b.mp4") and "variable" not in odd(tmp_path / "a.mp4")
    (tmp_path / "c.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:400])
    (tmp_path / "d.avi").write_bytes(b"no film at all" * 20)
    (tmp_path / "e.mp4").write_bytes(b"")
    for name in ("c.mp4", "d.avi", "e.mp4"):
        with pytest.raises(Unreadable, match=r"FFmpeg|zero bytes|can be decoded"):
            KIND.read(Item(tmp_path / name, "a", "here"), False)
