"""Writes the tree of README.md from the first line of every module: `python tests/write_tree.py`."""

from __future__ import annotations

import ast
import re
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


if __name__ == "__main__":
    readme = HOME / "README.md"
    readme.write_text(tree(readme.read_text()))
