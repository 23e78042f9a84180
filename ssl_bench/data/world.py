"""What a world is: something that acts, can be seen, and has goals. `worlds/` has one file for each, found by listing.

A world is a frozen dataclass whose fields are its options, and whose methods are pure functions of whole batches:
nothing is remembered between calls, all that is random comes from the generator that is given. Shapes: n episodes, S
numbers of a state, A of an action. No torch here.

Seeds lie in two ranges that share no number: `open_seed` for trajectories that anybody may learn from, `sealed_seed`
for the starts and goals of evaluation. No generator of trajectories can name a sealed one.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ssl_bench import find
from ssl_bench.data.factors import Factor
from ssl_bench.errors import UserError, nearest
from ssl_bench.rng import mix

SEALED = 1 << 62  # open seeds are below it, sealed ones are not
FEWEST = 40


@dataclass(frozen=True)
class Event:
    """Something seen before and after some actions: as the world has it, and as it cannot be."""

    before: np.ndarray  # states [n, S]
    actions: np.ndarray  # fp32 [n, every, A]
    usual: np.ndarray  # states [n, S] after them
    odd: np.ndarray  # states [n, S] that cannot follow
    channels: tuple[int, ...] = (0, 1, 2)  # order of the channels of the odd frame


class World(ABC):
    """Base of every world; the fields of a subclass are switches, False in the usual world."""

    name: ClassVar[str]
    version: ClassVar[int] = 1  # raised whenever a trajectory or an episode would be another one
    action_dim: ClassVar[int]
    limit: ClassVar[float]  # greatest norm of an action
    radius: ClassVar[float]  # a goal nearer than that is reached
    span: ClassVar[float]  # side of the square that `render` shows, in the units of positions
    frame_size: ClassVar[int]  # pixels a side that show everything
    steps: ClassVar[int]  # actions of a trajectory
    every: ClassVar[int]  # actions between two stored frames
    position: ClassVar[tuple[int, ...]]  # columns of the state: where the agent is, and what else has a place
    default: ClassVar[int] = 2000  # training trajectories
    known: ClassVar[tuple[str, ...]] = ("straight", "oracle", "true")  # that `plan` prints beside every encoder

    @property
    @abstractmethod
    def factors(self) -> tuple[Factor, ...]:
        """What the columns of a state are, of those that differ between states."""

    @property
    def objects(self) -> dict[str, int]:
        """The channel of `render` that shows each object and nothing else, by its name; {}: they share channels."""
        return {}

    @abstractmethod
    def reset(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """States [n, S] to begin with."""

    @abstractmethod
    def step(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The states after one action [n, A] each, checked by `check`."""

    @abstractmethod
    def render(self, state: np.ndarray, size: int) -> np.ndarray:
        """uint8 [n, 3, size, size]."""

    def oracle(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Actions [n, A] of somebody who knows the world, where `known` says that there is one."""
        raise UserError(f"Nobody has written an oracle of '{self.name}'.")

    @abstractmethod
    def demonstrate(self, rng: np.random.Generator, n: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """What is learned from: actions fp32 [n, steps, A] of a mix of policies and states [n, steps + 1, S]."""

    @abstractmethod
    def far_goal(self, rng: np.random.Generator, state: np.ndarray) -> np.ndarray:
        """Goals [n, S] that no straight way leads to, as a rule."""

    @abstractmethod
    def events(self, rng: np.random.Generator, n: int) -> dict[str, Event]:
        """n times each thing that cannot happen here, beside what would."""

    def played(
        self, state: np.ndarray, steps: int, choose: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions fp32 [n, steps, A] that `choose` does (states [n, S] -> actions), and states [n, steps + 1, S]."""
        actions, states = np.zeros((len(state), steps, self.action_dim), np.float32), [state]
        for t in range(steps):
            actions[:, t] = choose(states[-1])
            states.append(self.step(states[-1], actions[:, t].astype(np.float64)))
        return actions, np.stack(states, 1)

    def success(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Whether each goal is reached: bool [n]."""
        reached: np.ndarray = self.distance(state, goal) < self.radius
        return reached

    def distance(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Between two places, as the crow flies: [n]."""
        gap = state[..., list(self.position)] - goal[..., list(self.position)]
        length: np.ndarray = np.sqrt((gap * gap).sum(-1))
        return length

    def straight(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Actions [n, A] towards the goal, whatever stands between."""
        return self.clip(goal[..., list(self.position)] - state[..., list(self.position)])

    def after(self, state: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The states after actions [n, steps, A]."""
        for t in range(actions.shape[1]):
            state = self.step(state, actions[:, t].astype(np.float64))
        return state

    def clip(self, action: np.ndarray) -> np.ndarray:
        """The same actions [..., A], none longer than the limit."""
        length = np.sqrt((action * action).sum(-1, keepdims=True))
        return action * np.minimum(1, self.limit / np.maximum(length, 1e-12))

    def check(self, state: np.ndarray, action: np.ndarray) -> None:
        """`UserError` for actions that this world cannot take: another shape, not finite, longer than the limit."""
        if action.shape != (len(state), self.action_dim):
            wanted = (len(state), self.action_dim)
            raise UserError(f"'{self.name}' takes actions of shape {wanted}, and these have {action.shape}.")
        longest = float((action * action).sum(-1).max(initial=0.0)) ** 0.5
        if not np.isfinite(longest):
            raise UserError(f"'{self.name}' takes finite actions, and some of these are NaN or infinite.")
        if longest > self.limit * (1 + 1e-5):
            raise UserError(
                f"An action of length {longest:.3f} where '{self.name}' allows {self.limit:g}: scale it with `clip`."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """Name, version and the options that are on."""
        return {"world": self.name, "version": self.version, "options": self.options}

    @property
    def options(self) -> list[str]:
        return [f.name for f in fields(self) if getattr(self, f.name)]  # type: ignore[arg-type]

    @property
    def title(self) -> str:
        """As `parse` reads it, without a number of trajectories."""
        return ":".join([self.name, ",".join(self.options)]) if self.options else self.name


def names() -> list[str]:
    """Every world, by listing the folder."""
    return sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent / "worlds")]))


