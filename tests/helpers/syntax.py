"""What a file imports and names, read from its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))


def imported(path: Path, modules: frozenset[str] = frozenset()) -> set[str]:
    """Full names of what a file imports, anywhere in it, also by `import_module` and `__import__` of a literal name.

    `from a import b` is `a.b` where that is one of `modules`, else `a`.
    """
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            base = node.module or ""
            found |= {f"{base}.{a.name}" if f"{base}.{a.name}" in modules else base for a in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found |= {str(a.value) for a in node.args[:1] if isinstance(a, ast.Constant)}
    return found


def words(path: Path) -> set[str]:
    """Every identifier of a file, and every string: `getattr(data, "open_test")` is a use too."""
    found = set()
    for node in nodes(path):
        for field in ("id", "attr", "name", "arg", "value", "asname"):
            word = getattr(node, field, None)
            if isinstance(word, str):
                found.add(word)
    return found
