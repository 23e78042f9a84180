"""Bounds of numbers in settings: what lies outside is one sentence, before anything runs."""

from __future__ import annotations

import math
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any

from ssl_bench.errors import UserError


def refuse_outside(group: str, values: Any, least: dict[str, float], below: dict[str, float] | None = None) -> None:
    """`UserError` where a number of `values` is under its least, not under its bound in `below`, or not finite."""
    for name, low in least.items():
        value, top = getattr(values, name), (below or {}).get(name, math.inf)
        if not low <= value < top:
            reach = f"at least {low:g}" + (f" and below {top:g}" if top < math.inf else "")
            raise UserError(f"{group}{name}={value} must be {reach}.")


def refuse_heads(group: str, values: Any, width: str = "predictor_dim", heads: str = "predictor_heads") -> None:
    """`UserError` where attention cannot share `width` channels out between its `heads`."""
    refuse_outside(group, values, {width: 1, heads: 1})
    dim, parts = getattr(values, width), getattr(values, heads)
    if dim % parts:
        raise UserError(f"{group}{width}={dim} must be divisible by {group}{heads}={parts}.")


def refuse_negative(group: str, values: Any) -> None:
    """`UserError` where a number of a dataclass, or of one in it, is negative; one whose default is may be.

    A weight, size, share or momentum below zero trains another objective, or counts other FLOPs, without a word.
    """
    for f in fields(values) if is_dataclass(values) else ():
        value = getattr(values, f.name)
        refuse_negative(f"{group}{f.name}.", value)
        signed = isinstance(f.default, (int, float)) and f.default < 0
        if type(value) in (int, float) and value < 0 and not signed:
            raise UserError(f"{group}{f.name}={value} must be at least 0.")


@dataclass(frozen=True)
class Bounds:
    """What a setting's numbers may be, where its default does not say it all (`schema.bounded`)."""

    least: float | None = None  # None: what the default says
    most: float = math.inf
    below: float = math.inf
    empty: bool = False  # whether a tuple may have no value


def refuse_impossible(group: str, values: Any, usual: Any = None) -> None:
    """`UserError` where a number of a dataclass, or of one in it, cannot be. The default, as in `usual`, says what can.

    Where it is above 0 (epochs, rates, sizes), so is every value; where it is 0 (none, all, as it is), 0 is the least;
    where it is negative, anything goes. The values of a tuple are bounded alike, and one that has values by default
    needs one. A field of which this is not so says it by `Bounds`. Without it `shots=-5` was a number in a table.
    """
    for f in fields(values) if is_dataclass(values) else ():
        value = getattr(values, f.name)
        standard = _default(f, value) if usual is None else getattr(usual, f.name, value)
        if is_dataclass(value):
            refuse_impossible(f"{group}{f.name}.", value, standard)
        else:
            _refuse(f"{group}{f.name}", value, standard, f.metadata.get("bounds", Bounds()))


def _default(f: Field[Any], value: Any) -> Any:
    """A field's default; what it has, where there is none."""
    if f.default is not MISSING:
        return f.default
    return value if f.default_factory is MISSING else f.default_factory()


def _refuse(name: str, value: Any, standard: Any, bounds: Bounds) -> None:
    if value == () and standard and not bounds.empty:
        raise UserError(f"{name} is empty: it needs a value, as in {name}={_typed(standard)}.")
    low, strict = bounds.least, False
    if low is None:
        usual = min(_numbers(standard), default=-1)
        low, strict = (-math.inf if usual < 0 else 0), usual > 0
    for number in _numbers(value):
        enough = low < number if strict else low <= number
        if not (enough and number <= bounds.most and number < bounds.below):
            least = f"{'above' if strict else 'at least'} {low:g}"
            least = "at least 1" if strict and isinstance(number, int) else least
            reach = {least: low > -math.inf, f"at most {bounds.most:g}": bounds.most < math.inf}
            reach |= {f"below {bounds.below:g}": bounds.below < math.inf}
            each = " each" if isinstance(value, tuple) and len(value) > 1 else ""
            raise UserError(f"{name}={_typed(value)} must{each} be {' and '.join(t for t in reach if reach[t])}.")


def _typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _numbers(value: Any) -> list[float]:
    """The numbers of a setting: its own, or those of its tuple; true and false are none."""
    return [x for x in (value if isinstance(value, tuple) else (value,)) if type(x) in (int, float)]


def zeros(values: Any, usual: Any) -> str:
    """The numbers of an objective that are 0, and not so in its recipe, as they are set: what is likely to blame."""
    return " and ".join(
        f"objective.{f.name}=0"
        for f in fields(values)
        if type(value := getattr(values, f.name)) in (int, float) and not value and getattr(usual, f.name)
    )
