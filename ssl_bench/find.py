"""A name is a module: `ijepa` is `methods/ijepa.py`, `my_lab.idea` is your own, on the path or in this directory."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from ssl_bench.errors import UserError, nearest

Base = TypeVar("Base")

_HERE = Path(__file__).resolve().parent
_IN_CLONE = (_HERE.parent / "pyproject.toml").is_file()
# A wheel carries methods/ and the rest in _bundled/. A clone never uses that copy: it may be stale.
HOME = _HERE / "_bundled" if (_HERE / "_bundled").is_dir() and not _IN_CLONE else _HERE.parent
if str(HOME) not in sys.path:
    sys.path.append(str(HOME))  # at the end: our folder names must not shadow anybody's packages


def names(folder: str) -> list[str]:
    """The public modules of `methods` or `protocols`, sorted; nothing is imported."""
    spec = find_spec(folder)
    found = list(spec.submodule_search_locations or []) if spec else []
    if [Path(place).resolve() for place in found] != [HOME / folder]:
        raise UserError(
            f"ssl-bench needs its own package '{folder}' from {HOME}, but Python finds {found or 'none'}. "
            "Remove or rename that one, or install ssl-bench again."
        )
    return sorted(m.name for m in pkgutil.iter_modules(found) if not m.name.startswith("_"))


def search_here() -> None:
    """Your own modules are found in this directory too."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def module(folder: str, name: str) -> ModuleType:
    """The module of a plain name in `folder`, or of a dotted name anywhere on the path or in this directory."""
    if "." in name:
        search_here()
        return load(name)
    known = names(folder)
    if name not in known:
        hint = nearest(name.lower().replace("-", "_"), known)
        raise UserError(f"Unknown {folder.removesuffix('s')} '{name}'. {hint} See 'ssl-bench list {folder}'.")
    return load(f"{folder}.{name}")


def load(full: str) -> ModuleType:
    """A module by its full name; what goes wrong while importing it is one sentence."""
    try:
        return importlib.import_module(full)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and f"{full}.".startswith(f"{error.name}."):
            raise UserError(
                f"There is no module '{full}': '{error.name}' is neither installed nor in {os.getcwd()}."
            ) from error
        file, line = _origin(error)
        raise UserError(
            f"'{full}' cannot be imported: {type(error).__name__}: {error} ({file}, line {line})."
        ) from error


def _origin(error: BaseException) -> tuple[str, int]:
    """The last line outside the import machinery: the import statement that failed."""
    trace, place = error.__traceback__, ("?", 0)
    while trace:
        if not trace.tb_frame.f_code.co_filename.startswith("<frozen importlib"):
            place = (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    return place


def defined(module: ModuleType, base: type[Base]) -> type[Base]:
    """The one public subclass of `base` written in this module (imported ones do not count)."""
    own = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
    found = {c.__name__: c for c in own if issubclass(c, base) and not c.__name__.startswith("_")}
    if len(found) != 1:
        raise UserError(
            f"{module.__file__} must define exactly one subclass of {base.__name__}; "
            f"it defines {', '.join(sorted(found)) or 'none'}."
        )
    return next(iter(found.values()))


def recipes(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The public functions written in this module that return a `Config`, in source order."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
        if inspect.get_annotations(value).get("return") in ("Config", getattr(module, "Config", "Config"))
    }


def departs(method: str, name: str) -> str:
    """What a recipe changes of its paper, from `DEPARTS` of the method's file; "" where it is not said."""
    return next((text for names, text in stated(method, "DEPARTS").items() if name in names.split(", ")), "")


def row_name(method: str, objective: Mapping[str, Any]) -> str:
    """What a row is: the method where its objective is the paper's, else with what makes it another: `OFF_PAPER`."""
    return " + ".join([method, *(text for key, text in stated(method, "OFF_PAPER").items() if objective.get(key))])


def stated(method: str, name: str) -> dict[str, str]:
    """A table of texts that a method's file states as a literal, read without running it; {} where there is none, or
    where somebody's own file is half written."""
    if "." in method:
        search_here()
    try:
        spec = find_spec(method if "." in method else f"methods.{method}")
    except Exception:  # what its package runs may fail in any way
        return {}
    if spec is None or spec.origin is None:
        return {}
    try:
        body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    except SyntaxError:
        return {}
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if value is not None and [getattr(target, "id", "") for target in targets] == [name]:
            return _texts(value, f"{name} in {spec.origin}, line {node.lineno},")
    return {}


def _texts(node: ast.expr, what: str) -> dict[str, str]:
    """A literal table of texts; anything else is one sentence, for what it would have said must not fall away."""
    try:
        table = ast.literal_eval(node)
    except (ValueError, TypeError):
        table = None
    if not isinstance(table, dict) or not all(isinstance(text, str) for pair in table.items() for text in pair):
        raise UserError(
            f'{what} must be written out as names and texts, {{"small": "what it changes"}}: it is read without '
            "running the file."
        )
    return table


def recipe(method: str, name: str) -> Callable[..., Any]:
    """The recipe function of a method by name; its config carries that name, whatever function it is built on."""
    known = recipes(module("methods", method))
    if name not in known:
        raise UserError(f"Method '{method}' has no recipe '{name}'. {nearest(name, known)}")
    made = known[name]

    @wraps(made)
    def named(*args: Any, **changes: Any) -> Any:
        return replace(made(*args, **changes), recipe=name)

    return named
