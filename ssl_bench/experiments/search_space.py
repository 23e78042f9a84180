"""What a search of settings may draw, in a small syntax, and the settings of trial number i.

    optim.lr=1e-4..1e-2:log            a number, evenly in its logarithm
    objective.mask_ratio=0.5..0.9      a number, evenly
    objective.momentum=0.9..0.999:gap  evenly in the logarithm of 1 - value
    optim.lr=x0.3..x3:log              times what the recipe has (with `gap`: times the recipe's 1 - value)
    objective.masking=block|random     one of these

Trial 0 is the recipe as it is. Trial i draws, for each setting, a quantile from (seed, i, setting) alone: all methods
get the same quantiles, and a longer search begins with the trials of a shorter one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssl_bench.config.overrides import resolve
from ssl_bench.config.schema import Config
from ssl_bench.errors import UserError, nearest
from ssl_bench.rng import mix

DEFAULT = (  # what every recipe has, around what it has; the teacher's EMA where there is one
    "optim.lr=x0.2..x5:log",
    "optim.weight_decay=x0.2..x5:log",
    "optim.warmup=0.02..0.2",
    "objective.momentum=x0.25..x4:gap",
)
SCALES = ("linear", "log", "gap")


@dataclass(frozen=True)
class Axis:
    """One setting and what it may be."""

    key: str
    low: float = 0.0
    high: float = 0.0
    scale: str = "linear"
    relative: bool = False
    choices: tuple[str, ...] = ()
    text: str = ""

    def value(self, u: float, base: Any) -> str:
        """The value at the quantile u in 0..1; `base` is the recipe's own."""
        if self.choices:
            return self.choices[int(u * len(self.choices))]
        low, high = self.low, self.high
        if self.scale == "linear":
            found = (low + u * (high - low)) * (base if self.relative else 1.0)
        elif self.scale == "log":
            found = low * (high / low) ** u * (base if self.relative else 1.0)
        else:
            ends = (low, high) if self.relative else (1 - low, 1 - high)
            found = 1 - ends[0] * (ends[1] / ends[0]) ** u * (1 - base if self.relative else 1.0)
            return f"{max(found, 0.0):.6g}"
        return str(round(found)) if isinstance(base, int) and not isinstance(base, bool) else f"{found:.4g}"


def parse(text: str) -> Axis:
    """An axis from its text, or a `UserError`."""
    key, equals, rest = text.partition("=")
    if "|" in rest:
        return Axis(key, choices=tuple(rest.split("|")), text=text)
    found = re.fullmatch(r"(x?)([^.:x]+(?:\.\d[^.:x]*)?)\.\.(x?)([^:x]+)(?::(\w+))?", rest)
    if not equals or not found or found[1] != found[3]:
        raise UserError(
            f"--space '{text}' is not clear: write KEY=LOW..HIGH, with :log or :gap after it, "
            "KEY=xLOW..xHIGH for multiples of the recipe's value, or KEY=A|B."
        )
    try:
        low, high = float(found[2]), float(found[4])
    except ValueError:
        raise UserError(f"--space '{text}': '{found[2]}' and '{found[4]}' must be numbers.") from None
    scale = found[5] or "linear"
    if scale not in SCALES:
        raise UserError(f"--space '{text}': unknown scale '{scale}'. {nearest(scale, SCALES)}")
    if not low < high or (scale == "log" and low <= 0) or (scale == "gap" and not found[1] and high >= 1):
        raise UserError(f"--space '{text}': the first number must be below the second, :log above 0, :gap below 1.")
    return Axis(key, low, high, scale, bool(found[1]), (), text)


def axes(texts: Sequence[str]) -> list[Axis]:
    """The space from `--space`, each of which may hold several axes; the default where nothing is given."""
    parts = [part for text in texts for part in re.split(r",(?=[\w.]+=)", text)]
    found = [parse(part) for part in parts or DEFAULT]
    keys = [axis.key for axis in found]
    if double := next((key for key in keys if keys.count(key) > 1), ""):
        raise UserError(f"--space has '{double}' twice.")
    return found


def fitting(space: Sequence[Axis], config: Config) -> list[tuple[Axis, Any]]:
    """The axes this config has, each with the config's value; those that could have no effect are left out."""
    unused: set[str] = config.objective.unused() if hasattr(config.objective, "unused") else set()
    out = []
    for axis in space:
        value: Any = config
        for name in axis.key.split("."):
            known = {f.name for f in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
            value = getattr(value, name) if name in known else None
        idle = axis.key.startswith("objective.") and axis.key.split(".")[1] in unused
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        still = axis.relative and (not number or value == 0 or (axis.scale == "gap" and value == 1))
        if value is not None and not idle and not still:
            out.append((axis, value))
    return out


def settings(space: Sequence[Axis], config: Config, seed: int, trial: int) -> list[str]:
    """The overrides of trial number `trial`, checked against the config; none for trial 0."""
    if not trial:
        return []
    drawn = [
        f"{a.key}={a.value(mix('search', seed, trial, a.key) / 2**63, base)}" for a, base in fitting(space, config)
    ]
    resolve(config, drawn)
    return drawn


def check(space: Sequence[Axis], configs: Sequence[Config]) -> None:
    """Every axis must mean something to at least one method, unless it is of the default space."""
    for axis in space:
        if axis.text in DEFAULT or any(axis in [a for a, _ in fitting([axis], c)] for c in configs):
            continue
        groups = ("optim", "objective", "backbone", "budget")
        keys = {f"{g}.{f.name}" for c in configs for g in groups for f in dataclasses.fields(getattr(c, g))}
        raise UserError(f"--space '{axis.text}': no method here has this setting in use. {nearest(axis.key, keys)}")


def describe(space: Sequence[Axis], configs: dict[str, Config]) -> list[str]:
    """One sentence per axis, with the methods that lack it: nothing is left out silently."""
    out = []
    for axis in space:
        lacking = [name for name, c in configs.items() if not fitting([axis], c)]
        out.append(axis.text + (f" (not for {', '.join(lacking)}, which do not use it)" if lacking else ""))
    return out
