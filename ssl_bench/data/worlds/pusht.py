"""Push-T: a disc pushes a block of the shape of a T over a table, seen from above. Physics and pictures: gym-pusht.

gym-pusht 0.1.8 (Apache-2.0; pymunk, pygame), the extra `[worlds]`: a table of 512 pixels, ten physics steps an action,
a disc that is drawn to a point and cannot be stopped, a block that is stopped as soon as nobody pushes it.
Ours and not theirs: an action is relative, a point as seen from the disc in units of 20 pixels (theirs: a point of the
table), and that point stays between the walls. A step is a pure function of the state: a space made anew is given the
state, so what pymunk keeps of past contacts is not carried on. Goals: whole states, reached as DINO-WM judges
(`env/pusht` at 0a9492f): the places of disc and block together within 20 pixels, the block's angle within 20 degrees.
gym-pusht's own success is another one (95 % of the T on the painted place, which stays in the picture).

Data: 80 % pushers, who go round the block and push it to one place after another, with noise, and 20 % walks. Near and
far goals are where such a pusher comes 25 and 100 steps on, so there is a way to each. There is no oracle: nobody wrote
a policy that solves this; and CEM in the true world would take minutes an episode: `plan` does not print it.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssl_bench.data.factors import Factor
from ssl_bench.data.world import Event, World
from ssl_bench.errors import UserError

UNIT = 20.0  # pixels of one unit of an action
LOW, HIGH = 22.0, 489.0  # of the disc's centre between the walls
GAINS = 100.0, 20.0  # of the spring that draws the disc, and of its damper (gym-pusht: k_p, k_v)
PHYSICS, TIME = 10, 0.01  # physics steps of an action, and seconds of each
MIDDLE = 45.0  # from the block's origin to its centre of mass, along its stem
CLEAR, ROUND = 95.0, 125.0  # from that centre: what does not touch the disc, and where a pusher goes round
TURN = np.pi / 9  # angle within which a goal is reached
PUSHERS, NOISE = 0.8, 0.4  # share of trajectories; standard deviation of their actions' noise, in units
X, Y, BX, BY, COS, SIN, VX, VY, BVX, BVY, SPIN = range(11)  # of the state: disc, block, velocities of both


def simulator() -> Any:
    """gym-pusht's environment with nothing on the screen. `UserError` where it is missing."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pygame's, of pkg_resources
            from gym_pusht.envs.pusht import PushTEnv
    except ImportError as error:
        raise UserError("The world 'pusht' needs gym-pusht: pip install 'ssl-bench[worlds]'.") from error
    return PushTEnv()


def place(simulation: Any, state: np.ndarray) -> None:
    """Disc and block as in a state [S]."""
    agent, block = simulation.agent, simulation.block
    block.angle = float(np.arctan2(state[SIN], state[COS]))  # before the place: it turns about the centre of mass
    block.position, block.velocity = tuple(state[[BX, BY]].tolist()), tuple(state[[BVX, BVY]].tolist())
    block.angular_velocity = float(state[SPIN])
    agent.position, agent.velocity = tuple(state[[X, Y]].tolist()), tuple(state[[VX, VY]].tolist())


def stepped(simulation: Any, state: np.ndarray, point: tuple[float, float]) -> np.ndarray:
    """One state [S] after the disc was drawn to a point of the table for a tenth of a second."""
    simulation._setup()
    place(simulation, state)
    agent, block, (spring, damper) = simulation.agent, simulation.block, GAINS
    for _ in range(PHYSICS):
        (x, y), (vx, vy) = agent.position, agent.velocity
        vx += (spring * (point[0] - x) - damper * vx) * TIME
        agent.velocity = vx, vy + (spring * (point[1] - y) - damper * vy) * TIME
        simulation.space.step(TIME)
    turn = np.cos(block.angle), np.sin(block.angle)
    moving = *agent.velocity, *block.velocity, block.angular_velocity
    return np.array([*agent.position, *block.position, *turn, *moving])


