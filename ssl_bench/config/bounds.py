"""Bounds of numbers in settings: what lies outside is one sentence, before anything runs."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
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


def zeros(values: Any, usual: Any) -> str:
    """The numbers of an objective that are 0, and not so in its recipe, as they are set: what is likely to blame."""
    return " and ".join(
        f"objective.{f.name}=0"
        for f in fields(values)
        if type(value := getattr(values, f.name)) in (int, float) and not value and getattr(usual, f.name)
    )
