"""Settings read back from a file, which may come from anybody: typed, complete or refused; nothing is run."""

from __future__ import annotations

import types
import typing
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from ssl_bench.errors import UserError, nearest


def from_dict(cls: type, values: Any, objective: type | None = None) -> Any:
    """The inverse of `config.to_dict`; `objective` is the dataclass of `Config.objective`. Unknown keys are errors."""
    if not isinstance(values, dict):
        raise UserError(f"{cls.__name__} must be a group of settings, it is {values!r:.60}.")
    hints = typing.get_type_hints(cls)
    known = {f.name for f in fields(cls)}
    out = {}
    for key, value in values.items():
        if key not in known:
            raise UserError(f"Unknown setting '{key}' in {cls.__name__}. {nearest(key, known)}")
        kind = objective if key == "objective" and objective else hints[key]
        if is_dataclass(kind):
            out[key] = from_dict(typing.cast(type, kind), value)
        elif _fits(value, kind):
            out[key] = tuple(value) if isinstance(value, list) else value
        else:
            raise UserError(f"{cls.__name__}.{key}={value!r:.60} does not fit: it must be {kind}.")
    try:
        return cls(**out)
    except TypeError as error:  # a field without a default is not there
        raise UserError(f"{cls.__name__} is incomplete: {error}.") from None


def _fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of this annotation."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if origin is tuple:
        kinds = [args[0]] * len(value) if isinstance(value, list) and args[-1] is Ellipsis else list(args)
        return isinstance(value, list) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if kind is float:
        return isinstance(value, float) or (type(value) is int and abs(value) < 2**1000)
    return type(value) is kind
