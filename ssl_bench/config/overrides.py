"""Typed `key.sub=value` overrides of a config: an unknown key names the nearest one, a wrong type is a sentence."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal

from ssl_bench.config.schema import BUDGETS, Config, ViTConfig, vit
from ssl_bench.errors import UserError, nearest


def resolve(config: Config, assignments: Sequence[str]) -> Config:
    """A recipe's config with the user's settings, checked. A budget given by the user replaces the recipe's kind."""
    given, kinds = config, {f"budget.{k}" for k in BUDGETS}
    if kinds & {text.partition("=")[0] for text in assignments}:
        config = replace(config, budget=replace(config.budget, **dict.fromkeys(BUDGETS, 0)))
    config = _kept(given, override(config, assignments))
    unused: set[str] = config.objective.unused() if hasattr(config.objective, "unused") else set()
    for text in assignments:
        group, _, rest = text.partition("=")[0].partition(".")
        if group == "objective" and rest.partition(".")[0] in unused:
            raise UserError(f"'{text}' has no effect beside the other settings of {config.method}: leave it out.")
    return config.check()


def override(config: Any, assignments: Sequence[str]) -> Any:
    """Apply `key.sub=value` texts to a frozen dataclass, typed by its annotations."""
    given, seen = config, set()
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"'{text}' is not a setting: write key=value, for example optim.lr=1e-3.")
        if key in seen:
            raise UserError(f"'{key}' is set twice: the first value would be ignored.")
        seen.add(key)
        config = _set(config, key, "", value)
    return _kept(given, config)


def _kept(old: Any, new: Any) -> Any:
    """`new` with what equals `old` as `old` writes it: 100.0 typed for a recipe's 100 is no other run."""
    if new == old:
        return old
    if not is_dataclass(new) or type(new) is not type(old):
        return new
    same = {f.name: _kept(getattr(old, f.name), getattr(new, f.name)) for f in fields(new)}
    return replace(new, **same)  # type: ignore[type-var]


def _set(config: Any, key: str, prefix: str, text: str) -> Any:
    """`config` with `key` (below `prefix`) set to `text`."""
    known = {f.name for f in fields(config)}
    head, _, rest = key.partition(".")
    name = prefix + head
    if head not in known:
        raise UserError(f"Unknown setting '{prefix}{key}'. {_where(config, head, prefix)}")
    if head == "method_version":
        raise UserError("'method_version' is no setting: it is `version` in the method's file.")
    if head in ("method", "recipe"):
        raise UserError(f"'{name}' is chosen by --{head}, not by a setting.")
    value = getattr(config, head)
    if rest:
        if not is_dataclass(value):
            raise UserError(f"'{prefix}{key}': '{name}' has no settings below it.")
        return replace(config, **{head: _set(value, rest, f"{name}.", text)})
    if isinstance(value, ViTConfig):  # backbone=vit_small_patch4 changes size and patch and keeps the rest
        named = vit(text, patch_size=value.patch_size)
        size = {k: getattr(named, k) for k in ("embed_dim", "depth", "num_heads", "mlp_ratio", "patch_size")}
        return replace(config, **{head: replace(value, **size)})
    if is_dataclass(value):
        raise UserError(f"'{name}' is a group: set one of {', '.join(f'{name}.{f.name}' for f in fields(value))}.")
    return replace(config, **{head: parse(text, typing.get_type_hints(type(config))[head], name)})


def _where(config: Any, head: str, prefix: str) -> str:
    """The nearest name here, or the same name in another group: `lr` is `optim.lr`."""
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value) and head in {g.name for g in fields(value)}:
            return f"Did you mean '{prefix}{f.name}.{head}'?"
    return nearest(prefix + head, [prefix + f.name for f in fields(config)])


def parse(text: str, kind: Any, name: str) -> Any:
    """A typed value from text; `kind` is an annotation: int, float, bool, str, Literal, tuple or a union with None."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if type(None) in args and text.lower() in ("none", "null"):
            return None
        return _first_that_fits(text, [a for a in args if a is not type(None)], name)
    if origin is Literal:
        if text not in args:
            raise UserError(f"{name}='{text}' is not a choice. {nearest(text, args)}")
        return text
    if origin is tuple:
        separated = text.replace("x", ",") if set(args) == {int} else text  # 32x96 pixels
        parts = [p for p in separated.strip("()[] ").split(",") if p.strip()]
        kinds = [args[0]] * len(parts) if args[-1] is Ellipsis else list(args)
        if len(parts) != len(kinds):
            example = f"{name}={','.join(str(8 * (i + 1)) if k is int else f'0.{i + 3}' for i, k in enumerate(kinds))}"
            raise UserError(f"{name}={text} needs {len(kinds)} comma-separated values, for example {example}.")
        return tuple(parse(p.strip(), k, name) for p, k in zip(parts, kinds, strict=True))
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise UserError(f"{name}='{text}' must be true or false.")
        return text.lower() in ("true", "1", "yes")
    if kind in (int, float):
        try:
            number = float(text)
            if not math.isfinite(number) or (kind is int and number != int(number)):
                raise ValueError
            return int(number) if kind is int else number
        except (ValueError, OverflowError):
            raise UserError(f"{name}='{text}' must be {'a whole' if kind is int else 'a'} number.") from None
    return text


def _first_that_fits(text: str, kinds: Sequence[Any], name: str) -> Any:
    """The value as the first of several annotations that takes it."""
    for kind in kinds[:-1]:
        with suppress(UserError):
            return parse(text, kind, name)
    try:
        return parse(text, kinds[-1], name)
    except UserError as error:
        if set(kinds) != {int, tuple[int, int]}:
            raise
        raise UserError(f"{name}='{text}' must be a whole number, or two of them as in {name}=32x96.") from error
