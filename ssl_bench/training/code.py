"""The code that a number comes from: a content hash of every module that can change it.

Provenance and a warning, never the identity: that a number can change is said by a `version`, raised by hand. Modules
are found by following imports through the syntax tree, in methods/, protocols/, the parts of ssl_bench/ that shape a
number, and a user's own folders; nothing is imported. Comments, docstrings, formatting and the sentences of errors
change no hash. What is identified otherwise is not followed: settings (the config's identity), what readers of images
do (the set's fingerprint), installed packages (their versions).
"""

from __future__ import annotations

import ast
import functools
import gc
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

OURS = ("ssl_bench", "methods", "protocols")
ELSEWHERE = ("cli", "config", "data", "errors", "experiments", "files", "find", "screen")  # of ssl_bench
COUNTED = (  # which images are held out, how one becomes a batch, what is planned
    "ssl_bench.data.dataset", "ssl_bench.data.items", "ssl_bench.data.trajectories", "ssl_bench.data.rollouts",
    "ssl_bench.data.world",
)  # fmt: skip
LOOP = ("ssl_bench.training.train",)  # with what it imports: the step of every method
FEATURES = ("ssl_bench.encoders.encoder", "ssl_bench.models.vit")  # with what they import: a run's features
PLACE = frozenset(("lineno", "col_offset", "end_lineno", "end_col_offset", "ctx", "kind", "type_comment"))
BODIES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def training(method: str) -> dict[str, Any]:
    """Of a pretraining: `hash` over all modules, and `modules`, the digest of each by its name."""
    return of(_full("methods", method), *LOOP)


def features(model: Any = None) -> dict[str, Any]:
    """Of the features of a network: of a run's or an untrained one's, or as `model` is read by an adapter of ours."""
    home = type(model).__module__
    return of(*FEATURES, *([home] if home.startswith("ssl_bench.") else []))


def evaluation(protocol: str, model: Any = None) -> dict[str, Any]:
    """Of an evaluation by a protocol (`linear`, `my_lab.probe`) and of the features it gets."""
    whole = of(_full("protocols", protocol))["modules"] | features(model)["modules"]
    return _hashed(whole)


def of(*roots: str) -> dict[str, Any]:
    """Of these modules (full names) and what they import, directly or not: `hash` and `modules`. Once per process."""
    return _hashed(dict(_closure(roots)))


def _hashed(modules: dict[str, str]) -> dict[str, Any]:
    text = "\n".join(f"{name} {digest}" for name, digest in sorted(modules.items()))
    return {"hash": hashlib.sha256(text.encode()).hexdigest()[:12], "modules": dict(sorted(modules.items()))}


def differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Modules that are other ones, new, or gone; [] also where `before` knows none: it is from before there was a hash.

    Modules that came or went are named only where no other says why.
    """
    old, new = before.get("modules") or {}, now["modules"]
    changed = [name for name in sorted(old.keys() & new.keys()) if old[name] != new[name]]
    return changed or (sorted(old.keys() ^ new.keys()) if old else [])


def since(then: dict[str, Any]) -> list[str]:
    """Modules behind what is recorded in `then` that are other ones here and now, as `differing` tells them."""
    return differing(then, of(*sorted(then.get("modules") or {})))


def files(names: Sequence[str]) -> str:
    """`methods/mae.py, ssl_bench/views/masks.py and 2 more`, for a sentence."""
    paths = [name.replace(".", "/") + ".py" for name in names]
    if len(paths) > 3:
        return f"{', '.join(paths[:3])} and {len(paths) - 3} more"
    return " and ".join([", ".join(paths[:-1]), paths[-1]]) if len(paths) > 1 else "".join(paths)


def _full(folder: str, name: str) -> str:
    return name if "." in name else f"{folder}.{name}"


@functools.cache
def _closure(roots: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """(module, digest) of everything reached from `roots`, sorted."""
    own = frozenset(root.partition(".")[0] for root in roots)
    found: dict[str, str] = {}
    left = list(roots)
    collecting = gc.isenabled()
    gc.disable()  # a tree has tens of thousands of nodes, and none is garbage yet
    try:
        while left:
            for module, path in _located(left.pop(), own):
                if module not in found:
                    found[module], imports = _read(path)
                    left += _absolute(module, path, imports)
    finally:
        if collecting:
            gc.enable()
    return tuple(sorted((name, digest) for name, digest in found.items() if digest))


def _located(name: str, own: frozenset[str]) -> Iterator[tuple[str, Path]]:
    """The files of a dotted name: those of the packages it lies in, and its own. None where it does not count."""
    parts = name.split(".")
    if parts[0] == "ssl_bench" and parts[1:2] and parts[1] in ELSEWHERE and ".".join(parts[:3]) not in COUNTED:
        return
    folders = _top(parts[0], parts[0] in own)
    for depth, part in enumerate(parts):
        hits = [p for folder in folders for p in (folder / part / "__init__.py", folder / f"{part}.py") if p.is_file()]
        if hits and (depth or part != "ssl_bench"):  # whose __init__ holds the package's version alone
            yield ".".join(parts[: depth + 1]), hits[0]
        folders = [folder / part for folder in folders if (folder / part).is_dir()]
        if not folders:
            return


@functools.cache
def _top(name: str, own: bool) -> list[Path]:
    """Folders that hold a top-level module that counts: ours, the method's own, and any that is not installed."""
    if name in sys.stdlib_module_names:
        return []
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return []
    inside = [Path(place) for place in spec.submodule_search_locations or []]
    places = [p.parent for p in inside] if inside else [Path(spec.origin).parent] if spec.has_location else []  # type: ignore[arg-type]
    installed = [Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib")]
    counts = own or name in OURS
    return [p for p in places if counts or not any(p.resolve().is_relative_to(i) for i in installed)]


@functools.cache
def _read(path: Path) -> tuple[str, tuple[tuple[int, str, tuple[str, ...]], ...]]:
    """Digest of a file's syntax tree ("": it holds no code), and its imports as (level, module, names)."""
    source = path.read_bytes()
    imports: list[tuple[int, str, tuple[str, ...]]] = []
    try:
        out: list[str] = []
        _spell(tree := ast.parse(source), out, imports)
        if not tree.body or (len(tree.body) == 1 and ast.get_docstring(tree) is not None):
            return "", ()  # says what a folder holds
        source = "\0".join(out).encode(errors="surrogatepass")
    except (SyntaxError, ValueError, RecursionError):  # never run, or it would have failed: its bytes will do
        imports = []
    return hashlib.sha256(source).hexdigest()[:8], tuple(imports)


def _spell(node: Any, out: list[str], imports: list[tuple[int, str, tuple[str, ...]]]) -> None:
    """A tree as words, the same in every version of Python: what is empty there is left out."""
    if isinstance(node, list):
        for item in node:
            _spell(item, out, imports)
        out.append("]")
    elif isinstance(node, ast.Raise):  # a sentence changes no number
        out.append("Raise")
    elif isinstance(node, ast.AST):
        out.append(type(node).__name__)
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
        told = isinstance(node, BODIES) and ast.get_docstring(node, clean=False) is not None
        for name in node._fields:
            value = getattr(node, name, None)
            if name in PLACE or value is None or value == []:
                continue
            out.append(name)
            _spell(value[1:] if told and name == "body" else value, out, imports)
        out.append(")")
    else:
        out.append(repr(node))


def _absolute(module: str, path: Path, imports: Iterable[tuple[int, str, tuple[str, ...]]]) -> Iterator[str]:
    """Full names of what may be a module: `from a import b` is `a.b` where there is such a file, else `a`."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for level, name, names in imports:
        above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
        base = ".".join([*above, *([name] if name else [])])
        yield from ([f"{base}.{word}" for word in names if word != "*"] or [base]) if names else [base]
