"""Writes what the documentation says of files from the files themselves: `python tests/write_tree.py`.

The tree of README.md, from the first sentence of every module, and the README of methods/ and of protocols/.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent


def phrase(path: Path) -> str:
    """The first sentence of a module's docstring, without the name that a method or protocol starts it with."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    text = text.partition(": ")[2] if path.parent.name in ("methods", "protocols") and ": " in text else text
    text = re.split(r"\.(?: |$)", text)[0]
    text = text if len(text) <= 96 else re.split(r"[,;:](?=[^,;:]*$)", text[:96])[0]
    return text.rpartition(" (")[0] if text.count("(") > text.count(")") else text


def tree(readme: str) -> str:
    """README with every folder's files listed below the folder's own line, which is kept."""
    before, block, after = readme.partition("\nssl_bench/  ")
    lines = []
    for line in (block.strip("\n") + after.partition("\n```")[0]).splitlines():
        if line.startswith("  "):
            continue
        lines.append(line)
        folder = HOME / line.split("/")[0]
        if folder.name != "tests":
            files = [p for p in sorted(folder.glob("*.py")) if p.name != "__init__.py"]
            lines += [f"  {p.name:<21} {phrase(p)}" for p in files]
    return before + "\n" + "\n".join(lines) + "\n```" + after.partition("\n```")[2]


def catalogue(folder: str, columns: tuple[str, ...], rows: dict[str, tuple[str, ...]]) -> str:
    """README of a folder: one table, then every file's own docstring."""
    out = [f"# {folder.capitalize()}", ""]
    out += [
        f"Written from the files by `python tests/write_tree.py`; on the command line: `ssl-bench list {folder}`.",
        "",
    ]
    out += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    out += ["| " + " | ".join((f"[`{n}`](#{n})", *cells)).replace("\n", " ") + " |" for n, cells in rows.items()]
    for name in rows:
        text = ast.get_docstring(ast.parse((HOME / folder / f"{name}.py").read_text())) or ""
        out += ["", f"## {name}", "", text.strip()]
    return "\n".join(out) + "\n"


def catalogues() -> dict[Path, str]:
    """methods/README.md and protocols/README.md as they should be."""
    from ssl_bench import find
    from ssl_bench.method import Method
    from ssl_bench.protocol import Protocol, variants

    methods, protocols = {}, {}
    for name in find.names("methods"):
        m = find.defined(find.module("methods", name), Method)
        methods[name] = (m.family, m.sees, f"{m.evaluated}, {m.pooling}", m.paper)
    for name in find.names("protocols"):
        module = find.module("protocols", name)
        p = find.defined(module, Protocol)
        protocols[name] = (str(p.version), p.input, ", ".join(f"`{name}:{v}`" for v in variants(module)) or "none")
    return {
        HOME / "methods/README.md": catalogue("methods", ("method", "family", "sees", "evaluated", "paper"), methods),
        HOME / "protocols/README.md": catalogue("protocols", ("protocol", "version", "input", "variants"), protocols),
    }


if __name__ == "__main__":
    sys.path.insert(0, str(HOME))
    readme = HOME / "README.md"
    readme.write_text(tree(readme.read_text()))
    for path, text in catalogues().items():
        path.write_text(text)
