"""The set `movingphotos`: a photograph in a disc moves over another one; the label is the motion, not what is shown.

Textures are the embedded CC0 photographs, those of a split for the clips of that split. No single frame says anything
of the label: places are modulo the frame, so that the disc is anywhere in every frame whatever its motion. Straight in
eight directions, or circling either way, at 1.5, 2 or 2.5 pixels a frame of 32. The level is how hard it is:

    movingphotos     0: as above
    movingphotos:1   a second, still disc as a distractor
    movingphotos:2   also the camera drifts, and with it background and distractor, by 1 pixel a frame

`movingphotos:LEVEL:N` has N training clips in place of 4,000, and a quarter as many for the test split. Clip i depends
on its split, i and `VERSION` alone; all lengths grow with the side asked for. A mirrored clip shows another motion.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssl_bench.data import parquet
from ssl_bench.data.clips import Clips
from ssl_bench.data.factors import Factor
from ssl_bench.data.images import Item, decode, square
from ssl_bench.data.source import Content, Source, drawn, files
from ssl_bench.errors import UserError
from ssl_bench.rng import mix

KIND, DIRECTED = "clip", True  # a mirrored clip shows another motion
VERSION = 1  # raised whenever a clip would show something else
DEFAULT, BLOCK = 4000, 64  # training clips; clips drawn at once
PHOTOS = Path(__file__).parent / "embedded" / "clothing48"
SPEEDS = (1.5, 2.0, 2.5)  # pixels a frame of a clip of 32 pixels
COMPASS = ("right", "up_right", "up", "up_left", "left", "down_left", "down", "down_right")  # every 45 degrees
MOTIONS = tuple(sorted((*COMPASS, "clockwise", "counterclockwise")))  # sorted: a label is an index into the classes

FACTORS = (
    Factor("motion", len(MOTIONS), (0,)),
    Factor("speed", len(SPEEDS), (1,)),
    Factor("object", 10, (2,)),  # class of the photograph in the disc
    Factor("background", 10, (3,)),  # class of the other one
    Factor("start", 0, (4, 5, 6, 7)),  # cosine and sine of the first frame's x, then of its y: the frame is a torus
    Factor("radius", 0, (8,)),  # of the disc, in pixels of a clip of 32
)


@dataclass(frozen=True)
class Photos:
    """The photographs of one split as textures."""

    wide: np.ndarray  # fp32 [P, 1.5 S, 1.5 S, 3], backgrounds
    small: np.ndarray  # fp32 [P, S / 2, S / 2, 3], what a disc shows
    classes: np.ndarray  # int [P]


@lru_cache(maxsize=4)
def photos(split: str, side: int) -> Photos:
    content = parquet.source(PHOTOS).content()
    items = [item for chunk in content.chunks if chunk.split == split for item in chunk.read()]
    names = sorted({item.label for item in items})
    pictures: list[Any] = [item.image for item in items]
    wide = np.stack([decode(picture, square(3 * side // 2))[0] for picture in pictures]).transpose(0, 2, 3, 1)
    half = (side // 2, side // 2)
    small = [Image.fromarray(np.ascontiguousarray(p)).resize(half, Image.Resampling.BICUBIC) for p in wide]
    classes = np.array([names.index(item.label) for item in items])
    shown = [np.asarray(picture) for picture in small]
    return Photos(wide.astype(np.float32), np.stack(shown).astype(np.float32), classes)


def draws(split: str, i: int, count: int) -> dict[str, Any]:
    """What is random of clip i, with `count` photographs to choose from; lengths in pixels of a clip of 32."""
    rng = np.random.default_rng(mix("movingphotos", VERSION, split, i))
    return {
        "motion": rng.integers(len(MOTIONS)), "speed": rng.integers(len(SPEEDS)),
        "photos": rng.choice(count, 3, replace=False),  # of the disc, the background, the distractor
        "radii": rng.uniform(5, 7, 2), "places": rng.uniform(0, 32, (2, 2)),  # of the disc and the distractor
        "orbit": rng.uniform(4, 7), "phase": rng.uniform(0, 2 * np.pi),
        "shift": rng.uniform(0, 48, 2), "drift": rng.uniform(0, 2 * np.pi),
    }  # fmt: skip


def path(drawn: dict[str, Any], frames: int) -> np.ndarray:
    """Places (x, y) [T, 2] of the disc in pixels of a clip of 32, y downwards."""
    name, speed, t = MOTIONS[drawn["motion"]], SPEEDS[drawn["speed"]], np.arange(frames)
    if name in COMPASS:
        angle = np.pi / 4 * COMPASS.index(name)
        steps = speed * t[:, None] * np.array([np.cos(angle), -np.sin(angle)])
    else:  # y is downwards: a growing angle goes clockwise
        turn = (1 if name == "clockwise" else -1) * speed / drawn["orbit"] * t + drawn["phase"]
        steps = drawn["orbit"] * np.stack([np.cos(turn), np.sin(turn)], 1)
    return (drawn["places"][0] + steps) % 32


def sampled(texture: np.ndarray, x: np.ndarray, y: np.ndarray, wrap: bool) -> np.ndarray:
    """Bilinear [B, T, H, W, C] of textures [B, h, w, C] at places x, y [B, T, H, W] in their pixels."""
    h, w = texture.shape[1:3]
    left, top = np.floor(x), np.floor(y)
    fx, fy = ((a - b).astype(np.float32)[..., None] for a, b in ((x, left), (y, top)))
    left, top, b = left.astype(np.int64), top.astype(np.int64), np.arange(len(texture))[:, None, None, None]

    def at(column: np.ndarray, row: np.ndarray) -> np.ndarray:
        column, row = (column % w, row % h) if wrap else (column.clip(0, w - 1), row.clip(0, h - 1))
        return texture[b, row, column]

    upper = at(left, top) * (1 - fx) + at(left + 1, top) * fx
    lower = at(left, top + 1) * (1 - fx) + at(left + 1, top + 1) * fx
    return upper * (1 - fy) + lower * fy


def with_disc(scene: np.ndarray, texture: np.ndarray, places: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """The scene [B, T, S, S, C] with a disc of radius [B] around places [B, T, 2], in pixels; its edge is 1 px soft."""
    side, small = scene.shape[2], texture.shape[1]
    grid = np.arange(side, dtype=np.float32) + 0.5
    far = (grid - places[..., None].astype(np.float32) + side / 2) % side - side / 2  # [B, T, 2, S], on the torus
    dx, dy = np.broadcast_arrays(far[:, :, 0, None, :], far[:, :, 1, :, None])
    size = radius.astype(np.float32)[:, None, None, None]
    cover = np.clip(size + 0.5 - np.hypot(dx, dy), 0, 1)[..., None]
    x, y = ((d / size + 1) * small / 2 - 0.5 for d in (dx, dy))
    return scene * (1 - cover) + sampled(texture, x, y, wrap=False) * cover


@lru_cache(maxsize=2)
def block(split: str, level: int, number: int, frames: int, side: int) -> np.ndarray:
    """Clips `number * BLOCK` and on, uint8 [BLOCK, T, 3, side, side]."""
    known, scale = photos(split, side), side / 32
    drawn = [draws(split, number * BLOCK + i, len(known.classes)) for i in range(BLOCK)]
    chosen, radii, places = (np.stack([d[key] for d in drawn]) for key in ("photos", "radii", "places"))
    angle, t = np.array([d["drift"] for d in drawn]), np.arange(frames if level == 2 else 1)  # else one frame is all
    moved = t[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)[:, None]  # [B, T, 2] of the camera
    shift = scale * (np.stack([d["shift"] for d in drawn])[:, None] + moved)
    shift = shift if level == 2 else np.floor(shift)
    x, y = shift[:, :, 0, None, None] + np.arange(side), shift[:, :, 1, None, None] + np.arange(side)[:, None]
    x, y = np.broadcast_arrays(x, y)
    scene = sampled(known.wide[chosen[:, 1]], x, y, wrap=True)
    if level:
        still = scale * (places[:, None, 1] - moved) % side
        scene = with_disc(scene, known.small[chosen[:, 2]], still, scale * radii[:, 1])
    moving = scale * np.stack([path(d, frames) for d in drawn])
    scene = with_disc(scene, known.small[chosen[:, 0]], moving, scale * radii[:, 0])
    return np.rint(scene.clip(0, 255)).astype(np.uint8).transpose(0, 1, 4, 2, 3)


def clip(split: str, level: int, i: int, kind: Clips) -> np.ndarray:
    """Clip i for the frames and the side that are asked for."""
    if kind.height != kind.width or kind.height < 16 or kind.bands != 3:
        raise UserError(
            "movingphotos is made square, of 16 pixels or more, in colour: set data.image_size to one number, for "
            "example 32, and leave data.channels."
        )
    made: np.ndarray = block(split, level, i // BLOCK, kind.frames, kind.height)[i % BLOCK]
    return made


def targets(split: str, i: int) -> np.ndarray:
    """The nine numbers that `FACTORS` names, of clip i."""
    known = photos(split, 32)
    drawn = draws(split, i, len(known.classes))
    angles = 2 * np.pi / 32 * path(drawn, 1)[0]
    place = [f(a) for a in angles for f in (np.cos, np.sin)]
    classes = known.classes[drawn["photos"][:2]]
    return np.array([drawn["motion"], drawn["speed"], *classes, *place, drawn["radii"][0]], np.float32)


@lru_cache(maxsize=4)
def numbers(split: str, count: int) -> dict[bytes, int]:
    """The first `count` clips by their `targets`, in which no two are alike."""
    return {targets(split, i).tobytes(): i for i in range(count)}


def flows(rest: str, split: str, known: np.ndarray, side: int) -> np.ndarray:
    """Exact motion (x, y downwards) from the first frame to the second, in pixels, fp32 [N, 2, side, side], of clips by
    their `targets` [N, 9]: the store of a test split is in no order.

    A pixel moves with what it shows in the first frame: the disc on its own path, all else with the camera, which a
    frame follows round its edges.
    """
    level, count = parse(rest)
    names = numbers(split, count if split == "train" else count // 4)
    clips, scale = [names[row.tobytes()] for row in known.astype(np.float32)], side / 32
    drawn = [draws(split, i, len(photos(split, 32).classes)) for i in clips]
    angle = np.array([d["drift"] for d in drawn])
    ground = -(level == 2) * np.stack([np.cos(angle), np.sin(angle)], 1)  # the camera's way, turned round
    places = np.stack([path(d, 2) for d in drawn])
    own = (places[:, 1] - places[:, 0] + 16) % 32 - 16
    grid = (np.arange(side) + 0.5) / scale
    far = (grid - places[:, 0, :, None] + 16) % 32 - 16  # [N, 2, S], on the torus
    inside = np.hypot(far[:, 0, None, :], far[:, 1, :, None]) <= np.array([d["radii"][0] for d in drawn])[:, None, None]
    found = np.where(inside[:, None], own[..., None, None], ground[..., None, None])
    return (scale * found).astype(np.float32)


def parse(rest: str) -> tuple[int, int]:
    """Level and number of training clips of what follows `movingphotos:`."""
    level, _, count = rest.partition(":")
    if level not in ("", "0", "1", "2") or (count and not (count.isdigit() and int(count) >= 40)):
        raise UserError(
            f"'movingphotos:{rest}': write a level from 0 to 2 and, after a colon, a number of training clips, 40 or "
            "more, as in movingphotos:1 or movingphotos:1:2000."
        )
    return int(level or 0), int(count or DEFAULT)


def source(rest: str) -> Source:
    """The set as `data.name=movingphotos`, `movingphotos:LEVEL` or `movingphotos:LEVEL:N` names it."""
    level, number = parse(rest)

    def make(split: str, i: int) -> Item:
        values = targets(split, i)
        return Item(partial(clip, split, level, i), MOTIONS[int(values[0])], f"movingphotos {split} clip {i}", values)

    def content() -> Content:
        return Content(drawn(number, make), number * 3 * 8 * 32**2)

    return Source([*files(Path(__file__)), *files(PHOTOS, ".parquet")], content, KIND)