@dataclass(frozen=True)
class PushT(World):
    name = "pusht"
    action_dim, limit, radius, span, frame_size = 2, 2.5, 20.0, 512.0, 64
    steps, every, default = 90, 5, 1000
    position = (X, Y, BX, BY)
    known = ("straight",)

    @property
    def factors(self) -> tuple[Factor, ...]:
        return Factor("position", 0, (X, Y)), Factor("block", 0, (BX, BY)), Factor("angle", 0, (COS, SIN))

    def reset(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Places and angles as gym-pusht draws them; the disc does not touch the block."""
        state, angle = np.zeros((n, 11)), rng.uniform(-np.pi, np.pi, n)
        state[:, BX : BY + 1], state[:, COS], state[:, SIN] = (
            rng.uniform(100, 400, (n, 2)),
            np.cos(angle),
            np.sin(angle),
        )
        again = np.arange(n)
        while len(again):
            state[again, X : Y + 1] = rng.uniform(50, 450, (len(again), 2))
            again = again[np.hypot(*(state[again, X : Y + 1] - self.middle(state[again])).T) < CLEAR]
        return state

    def middle(self, state: np.ndarray) -> np.ndarray:
        """The block's centre of mass [n, 2]."""
        return state[:, [BX, BY]] + MIDDLE * np.stack([-state[:, SIN], state[:, COS]], 1)

    def step(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        self.check(state, action)
        simulation, points = simulator(), np.clip(state[:, [X, Y]] + UNIT * action, LOW, HIGH).tolist()
        return np.stack([stepped(simulation, s, (x, y)) for s, (x, y) in zip(state, points, strict=True)])

    def render(self, state: np.ndarray, size: int) -> np.ndarray:
        """gym-pusht's picture, its pixels averaged."""
        simulation = simulator()
        import pygame

        simulation._setup()
        out = np.empty((len(state), 3, size, size), np.uint8)
        for i, one in enumerate(state):
            place(simulation, one)
            for body in (simulation.agent, simulation.block):  # else they are drawn where they were made
                simulation.space.reindex_shapes_for_body(body)
            small = pygame.transform.smoothscale(simulation._draw(), (size, size))
            out[i] = pygame.surfarray.array3d(small).transpose(2, 1, 0)
        return out

    def success(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        reached: np.ndarray = super().success(state, goal) & (self.turn(state, goal) < TURN)
        return reached

    def turn(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Between the block's angles, 0 to pi: [n]."""
        cosine = state[..., COS] * goal[..., COS] + state[..., SIN] * goal[..., SIN]
        angle: np.ndarray = np.arccos(np.clip(cosine, -1, 1))
        return angle

    def straight(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        return self.clip((goal[..., [X, Y]] - state[..., [X, Y]]) / UNIT)

    def far_goal(self, rng: np.random.Generator, state: np.ndarray) -> np.ndarray:
        """Where a pusher comes 100 steps on."""
        return self.drive(rng, state, 100, np.ones(len(state), bool))[1][:, -1]

    def demonstrate(self, rng: np.random.Generator, n: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
        state = self.reset(rng, n)
        return self.drive(rng, state, steps, rng.random(n) < PUSHERS)

    def drive(
        self, rng: np.random.Generator, state: np.ndarray, steps: int, pushes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions fp32 [n, steps, 2] and states [n, steps + 1, S] of pushers; where `pushes` is false, of walkers."""
        n = len(state)
        heading, push = rng.uniform(0, 2 * np.pi, n), np.zeros(n, bool)
        left, place = np.zeros(n, int), np.zeros((n, 2))  # steps that a way still has, and where the block shall go

        def choose(state: np.ndarray) -> np.ndarray:
            nonlocal heading, push, left, place
            middle, disc = self.middle(state), state[:, [X, Y]]
            new = (left <= 0) | (np.hypot(*(place - middle).T) < self.radius)
            place = np.where(new[:, None], rng.uniform(130, 380, (n, 2)), place)
            push, left = push & ~new, np.where(new, rng.integers(20, 45, n), left - 1)
            behind, at = (np.arctan2(*gap.T[::-1]) for gap in (middle - place, disc - middle))
            turn = (behind - at + np.pi) % (2 * np.pi) - np.pi  # on the way round the block
            push = push | (np.abs(turn) < 0.3)
            angle = at + np.clip(turn, -0.5, 0.5)
            around = middle + ROUND * np.stack([np.cos(angle), np.sin(angle)], 1)
            target = np.where(push[:, None], middle + 0.3 * (place - middle), around)
            pushed = (target - disc) / UNIT + NOISE * rng.standard_normal((n, 2))
            heading = heading + rng.vonmises(0, 5, n)
            walk = rng.uniform(0.3, 1, n)[:, None] * self.limit * np.stack([np.cos(heading), np.sin(heading)], 1)
            return self.clip(np.where(pushes[:, None], pushed, walk))

        return self.played(state, steps, choose)

    def events(self, rng: np.random.Generator, n: int) -> dict[str, Event]:
        """teleport: the disc is elsewhere; turn: the block has turned by itself; colour: channels change places."""
        actions, path = self.demonstrate(rng, n, self.every)
        before, usual = path[:, 0], path[:, -1]
        away, turned = usual.copy(), usual.copy()
        close = np.arange(n)
        while len(close):
            away[close, :2] = rng.uniform(50, 450, (len(close), 2))
            near = np.hypot(*(away[close, :2] - usual[close, :2]).T) < 100
            close = close[near | (np.hypot(*(away[close, :2] - self.middle(usual[close])).T) < CLEAR)]
        centre = self.middle(usual)
        turned[:, COS], turned[:, SIN] = -usual[:, SIN], usual[:, COS]  # by 90 degrees about its centre
        turned[:, [BX, BY]] += centre - self.middle(turned)
        pairs = {"teleport": (away, (0, 1, 2)), "turn": (turned, (0, 1, 2)), "colour": (usual, (2, 1, 0))}
        return {name: Event(before, actions, usual, odd, order) for name, (odd, order) in pairs.items()}
