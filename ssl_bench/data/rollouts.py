"""Trajectory sets made from a world, `two_room[:OPTIONS][:N]`, and the starts and goals that evaluation plans from.

N training trajectories (if not said 2,000, of Push-T 1,000) and a quarter as many for the test split; a split has whole
trajectories.
Trajectory i depends on the world, its options, the split and i alone: a larger set begins with the smaller one. The
fingerprint is of every frame and action, so it changes with the world's version and settings; a label is the room, or
whatever the world's first position column tells, that it begins in. Evaluation draws from seeds that no set can reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from ssl_bench.data import world as worlds
from ssl_bench.data.images import Item
from ssl_bench.data.source import CHUNK, Chunk, Content, Source, files
from ssl_bench.data.trajectories import Trajectories
from ssl_bench.data.world import World
from ssl_bench.errors import UserError

BLOCK = 64  # trajectories that are made at once
SPLITS = ("train", "test")
SIDES = ("left", "right")  # labels
GOALS = Literal["far", "near"]
AHEAD = 25  # steps of the policies of the data between a near goal and its start


@lru_cache(maxsize=4)
def block(world: World, split: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Actions fp32 [BLOCK, steps, A] and states [BLOCK, steps + 1, S] of trajectories `number * BLOCK` and on."""
    if split not in SPLITS:
        raise UserError(f"Trajectories are made for {' and '.join(SPLITS)}, not for '{split}'.")
    seed = worlds.open_seed(world.name, world.version, *world.options, split, number)
    return world.demonstrate(np.random.default_rng(seed), BLOCK, world.steps)


def trajectory(world: World, split: str, i: int, kind: Trajectories) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [T, C, H, W] and actions fp32 [steps, A]."""
    actions, states = block(world, split, i // BLOCK)
    return world.render(states[i % BLOCK, :: world.every], kind.height), actions[i % BLOCK]


def states(world: World, split: str, i: int) -> np.ndarray:
    """The states of the stored frames, laid end to end: fp32 [T * S]."""
    found: np.ndarray = block(world, split, i // BLOCK)[1][i % BLOCK, :: world.every]
    return found.astype(np.float32).ravel()


@dataclass(frozen=True)
class Episodes:
    """What is planned: states [n, S] to start from, and whose agent's place is the goal."""

    start: np.ndarray
    goal: np.ndarray

    def __len__(self) -> int:
        return len(self.start)


@lru_cache(maxsize=8)  # scorers ask once for every policy, and a simulator is slow
def episodes(world: World, goals: GOALS, n: int, sealed: bool = True) -> Episodes:
    """The first n episodes. far: `World.far_goal`; near: 25 steps on, by the policies of the data.

    Episode i depends on the world, its options, `goals`, `sealed` and i alone. Those that are not sealed are for
    choosing settings.
    """
    starts, ends = [], []
    draw = worlds.sealed_seed if sealed else worlds.open_seed
    for i in range(n):
        seed = draw(world.name, world.version, *world.options, goals, i)
        rng = np.random.default_rng(seed)
        if goals == "far":
            starts.append(world.reset(rng, 1))
            ends.append(world.far_goal(rng, starts[-1]))
        else:
            _, path = world.demonstrate(rng, 1, AHEAD)
            starts.append(path[:, 0])
            ends.append(path[:, -1])
    found = Episodes(np.concatenate(starts), np.concatenate(ends))
    for array in (found.start, found.goal):
        array.setflags(write=False)  # everybody's
    return found


def source(name: str) -> Source:
    """The set of a name, as `data.name` has it."""
    asked = worlds.parse(name)
    world, number = asked.world, asked.count

    def rows(split: str, which: range) -> Iterator[Item]:
        for i in which:
            known = states(world, split, i)
            side = SIDES[int(known[world.position[0]] > world.span / 2)]
            yield Item(partial(trajectory, world, split, i), side, f"{world.title} {split} {i}", known)

    def content() -> Content:
        chunks = []
        for split, count in (("train", number), ("test", number // 4)):
            ranges = [range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]
            chunks += [Chunk(split, len(r), partial(rows, split, r)) for r in ranges]
        frames = number * (world.steps // world.every + 1) * 5 // 4
        return Content(chunks, frames * world.frame_size**2)

    here = Path(__file__).parent
    code = (here / "rollouts.py", here / "world.py", here / "worlds" / f"{world.name}.py")
    return Source([f for path in code for f in files(path)], content, "trajectory")
