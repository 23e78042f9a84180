"""A film, in whatever form a source gives it -> the pictures of a clip: which of its frames, and how they are decoded.

Forms: a folder of pictures in the order of their names (frame2 before frame10), a list of encoded pictures, an animated
picture (Pillow), a film file (PyAV, the extra `video`). Frames are chosen by number: a film of variable rate is read as
its frames follow one another, and a remark says so. No torch in here.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ssl_bench.data import images
from ssl_bench.data.images import Images
from ssl_bench.data.pixels import Unreadable
from ssl_bench.data.source import natural
from ssl_bench.errors import UserError

ANIMATED = frozenset({".gif", ".apng"})  # read by Pillow
FILMS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv", ".3gp"})
FRAMES = frozenset(images.SUFFIXES - ANIMATED)  # of the pictures in a folder that is one film
MAX_FRAMES = 1_000_000  # of one film: 9 hours at 30 a second
MAX_LONG = 16  # times the crop's side that a film's longer side may have: of all of it three crops are kept
ORIENTATION = 0x0112  # Exif; above 4 width and height change places
MISSING = (
    "Films in files ({suffix}) are decoded by PyAV, which is not installed: pip install 'ssl-bench[video]'. Folders of "
    "frames, parquet lists of encoded frames and animated GIFs need nothing more."
)

Picture = bytes | Path | Image.Image


def chosen(length: int, frames: int, step: int, segments: int = 1) -> list[int]:
    """Numbers of the frames of a film of `length` that make a clip, or a clip of each of so many equal segments.

    Step 0: evenly from the first to the last one (`linspace`, rounded to the nearest). Else every `step`-th, the middle
    of the clip at the middle of the film. Of a film that is too short, step 0 repeats frames, and a stride its last
    one, as VideoMAE's loader does.
    """
    if segments > 1:
        ends = [i * length // segments for i in range(segments + 1)]  # a segment without a frame shows the next one
        each = [(a, chosen(max(1, b - a), frames, step)) for a, b in pairwise(ends)]
        return [a + number for a, numbers in each for number in numbers]
    if step == 0:
        return [int(i) for i in np.rint(np.linspace(0, length - 1, frames))]
    first = max(0, (length - 1 - (frames - 1) * step) // 2)
    return [min(first + i * step, length - 1) for i in range(frames)]


def too_short(length: int, frames: int, step: int) -> bool:
    """Whether `chosen` has to show a frame twice."""
    return length < (frames - 1) * max(step, 1) + 1


def pictures(film: Any, frames: int, step: int, segments: int = 1) -> tuple[list[Picture], int, str]:
    """The chosen pictures of a film, its number of frames, and what was unusual. `Unreadable` says why there are none.

    `film`: a folder, a film file, the bytes of one, or a list of encoded pictures.
    """
    if isinstance(film, Path) and film.is_dir():
        film = sorted((p for p in film.iterdir() if p.suffix.lower() in FRAMES and p.name[0] != "."), key=_by_name)
    if isinstance(film, Sequence) and not isinstance(film, bytes):
        if not film:
            raise Unreadable("a film without a frame")
        return [film[i] for i in chosen(len(film), frames, step, segments)], len(film), ""
    if isinstance(film, Path) and film.stat().st_size > images.MAX_BYTES * 16:
        raise Unreadable(f"{film.stat().st_size:,} bytes, more than {images.MAX_BYTES * 16:,}")
    if not (film.stat().st_size if isinstance(film, Path) else film):
        raise Unreadable("zero bytes")
    with open(film, "rb") if isinstance(film, Path) else io.BytesIO(film) as file:
        if (animated := _animated(file)) is not None:
            count = int(getattr(animated, "n_frames", 1))
            return [_seek(animated, i) for i in chosen(count, frames, step, segments)], count, ""
        file.seek(0)
        suffix = film.suffix if isinstance(film, Path) else "as bytes"
        return _decoded(file, suffix, frames, step, segments)


def uncut(picture: Picture, kind: Images) -> Images:
    """The size at which the whole of a film's picture covers `kind`: one side is as long, the other no shorter."""
    opened = _opened(picture)
    width, height = opened.size[::-1] if opened.getexif().get(ORIENTATION, 1) > 4 else opened.size
    scale = max(kind.height / height, kind.width / width)
    if max(scale * height / kind.height, scale * width / kind.width) > MAX_LONG:
        raise Unreadable(f"{width} x {height} pixels, too long for crops along the longer side")
    return replace(kind, height=round(scale * height), width=round(scale * width))


