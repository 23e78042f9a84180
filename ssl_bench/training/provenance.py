"""Where a number comes from: code commit and dirty flag, versions, machine, command line."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from ssl_bench.parallel.devices import processor
from ssl_bench.training import code

CODE_STATE = "code_state.json"  # beside a copy of the code that is no git repository (slurm/snapshot.py)
FOLDERS = ("ssl_bench", "methods", "protocols", "results", "slurm")  # a new file there is part of the code
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn")


def provenance(extra: dict[str, Any]) -> dict[str, Any]:
    """Code commit and dirty flag, versions, machine and command line."""
    return {
        "code": code_state(),
        "versions": versions(),
        "python": platform.python_version(),
        "machine": {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform()},
        "command": sys.argv,
        **extra,
    }


def of_training(method: str, before: dict[str, Any]) -> dict[str, Any]:
    """`code` of a run that starts now, or goes on: `before` is what it wrote of itself then ({}: it starts), and code
    that it was half trained by stays in `earlier`.
    """
    now = {**code_state(), **code.training(method)}
    then = before.get("code") or {}
    earlier = [*before.get("earlier", []), *([then] if then and then.get("hash") != now["hash"] else [])]
    return {"code": now, **({"earlier": earlier} if earlier else {})}


def versions() -> dict[str, str]:
    """Versions of the libraries that shape a number."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def code_state() -> dict[str, Any]:
    """Git commit and whether the files differ from it, or code lies beside them that git does not know; the package
    version where there is no git.
    """
    root = Path(__file__).resolve().parents[2]
    if (root / CODE_STATE).exists():
        state: dict[str, Any] = json.loads((root / CODE_STATE).read_text())
        return state

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        inside = git("rev-parse", "--show-toplevel") == str(root)
        commit = git("rev-parse", "HEAD") if inside else ""
        dirty = bool(commit) and bool(
            git("status", "--porcelain", "--untracked-files=no")
            or git("ls-files", "--others", "--exclude-standard", "--", *(f"{folder}/*.py" for folder in FOLDERS))
        )
    except OSError:
        commit, dirty = "", False
    return {"commit": commit or f"ssl-bench {importlib.metadata.version('ssl-bench')}", "dirty": dirty}
