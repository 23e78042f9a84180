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

CODE_STATE = "code_state.json"  # beside a copy of the code that is no git repository (slurm/snapshot.py)


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


def versions() -> dict[str, str]:
    """Versions of the libraries that shape a number."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def code_state() -> dict[str, Any]:
    """Git commit and whether tracked files differ from it; the package version where there is no git."""
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
        dirty = bool(git("status", "--porcelain", "--untracked-files=no")) if commit else False
    except OSError:
        commit, dirty = "", False
    return {"commit": commit or f"ssl-bench {importlib.metadata.version('ssl-bench')}", "dirty": dirty}