def crops(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """[3, T, C, height, width] of pictures [T, C, H, W]: at 0, s and 2 s along the longer side, s half of what is left.

    So V-JEPA's and VideoMAE's evaluations cut three views.
    """
    down, right = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2
    starts = [(i * down, i * right) for i in range(3)]
    return np.stack([pixels[..., y : y + height, x : x + width] for y, x in starts])


def decode(found: Sequence[Picture], kind: Images) -> tuple[np.ndarray, str, tuple[str, tuple[int, int]]]:
    """uint8 [T, C, H, W] of pictures of one size, all cut and resized alike; what was unusual, and their form."""
    frames, forms = list[np.ndarray](), list[tuple[str, tuple[int, int]]]()
    remarks, known = dict[str, None](), dict[int, int]()
    for picture in found:
        if id(picture) in known:  # a film that is too short shows one picture several times
            frames.append(frames[known[id(picture)]])
            continue
        pixels, odd, form = _one(picture, kind)
        known[id(picture)] = len(frames)
        frames.append(pixels)
        forms.append(form)
        remarks |= dict.fromkeys(filter(None, odd.replace("blank (one single colour)", "").split(" and ")))
    if len(sizes := sorted({size for _, size in forms})) > 1:
        raise Unreadable(f"frames of several sizes ({sizes[0]} and {sizes[-1]})")
    return np.stack(frames), " and ".join(remarks), forms[0]


def _one(picture: Picture, kind: Images) -> tuple[np.ndarray, str, tuple[str, tuple[int, int]]]:
    picture = picture.read_bytes() if isinstance(picture, Path) else picture
    opened = _opened(picture)
    form = opened.mode, opened.size
    return *images.decode(picture, kind), form


def _opened(picture: Picture) -> Image.Image:
    picture = picture.read_bytes() if isinstance(picture, Path) else picture
    if isinstance(picture, bytes) and not picture:
        raise Unreadable("a frame of zero bytes")
    try:
        return Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
    except UnidentifiedImageError as error:
        raise Unreadable("a frame that is no image that Pillow knows") from error


def _by_name(path: Path) -> list[Any]:
    return natural(path.name)


def _animated(file: Any) -> Any:
    """The opened animation; None where Pillow does not know the file."""
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        return None


def _seek(animated: Any, number: int) -> Image.Image:
    animated.seek(number)
    found: Image.Image = animated.convert("RGB")
    return found


def _decoded(file: Any, suffix: str, frames: int, step: int, segments: int) -> tuple[list[Picture], int, str]:
    """By PyAV: frames are counted first, without decoding, then those that are wanted are made into pictures."""
    try:
        import av
    except ImportError as error:
        raise UserError(MISSING.format(suffix=suffix or "without a suffix")) from error
    try:
        length = sum(1 for _ in _packets(av, file))
        if not length:
            raise Unreadable("a film without a frame")
        if length > MAX_FRAMES:
            raise Unreadable(f"{length:,} frames, more than {MAX_FRAMES:,}")
        file.seek(0)
        wanted = chosen(length, frames, step, segments)
        made, times = dict[int, Image.Image](), list[int]()
        with av.open(file, "r") as container:
            for number, frame in enumerate(container.decode(container.streams.video[0])):
                times.append(frame.pts if frame.pts is not None else number)
                if number in wanted:
                    made[number] = _upright(frame)
                if number == wanted[-1]:
                    break
    except av.error.FFmpegError as error:
        raise Unreadable(f"not a film that FFmpeg can decode ({str(error)[:80]})") from error
    if wanted[-1] not in made:
        raise Unreadable(f"only {len(times)} of {length} frames can be decoded: cut off or damaged")
    steps = np.diff(times)
    uneven = len(steps) > 1 and steps.max() > 1.5 * max(float(np.median(steps)), 1.0)
    return [made[i] for i in wanted], length, "of variable rate (frames by number, not by time)" if uneven else ""


def _packets(av: Any, file: Any) -> Iterator[Any]:
    with av.open(file, "r") as container:
        if not container.streams.video:
            raise Unreadable("FFmpeg finds no pictures in it")
        yield from (p for p in container.demux(container.streams.video[0]) if p.size)


def _upright(frame: Any) -> Image.Image:
    """As the file says that it is to be shown: phones store portrait films lying on their side."""
    turned: Image.Image = frame.to_image()
    return turned.rotate(getattr(frame, "rotation", 0), expand=True) if getattr(frame, "rotation", 0) else turned
