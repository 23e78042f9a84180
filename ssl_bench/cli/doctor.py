"""`ssl-bench doctor`: versions, devices, and what of this machine makes training slow."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ssl_bench.cli.options import ROOT

SECONDS = 0.5  # of each measurement
FAST_CPU_GFLOPS = 300.0  # per core in bf16, about what a core with AMX gives


@click.command(name="doctor")
@ROOT
def doctor(root: Path) -> None:
    """Versions, devices, and what makes this machine slow.

    \b
    Measures matrix products and the disk for a second or two; changes nothing.
    Example: ssl-bench doctor
    """
    from ssl_bench import screen

    facts, slow = examine(root)
    table = screen.sheet("what", "found")
    for name, found in facts:
        table.add_row(name, found)
    screen.console.print(table)
    for sentence in slow or ["Nothing slow was found."]:
        screen.say(f"{'! ' if slow else ''}{sentence}", "yellow" if slow else "green")


def examine(root: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """Facts as name and text, and a sentence for all that is slow, with what to do about it."""
    import platform

    import torch

    from ssl_bench import __version__
    from ssl_bench.data import places
    from ssl_bench.parallel import devices
    from ssl_bench.screen import quantity
    from ssl_bench.training import provenance

    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
    facts = [("ssl-bench", f"{__version__}, Python {platform.python_version()}"), ("libraries", versions)]
    slow: list[str] = []
    cores, threads, load = len(os.sched_getaffinity(0)), torch.get_num_threads(), os.getloadavg()[0]
    features = [f for f in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if f in devices.cpu_flags()]
    facts += [("CPU", f"{devices.processor()}, {cores} cores, threads of a process: {threads}, load {load:.1f}")]
    facts += [("CPU features", ", ".join(features) or "none that help")]
    rates = {name: gemm(torch.device("cpu"), getattr(torch, name)) for name in ("bfloat16", "float32")}
    facts += [("CPU products", ", ".join(f"{name} {quantity(rate, 'FLOP/s')}" for name, rate in rates.items()))]
    native = devices.multiplies_bf16(torch.device("cpu"))
    slow += _slow_cpu(cores, threads, load, features, rates, native) + devices.crowded(torch.device("cpu"))
    for i in range(torch.cuda.device_count()):
        p, rate = torch.cuda.get_device_properties(i), gemm(torch.device("cuda", i), torch.bfloat16)
        facts += [(f"cuda:{i}", f"{p.name}, {quantity(p.total_memory, 'B')}, bfloat16 {quantity(rate, 'FLOP/s')}")]
    if not torch.cuda.is_available():
        facts += [("GPU", "none that torch sees")]
    for name, folder in (("runs", root), ("cache", places.cache_folder())):
        text, sentences = _disk(name, folder.absolute())
        facts, slow = [*facts, (name, text)], [*slow, *sentences]
    return facts, slow


def gemm(device: Any, dtype: Any, size: int = 512) -> float:
    """FLOP/s of square matrix products, the best of many in `SECONDS`."""
    import torch

    size = 8192 if device.type == "cuda" else size
    a = torch.randn(size, size, device=device).to(dtype)
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end or best == float("inf"):
        began = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _slow_cpu(
    cores: int, threads: int, load: float, features: Sequence[str], rates: dict[str, float], native: bool
) -> list[str]:  # fmt: skip
    """What of the processor is slow, and why."""
    out = []
    if threads < cores:
        why = (
            f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}" if "OMP_NUM_THREADS" in os.environ else "torch's choice"
        )
        out.append(f"One process uses {threads} of {cores} cores ({why}); `compare` fills the others with runs.")
    if load > cores:
        out.append(f"{load:.0f} processes want {cores} cores: measured rates and times are those of a busy machine.")
    if rates["bfloat16"] < rates["float32"]:
        then = "try precision=fp32" if native else "runs compute in float32 instead"
        out.append(f"bfloat16 is slower than float32 on this CPU: {then}.")
    elif rates["bfloat16"] < FAST_CPU_GFLOPS * 1e9 * threads and "amx_bf16" not in features:
        out.append("The CPU has no amx_bf16, made for bfloat16 products: one that has it, or a GPU, trains faster.")
    return out


def _disk(name: str, folder: Path) -> tuple[str, list[str]]:
    """Write rate and free space where `folder` is or will be."""
    from ssl_bench.screen import quantity

    there = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(there).free
    try:
        rate = write_rate(there)
    except OSError as error:
        return f"{folder}, {quantity(free, 'B')} free", [f"Cannot write to {there} ({error.strerror}): choose another."]
    slow = [f"The disk of {name} writes {quantity(rate, 'B/s')}: checkpoints will be felt."] if rate < 3e7 else []
    slow += [f"Only {quantity(free, 'B')} are free for {name}: see ssl-bench prune."] if free < 2e9 else []
    return f"{folder}, {quantity(free, 'B')} free, writes {quantity(rate, 'B/s')}", slow


def write_rate(folder: Path, megabytes: int = 16) -> float:
    """Bytes per second of a file that is flushed to the disk and removed again."""
    block = os.urandom(1 << 20)
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        for _ in range(megabytes):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return megabytes * len(block) / (time.perf_counter() - began)
