"""Why each setting has its value, read from the source: trailing comments of dataclass fields and of recipes."""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from ssl_bench.config.schema import Config


def comments(source: str) -> dict[int, str]:
    """Line number -> trailing comment."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}


def field_reasons(cls: type) -> dict[str, str]:
    """Field name -> its documentation, for one dataclass and those it inherits from."""
    out: dict[str, str] = {}
    for base in reversed([c for c in cls.__mro__ if is_dataclass(c)]):
        source = textwrap.dedent(inspect.getsource(base))
        notes = comments(source)
        body = next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)).body
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                out[node.target.id] = notes.get(node.end_lineno or 0, "")
    return out


def recipe_reasons(recipe: Callable[..., Config]) -> dict[str, str]:
    """Keyword name -> comment beside it, in the recipe and in the functions of its own file that it calls."""
    out: dict[str, str] = {}
    todo, done = [recipe], set()
    while todo:
        function = todo.pop(0)
        if function in done:
            continue
        done.add(function)
        source = textwrap.dedent(inspect.getsource(function))
        notes = comments(source)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.keyword) and node.arg and node.value.end_lineno in notes:
                out.setdefault(node.arg, notes[node.value.end_lineno])
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                called = function.__globals__.get(node.func.id)
                if inspect.isfunction(called) and called.__module__ == function.__module__:
                    todo.append(called)
    return out


def settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(dotted key, value, documentation) for every leaf, in order."""
    reasons = field_reasons(type(config))
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            yield from settings(value, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", value, reasons[f.name]


def explain(config: Config, recipe: Callable[..., Config] | None) -> list[tuple[str, str, str]]:
    """(key, value, reason): the recipe's own comment where it has one, else what the field means."""
    own = recipe_reasons(recipe) if recipe else {}
    rows = []
    for key, value, meaning in settings(config):
        reason = own.get(key.rsplit(".", 1)[-1], "") if not key.startswith("run.") else ""
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        rows.append((key, shown, f"{meaning} [{recipe.__name__}: {reason}]" if reason and recipe else meaning))
    return rows
