"""The set `cues`: a disc goes its way and turns when four fifths of the clip are over, as was told at its beginning.

In the first fifth a square in a corner says by its colour which way it will go: yellow down, red left, blue right,
green up. It is gone long before the turn, so that the frames just before say nothing of it, and only the long past
tells the future. The disc is thrown back by the edges. What is shown is a film of 40 frames; `data.frames` is 40, 20,
10 or 5: every frame of it, every second, fourth or eighth. The label is the turn; targets are the turn and the place in
every frame of the film. `cues` has 2,000 training clips, `cues:N` N of them, and a quarter as many for the test split.
Clip i depends on its split, i and `VERSION` alone; all lengths grow with the side asked for. A mirrored clip turns the
other way.

No torch here: the processes that build a store start in a fraction of a second.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssl_bench.data.clips import Clips
from ssl_bench.data.factors import Factor
from ssl_bench.data.images import Item
from ssl_bench.data.source import Content, Source, drawn, files, number_of
from ssl_bench.errors import UserError
from ssl_bench.rng import mix

KIND, DIRECTED = "clip", True
VERSION = 1  # raised whenever a clip would show something else
DEFAULT = 2000  # training clips
FILM, TURN, TOLD = 40, 32, 8  # frames of the film, the first after the turn, those that show the square
FRAMES = (40, 20, 10, 5)  # that a clip may have: some frame of it is the first after the turn
SIDE = 32  # pixels in which lengths are given
TURNS = {"down": (0, 1), "left": (-1, 0), "right": (1, 0), "up": (0, -1)}  # sorted; x and y, y downwards
COLOURS = ((210, 190, 30), (220, 40, 40), (40, 60, 220), (40, 190, 60))  # of the square, by turn
FACTORS = (
    Factor("turn", len(TURNS), (0,)),
    Factor("track", 0, tuple(range(1, 1 + 2 * FILM))),  # x and y of the disc's centre, frame by frame
)


def draws(split: str, i: int) -> dict[str, Any]:
    """What is random of clip i; lengths in pixels of 32."""
    rng = np.random.default_rng(mix("cues", VERSION, split, i))
    return {
        "turn": int(rng.integers(len(TURNS))), "radius": rng.uniform(3.5, 4.5), "place": rng.uniform(5, SIDE - 5, 2),
        "angle": rng.uniform(0, 2 * np.pi), "speed": rng.uniform(0.6, 0.9), "corner": rng.integers(0, 2, 2),
        "ground": rng.uniform(20, 100, 2), "light": rng.uniform(190, 255),
    }  # fmt: skip


def thrown_back(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Places on an endless line as those between two walls."""
    y = (x - low) % (2 * (high - low))
    return low + np.minimum(y, 2 * (high - low) - y)


def track(d: dict[str, Any]) -> np.ndarray:
    """Centres (x, y) [FILM, 2] of the disc, y downwards."""
    walls = d["radius"], SIDE - d["radius"]
    velocity = d["speed"] * np.array([np.cos(d["angle"]), -np.sin(d["angle"])])
    before = thrown_back(d["place"] + np.arange(TURN)[:, None] * velocity, *walls)
    after = d["speed"] * np.array(list(TURNS.values())[d["turn"]])
    later = thrown_back(before[-1] + np.arange(1, FILM - TURN + 1)[:, None] * after, *walls)
    return np.concatenate([before, later])


def clip(split: str, i: int, kind: Clips) -> np.ndarray:
    """Clip i, uint8 [T, C, H, W], for the frames and the side that are asked for."""
    side = kind.height
    if side != kind.width or side < 16 or kind.bands != 3 or kind.frames not in FRAMES:
        raise UserError(
            "cues is made square, of 16 pixels or more, in colour and of 40, 20, 10 or 5 frames: set data.image_size "
            "to one number, data.frames to one of these, and leave data.channels. (eval: pixels:RUN, random:RUN.)"
        )
    d, scale, shown = draws(split, i), side / SIDE, np.arange(0, FILM, FILM // kind.frames)
    light = np.linspace(d["ground"][0], d["ground"][1], side)
    frames = np.broadcast_to(light[None, :, None, None], (len(shown), side, side, 3)).copy()
    corner = [slice(0, side // 4) if c == 0 else slice(side - side // 4, side) for c in d["corner"]]
    frames[shown < TOLD, corner[0], corner[1]] = COLOURS[d["turn"]]
    middle = (np.arange(side) + 0.5) / scale
    places = track(d)[shown]
    far = np.hypot(middle[None, None, :] - places[:, 0, None, None], middle[None, :, None] - places[:, 1, None, None])
    covered = (scale * (d["radius"] - far) + 0.5).clip(0, 1)[..., None]
    frames = (1 - covered) * frames + covered * d["light"]
    return np.rint(frames).astype(np.uint8).transpose(0, 3, 1, 2)


def source(rest: str) -> Source:
    """The set as `data.name=cues` or `cues:N` names it."""
    number = number_of("cues", rest, "clips", DEFAULT, 40)

    def make(split: str, i: int) -> Item:
        d = draws(split, i)
        values = np.array([d["turn"], *track(d).flatten()], np.float32)
        return Item(partial(clip, split, i), list(TURNS)[d["turn"]], f"cues {split} clip {i}", values)

    def content() -> Content:
        return Content(drawn(number, make), number * 3 * FILM * SIDE**2)

    return Source(files(Path(__file__)), content, KIND)
