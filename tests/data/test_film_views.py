"""Films in segments and crops: which frames and which pixels, what of them is learned from, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ssl_bench.cli.main import cli
from ssl_bench.config.schema import Config, DataConfig, RunConfig
from ssl_bench.data import films, twins
from ssl_bench.data.clips import Clips
from ssl_bench.data.dataset import Changed, open_data, open_test
from ssl_bench.data.images import Images, Item
from ssl_bench.data.pixels import Unreadable
from ssl_bench.errors import UserError
from tests.helpers.made_films import film, write_films


def read(pictures: Sequence[bytes], kind: Clips) -> tuple[np.ndarray, str]:
    pixels, _, odd, _ = kind.read(Item(list(pictures), "a", "here"), False)
    assert pixels.shape == kind.shape and pixels.dtype == np.uint8
    return pixels, odd


def decoded(pictures: Sequence[bytes]) -> np.ndarray:
    """[T, C, H, W] as the pictures have them."""
    return np.stack([np.asarray(Image.open(io.BytesIO(p))).transpose(2, 0, 1) for p in pictures])


@pytest.mark.parametrize(
    ("length", "frames", "step", "segments", "numbers"),
    [
        (16, 4, 0, 2, [0, 2, 5, 7, 8, 10, 13, 15]),
        (20, 2, 3, 2, [3, 6, 13, 16]),
        (7, 2, 0, 3, [0, 1, 2, 3, 4, 6]),
        (3, 2, 0, 5, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]),
        (1, 2, 1, 2, [0, 0, 0, 0]),
    ],
)
def test_each_equal_segment_has_frames_of_its_own(length, frames, step, segments, numbers):
    assert films.chosen(length, frames, step, segments) == numbers


@pytest.mark.parametrize("size", [(25, 16), (16, 25)])
def test_three_crops_lie_at_0_s_and_2s_along_the_longer_side(size: tuple[int, int]):
    """Of 25 pixels 9 are left beside a crop of 16, so s is 4."""
    pictures = film(0, 8, size)
    pixels, odd = read(pictures, Clips(2, 16, 16, segments=2, crops=3))
    whole = decoded(pictures)[[0, 3, 4, 7]].reshape(2, 2, 3, size[1], size[0])
    for i, start in enumerate((0, 4, 8)):
        cut = whole[..., start : start + 16] if size[0] > 16 else whole[..., start : start + 16, :]
        assert (pixels[i] == cut).all()
    assert (
        odd == "films to 2 x 2 frames, of each equal segment evenly from first to last, 3 crops along the longer side"
    )


def test_larger_films_are_made_smaller_first_and_turned_as_their_files_say():
    large = film(1, 2, (50, 32))
    pixels, _ = read(large, Clips(2, 16, 16, crops=3))
    whole = films.decode(large, Images(16, 25))[0]
    assert all((pixels[i, 0] == whole[..., 4 * i : 4 * i + 16]).all() for i in range(3))
    exif = Image.Exif()
    exif[films.ORIENTATION] = 6  # a quarter turn
    lying = film(2, 2, (25, 16), exif=exif)
    upright = np.rot90(decoded(lying), -1, (2, 3))
    pixels, _ = read(lying, Clips(2, 16, 16, crops=3))
    assert all((pixels[i, 0] == upright[..., 4 * i : 4 * i + 16, :]).all() for i in range(3))


def test_what_is_unusual_of_a_film_in_views_is_said():
    pixels, odd = read(film(0, 4, (16, 16)), Clips(2, 16, 16, segments=2, crops=3))
    assert "of the crops' form (all are one)" in odd and (pixels == pixels[:1]).all() and "too short" not in odd
    _, odd = read(film(0, 3), Clips(2, 16, 16, segments=2))
    assert "too short (frames repeated)" in odd and "crops" not in odd
    _, odd = read(film(0, 1) * 4, Clips(2, 16, 16, segments=2, crops=3))
    assert odd.endswith("still (all frames alike)")
    with pytest.raises(Unreadable, match="300 x 16 pixels, too long for crops along the longer side"):
        read(film(0, 2, (300, 16)), Clips(2, 16, 16, crops=3))
    for bad, why in (([b""], "zero bytes"), ([b"no picture"], "no image that Pillow knows"), ([], "without a frame")):
        with pytest.raises(Unreadable, match=why):
            read(bad, Clips(2, 16, 16, crops=3))


def data(root: Path, views: str = "", **more: object) -> DataConfig:
    name = f"folder:{root}#kind=clip{views}"
    return DataConfig(name, image_size=16, frames=2, val_fraction=0.25, **more)  # type: ignore[arg-type]


def whole(place: Path) -> np.ndarray:
    """[2, 2, C, H, W]: two frames of each half of a film of eight, uncut."""
    pixels = Clips(8, 16, 25).read(Item(place, "a", ""), False)[0]
    return pixels[[0, 3, 4, 7]].reshape(2, 2, 3, 16, 25)


@pytest.mark.parametrize("store", ["decoded", "encoded"])
def test_the_middle_crop_is_learned_from_and_test_items_have_all(tmp_path: Path, store: str):
    write_films(tmp_path)
    config = data(tmp_path, "#views=2x3")
    found = open_data(config, RunConfig(store=store))  # type: ignore[arg-type]
    assert found.item == Clips(2, 16, 16, segments=2, crops=3) == Clips.written(found.item.facts)
    assert found.item.told == "16 px, 2 segments x 3 crops" and found.item.grid(8, 2) == (1, 2, 2)
    middle = whole(tmp_path / "train" / "a" / "0")[..., 4:20]
    seen = np.concatenate([part.batch(slice(None)).numpy() for part in (found.train, found.val)])
    assert len(seen) == 16 and (seen == middle).all((1, 2, 3, 4, 5)).sum() == 1
    sealed = open_test(config)
    assert len(sealed) == 3 * 8 and sealed.batch(np.arange(2)).shape == (2, 2, 2, 3, 16, 16)
    items = sealed.batch(slice(None)).unflatten(0, (8, 3)).numpy()
    first = whole(tmp_path / "test" / "b" / "1")
    assert sum(all((item[i] == first[..., 4 * i : 4 * i + 16]).all() for i in range(3)) for item in items) == 1
    some = np.array([5, 0, 3, 4])
    assert (sealed.batch(some).numpy() == items.reshape(24, 2, 2, 3, 16, 16)[some]).all()


def test_one_segment_and_one_crop_is_the_same_set(tmp_path: Path):
    write_films(tmp_path)
    plain, one, two = (open_data(data(tmp_path, views)) for views in ("", "#views=1x1", "#views=2x1"))
    assert one.fingerprint == plain.fingerprint != two.fingerprint and one.item == plain.item == Clips(2, 16, 16)
    assert (one.train.batch(slice(None)) == plain.train.batch(slice(None))).all()
    assert one.notes == plain.notes and (one.mean, one.std) == (plain.mean, plain.std)


def test_controls_change_the_film_as_a_whole_and_all_its_crops_alike():
    kind = Clips(2, 4, 4, 1, segments=3, crops=3)
    numbers = np.array([range(6), range(106, 112)], np.uint8)
    stored = np.broadcast_to(numbers.reshape(2, 1, 3, 2, 1, 1, 1), (2, 3, 3, 2, 1, 4, 4))
    store, rows = kind.rows(stored, np.arange(2), every=True)
    plain = numbers.repeat(3, 0)

    def seen(control: str) -> np.ndarray:
        changed = Changed(store, kind, control)
        assert changed.shape == store.shape == (6, 3, 2, 1, 4, 4)
        return changed[rows][..., 0, 0, 0].reshape(6, 6)

    assert (store[rows][..., 0, 0, 0].reshape(6, 6) == plain).all()
    assert (seen("one frame") == plain[:, 3, None]).all() and (seen("reversed") == plain[:, ::-1]).all()
    mixed = seen("shuffled frames")
    assert (np.sort(mixed, 1) == plain).all() and not (mixed == plain).all(1).any()
    assert (mixed[:3] == mixed[0]).all() and (mixed[3:] == mixed[3]).all()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("#kind=clip#views=2x2", r"#views=2x2 is not read: write once SEGMENTSxCROPS.*#views=2x3"),
        ("#kind=clip#views=0x1", "1 to 99 segments"),
        ("#kind=clip#views=16x2x3", r"how many frames a segment has is data\.frames"),
        ("#kind=clip#views=2x1#views=2x3", "write once"),
        ("#kind=clip#views=2x3#masks=masks", "#views= is for films with labels, and #masks= is of masks"),
        ("#views=2x3", "#views= is of films, and 'folder:.*' has images: leave it, or add #kind=clip"),
    ],
)
def test_views_that_cannot_be_are_refused(tmp_path: Path, name: str, why: str):
    write_films(tmp_path)
    with pytest.raises(UserError, match=why):
        open_data(DataConfig(f"folder:{tmp_path}{name}", image_size=16, frames=2))


def test_sets_without_films_or_a_test_split_and_training_are_refused(tmp_path: Path):
    for name in ("movingphotos:0:40#views=2x1", "movingphotos#views=2x1", "cifar10#views=2x1"):
        with pytest.raises(UserError, match=r"#views= cuts films into segments and crops, and '\w+(:0:40)?' has none"):
            open_data(DataConfig(name))
    with pytest.raises(UserError, match="#views= is of films, and 'clothing48#views=2x1' has images"):
        open_data(DataConfig("clothing48#views=2x1"))
    with pytest.raises(UserError, match="training sees one clip of each: leave it out here"):
        Config("mae", None, data=DataConfig("folder:films#kind=clip#views=2x1")).check()
    write_films(tmp_path, splits=("all",))
    assert open_data(data(tmp_path / "all")).classes == ("a", "b")
    with pytest.raises(UserError, match=r"has no test split of its own, .* without #views="):
        open_data(data(tmp_path / "all", "#views=2x1"))


def test_data_check_leads_to_eval_and_not_to_training(tmp_path: Path):
    write_films(tmp_path)
    for views, begin in (
        ("", "compare --recipe clips --data"),
        ("#views=2x1", "eval RUN --protocol linear,attentive --data"),
    ):
        name = f"folder:{tmp_path}#kind=clip{views}"
        said = CliRunner().invoke(cli, ["data", "check", name, "data.frames=2", "--image-size", "16"]).output
        assert f"next: ssl-bench {begin} '{name}'" in " ".join(said.split())


def test_whether_test_films_were_pretrained_on_is_unknown_where_they_are_read_in_another_form(tmp_path: Path):
    write_films(tmp_path)
    for views, frames, count in (("#views=1x1", 2, 0), ("#views=2x1", 2, None), ("", 4, None)):
        name = f"folder:{tmp_path}#kind=clip{views}"
        tested = DataConfig(name, image_size=16, frames=frames, val_fraction=0.25)
        for config in (tested, data(tmp_path)):
            open_data(config)
        assert twins.with_pretraining(tested, data(tmp_path))["count"] == count
