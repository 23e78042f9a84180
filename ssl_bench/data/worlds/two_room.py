"""Two rooms and a door: a dot is moved by small steps; what it sees is the whole map from above.

The geometry of PLDM's DotWall (Sobal et al. 2025, arXiv 2502.14819): coordinates 0 to 64, the dot's centre between the
walls at 5 and 59, a wall at x = 32 of 3 units with a door at y = 18 +- 4, a dot of sigma 1.3, actions of norm 1.8 at
most. Ours and not theirs: contact is exact (who runs into the wall stops at its face and slides along it, who is in
the doorway stays between its jambs), where PLDM adds noise. Channels: the dot, the walls, and one for what the options
add. Options:

    random       wall (20 to 45) and door (10 to 55) anew in every episode
    distractor   a second dot that flies straight and bounces off the outer walls, on its own
    block        a square that the dot pushes; it stays in its room
    colour       dot and walls change their share of the channels from episode to episode

Data are 65 % walks and 35 % ways to a goal in the other room, one goal after the other, with noise. A walk's heading
turns at each step by a von Mises angle (concentration 5); its steps have norms of N(1, 0.4) within 0.2 and 1.8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssl_bench.data.factors import Factor
from ssl_bench.data.world import Event, World

LOW, HIGH = 5.0, 59.0  # of the dot's centre
WALL, HALF = 32.0, 1.5  # middle of the wall, and half of its width
DOOR, GAP = 18.0, 4.0  # middle of the door, and half of its width
SIGMA = 1.3  # of the dot
REACH = 3.0  # half a block and the dot: nearer it is pushed
EXPERTS, NOISE = 0.35, 0.5  # share of trajectories that go to goals; standard deviation of their actions' noise
X, Y, WX, DY = range(4)  # columns of the state; then those of distractor, block and colour


@dataclass(frozen=True)
class TwoRoom(World):
    random: bool = False
    distractor: bool = False
    block: bool = False
    colour: bool = False

    name = "two_room"
    action_dim, limit, radius, span, frame_size = 2, 1.8, 4.5, 64.0, 32
    steps, every = 90, 5
    position = (X, Y)

    @property
    def columns(self) -> dict[str, int]:
        """First column of what each option adds to the state."""
        widths = {"distractor": 3 * self.distractor, "block": 2 * self.block, "colour": int(self.colour)}
        starts = 4 + np.cumsum([0, *widths.values()])
        return dict(zip([*widths, "end"], starts.tolist(), strict=True))

    @property
    def factors(self) -> tuple[Factor, ...]:
        at = self.columns
        known = [Factor("position", 0, (X, Y))]
        known += [Factor("wall", 0, (WX,)), Factor("door", 0, (DY,))] if self.random else []
        known += [Factor("distractor", 0, (at["distractor"], at["distractor"] + 1))] if self.distractor else []
        known += [Factor("block", 0, (at["block"], at["block"] + 1))] if self.block else []
        return (*known, *([Factor("colour", 0, (at["colour"],))] if self.colour else []))

    @property
    def objects(self) -> dict[str, int]:
        """Colour mixes channels, and of distractor and block the third shows one at a time."""
        third = [name for name in ("distractor", "block") if getattr(self, name)]
        return {} if self.colour or len(third) > 1 else {"dot": 0, "walls": 1, **dict.fromkeys(third, 2)}

    def reset(self, rng: np.random.Generator, n: int) -> np.ndarray:
        at = self.columns
        state = np.zeros((n, at["end"]))
        state[:, WX] = rng.uniform(20, 45, n) if self.random else WALL
        state[:, DY] = rng.uniform(10, 55, n) if self.random else DOOR
        state[:, :2] = self._places(rng, state)
        if self.distractor:
            state[:, at["distractor"] : at["distractor"] + 2] = rng.uniform(LOW, HIGH, (n, 2))
            state[:, at["distractor"] + 2] = rng.uniform(0, 2 * np.pi, n)
        if self.block:
            state[:, at["block"] : at["block"] + 2] = self._places(rng, state)
        if self.colour:
            state[:, at["colour"]] = rng.uniform(0, 1, n)
        return state

    def _places(self, rng: np.random.Generator, state: np.ndarray) -> np.ndarray:
        """Evenly over both rooms, and not in the doorway: [n, 2]."""
        x = rng.uniform(LOW, HIGH - 2 * HALF, len(state))
        return np.stack([x + 2 * HALF * (x > state[:, WX] - HALF), rng.uniform(LOW, HIGH, len(state))], 1)

    def step(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        self.check(state, action)
        new = state.copy()
        old, place = state[:, :2], np.clip(state[:, :2] + action, LOW, HIGH)
        door, passing = state[:, DY], np.abs(old[:, 0] - state[:, WX]) < HALF
        for sign in (-1.0, 1.0):  # the wall's left face, then its right one
            face = state[:, WX] + sign * HALF
            into = (sign * (old[:, 0] - face) >= 0) & (sign * (place[:, 0] - face) < 0)
            share = np.where(into, (face - old[:, 0]) / np.where(into, place[:, 0] - old[:, 0], 1), 0)
            through = into & (np.abs(old[:, 1] + share * (place[:, 1] - old[:, 1]) - door) <= GAP)
            place[:, 0] = np.where(into & ~through, face, place[:, 0])
            passing = passing | through
        place[:, 1] = np.where(passing, np.clip(place[:, 1], door - GAP, door + GAP), place[:, 1])
        new[:, :2] = place
        if self.distractor:
            self._fly(new)
        if self.block:
            self._push(new)
        return new

    def _fly(self, state: np.ndarray) -> None:
        """The distractor, one unit on; it bounces."""
        at = self.columns["distractor"]
        angle = state[:, at + 2]
        x, y = state[:, at] + np.cos(angle), state[:, at + 1] + np.sin(angle)
        angle = np.where((x < LOW) | (x > HIGH), np.pi - angle, angle)
        angle = np.where((y < LOW) | (y > HIGH), -angle, angle)
        state[:, at : at + 3] = np.stack([np.clip(x, LOW, HIGH), np.clip(y, LOW, HIGH), angle % (2 * np.pi)], 1)

    def _push(self, state: np.ndarray) -> None:
        """The block, out of the dot's way but within its room."""
        at = self.columns["block"]
        away = state[:, at : at + 2] - state[:, :2]
        far = np.sqrt((away**2).sum(1, keepdims=True))
        moved = np.where(far < REACH, state[:, :2] + away / np.maximum(far, 1e-9) * REACH, state[:, at : at + 2])
        left = state[:, at] < state[:, WX]
        x = np.clip(moved[:, 0], np.where(left, LOW, state[:, WX] + HALF), np.where(left, state[:, WX] - HALF, HIGH))
        state[:, at : at + 2] = np.stack([x, np.clip(moved[:, 1], LOW, HIGH)], 1)

    def render(self, state: np.ndarray, size: int) -> np.ndarray:
        at, unit = self.columns, self.span / size
        edges = np.arange(size) * unit

        def cover(low: np.ndarray, high: np.ndarray) -> np.ndarray:
            """Share [n, size] of each pixel that lies between two places [n]."""
            span = np.minimum(edges + unit, high[:, None]) - np.maximum(edges, low[:, None])
            return np.clip(span / unit, 0, 1)

        def dot(places: np.ndarray) -> np.ndarray:
            bell = np.exp(-0.5 * ((edges + unit / 2 - places[:, :, None]) / SIGMA) ** 2)
            return bell[:, 1, :, None] * bell[:, 0, None, :]

        layers = np.zeros((len(state), 3, size, size), np.float32)
        layers[:, 0] = dot(state[:, :2])
        door = 1 - cover(state[:, DY] - GAP, state[:, DY] + GAP)
        ends = np.array([LOW]), np.array([HIGH])
        outside = 1 - cover(*ends)[:, :, None] * cover(*ends)[:, None, :]
        middle = cover(state[:, WX] - HALF, state[:, WX] + HALF)[:, None, :] * door[:, :, None]
        layers[:, 1] = np.maximum(outside, middle)
        if self.distractor:
            layers[:, 2] = dot(state[:, at["distractor"] : at["distractor"] + 2])
        if self.block:
            place = state[:, at["block"] : at["block"] + 2]
            x, y = (cover(place[:, i] - 1.5, place[:, i] + 1.5) for i in (0, 1))
            layers[:, 2] = np.maximum(layers[:, 2], y[:, :, None] * x[:, None, :])
        if self.colour:
            share = 0.5 * state[:, at["colour"], None, None]
            layers[:, 0], layers[:, 1] = (
                (1 - share) * layers[:, 0] + share * layers[:, 1],
                (1 - share) * layers[:, 1] + share * layers[:, 0],
            )
        return np.rint(255 * layers).astype(np.uint8)

    def oracle(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """To the door, through it, to the goal."""
        x, y, wall, door = (state[:, i] for i in (X, Y, WX, DY))
        side = np.where(goal[:, X] > wall, 1.0, -1.0)  # of the wall, where the goal is
        there = side * (x - wall) >= HALF
        at_door = (np.abs(x - wall) < HALF) | (np.abs(y - door) <= GAP - 0.5)
        edge = HALF + 0.1
        mouth = np.stack([wall - side * edge, np.clip(y, door - GAP + 1, door + GAP - 1)], 1)
        beyond = np.stack([wall + side * edge, np.clip(y, door - GAP + 1, door + GAP - 1)], 1)
        target = np.where(there[:, None], goal[:, :2], np.where(at_door[:, None], beyond, mouth))
        return self.clip(target - state[:, :2])

    def far_goal(self, rng: np.random.Generator, state: np.ndarray) -> np.ndarray:
        """Evenly over the other room; what else there is stays as it is."""
        goal = state.copy()
        wall = state[:, WX]
        left = state[:, X] > wall  # where the goal lies
        low, high = np.where(left, LOW, wall + HALF), np.where(left, wall - HALF, HIGH)
        goal[:, X], goal[:, Y] = rng.uniform(low, high), rng.uniform(LOW, HIGH, len(state))
        return goal

    def demonstrate(self, rng: np.random.Generator, n: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
        state = self.reset(rng, n)
        expert, goal, heading = rng.random(n) < EXPERTS, self.far_goal(rng, state), rng.uniform(0, 2 * np.pi, n)

        def choose(state: np.ndarray) -> np.ndarray:
            nonlocal goal, heading
            heading = heading + rng.vonmises(0, 5, n)
            length = 1 + 0.4 * rng.standard_normal(n)
            while (outside := (length < 0.2) | (length > self.limit)).any():
                length[outside] = 1 + 0.4 * rng.standard_normal(int(outside.sum()))
            walk = length[:, None] * np.stack([np.cos(heading), np.sin(heading)], 1)
            goal = np.where(self.success(state, goal)[:, None], self.far_goal(rng, state), goal)
            known = self.clip(self.oracle(state, goal) + NOISE * rng.standard_normal((n, 2)))
            return np.where(expert[:, None], known, walk)

        return self.played(state, steps, choose)

    def events(self, rng: np.random.Generator, n: int) -> dict[str, Event]:
        """teleport: the dot is elsewhere; wall: it goes on through the wall; colour: dot and third channel change."""
        actions, path = self.demonstrate(rng, n, self.every)
        before, usual = path[:, 0], path[:, -1]
        away = usual.copy()
        away[:, :2] = self._places(rng, usual)
        near = usual.copy()
        while len(close := np.flatnonzero(self.distance(away, usual) < 2 * self.radius)):
            away[close, :2] = self._places(rng, near[close])
        events = {"teleport": Event(before, actions, usual, away)}
        events["colour"] = Event(before, actions, usual, usual, (2, 1, 0))
        wall = self.reset(rng, n)
        side = np.where(rng.random(n) < 0.5, -1.0, 1.0)
        y = rng.uniform(LOW, HIGH - 4 * GAP, n)  # anywhere but within 2 GAP of the door
        wall[:, Y] = np.clip(np.where(y > wall[:, DY] - 2 * GAP, y + 4 * GAP, y), LOW, HIGH)
        wall[:, X] = wall[:, WX] + side * (HALF + rng.uniform(0, 2, n))
        push = np.zeros((n, self.every, 2), np.float32)
        push[..., 0] = -side[:, None] * rng.uniform(1.2, 1.7, n)[:, None]
        through = wall.copy()
        through[:, X] += push[..., 0].sum(1)
        return {**events, "wall": Event(wall, push, self.after(wall, push), through)}