def kind_of(name: str) -> type[World]:
    """The class of a world."""
    if name not in names():
        raise UserError(f"Unknown world '{name}'. {nearest(name, names())}")
    base: Any = World
    found: type[World] = find.defined(find.load(f"ssl_bench.data.worlds.{name}"), base)
    return found


def options_of(name: str) -> list[str]:
    """The switches that a world has."""
    kind: Any = kind_of(name)
    return [f.name for f in fields(kind)]


@dataclass(frozen=True)
class Asked:
    """What a set's name `WORLD[:OPTIONS][:N]` asks for."""

    world: World
    count: int  # training trajectories


@lru_cache(maxsize=16)
def parse(name: str) -> Asked:
    """`two_room`, `two_room:random,block`, `two_room:500`, `two_room:random:500`. `UserError` for anything else."""
    base, *rest = name.split(":")
    kind: Any = kind_of(base)
    known = options_of(base)
    chosen, count = "", ""
    if len(rest) == 1:
        chosen, count = ("", rest[0]) if rest[0].isdigit() else (rest[0], "")
    elif len(rest) == 2:
        chosen, count = rest
    if len(rest) > 2 or "" in rest or (count and not (count.isdecimal() and int(count) >= FEWEST)):
        option, words = (f"{known[0]}:", "options and ") if known else ("", "")
        raise UserError(
            f"'{name}': write {base}, then after colons {words}a number of training trajectories, {FEWEST} or more, as "
            f"in {base}:{FEWEST} or {base}:{option}{kind.default}."
        )
    options = chosen.split(",") if chosen else []
    if wrong := [o for o in options if o not in known]:
        hint = nearest(wrong[0], known) if known else "It has none."
        raise UserError(f"'{base}' has no option '{wrong[0]}'. {hint}")
    if len(set(options)) < len(options):
        raise UserError(f"'{name}' names an option twice: leave one out.")
    return Asked(kind(**dict.fromkeys(options, True)), int(count or kind.default))


def open_seed(*parts: int | str) -> int:
    """Of what may be learned from."""
    return mix(*parts) % SEALED


def sealed_seed(*parts: int | str) -> int:
    """Of starts and goals of evaluation."""
    return SEALED + mix(*parts) % SEALED
