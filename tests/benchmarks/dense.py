"""What each head of the protocol `dense` takes at 2,000 images of 196 patches: python tests/benchmarks/dense.py

The command `eval` itself, once for each protocol in a process of its own, on an untrained ViT-Ti/16 at 224 pixels and
the set factors:2000 (2,000 training images, of which a part validates, 500 test images): CPU seconds of one thread and
the most memory that was resident, both as the kernel counts them for that process. A call before them reads the
features, so that only dense:match, which encodes views of its own, spends time in the network.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

PROTOCOLS = ("dense", "dense:match", "dense:linear", "dense:knn")


def measured(root: Path, protocol: str, *more: str) -> tuple[float, float, int]:
    """Seconds on the wall, CPU seconds, and bytes at most resident, of one evaluation."""
    command = [sys.executable, "-m", "ssl_bench", "eval", "random:vit_tiny_patch16@224", "--data", "factors:2000",
               "--image-size", "224", "--protocol", protocol, "--threads", "1", "--device", "cpu", *more]  # fmt: skip
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--root", str(root)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}.")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


@click.command()
@click.argument("protocols", nargs=-1)
def main(protocols: tuple[str, ...]) -> None:
    """All four, or those that are named; a line as soon as each is measured."""
    with tempfile.TemporaryDirectory() as root:
        measured(Path(root), "dense:linear", "--set", "dense:linear.steps=1")
        for name in protocols or PROTOCOLS:
            wall, cpu, memory = measured(Path(root), name)
            click.echo(f"| {name} | {cpu:.0f} CPU s | {wall:.0f} s | {memory / 1e9:.2f} GB |")


if __name__ == "__main__":
    main()
