"""What must not be imported: `--help` answers at once, and no run waits for a compiler that nothing uses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "timm", "pandas", "torchvision", "sklearn", "numpy"}


def imported(*command: str) -> set[str]:
    done = subprocess.run([sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def test_help_imports_nothing_heavy() -> None:
    seen = imported("-m", "ssl_bench", "--help")
    assert "click" in seen and not seen & HEAVY


@pytest.mark.slow
def test_a_run_does_not_import_the_compiler(tmp_path: Path) -> None:
    run = f"pretrain --method mae --recipe quick budget.steps=1 --root {tmp_path}".split()
    seen = imported("-m", "ssl_bench", *run)
    assert "torch" in seen and "torch._dynamo" not in seen and "wandb.sdk" not in seen
    seen = imported("-m", "ssl_bench", *f"eval --protocol knn --root {tmp_path}".split())
    assert "torch" in seen and "torch._dynamo" not in seen


@pytest.mark.slow
def test_the_compiler_works_afterwards() -> None:
    code = "import ssl_bench.models.timm_parts, torch"
    code += "; print(torch.compile(lambda x: x + 1, backend='eager')(torch.ones(2)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("tensor([2., 2.])"), done.stderr
