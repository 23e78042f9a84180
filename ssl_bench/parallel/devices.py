"""What this process computes on: the device, its precision, its memory, how busy it is."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import resource
from pathlib import Path
from typing import Any

import torch

from ssl_bench.config.schema import Config
from ssl_bench.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, MADV_HUGEPAGE = -1, -3, 14  # malloc.h, mman.h
HUGE, MAPPED, TRIM, PAGE = 1 << 29, 1 << 28, 1 << 30, 1 << 21  # bytes: of the heap in huge pages, and so on


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one. From here on this process keeps the memory that it frees."""
    keep_memory()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"Unknown device '{name}'. Write auto, cpu, cuda or cuda:1.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("run.device=cuda, but torch sees no GPU here. Use run.device=cpu.")
    return device


@functools.cache
def keep_memory() -> None:
    """What is freed stays with the process, in huge pages: a step asks for the same sizes as the step before.

    glibc gives tensors back to the system at once, and each step of a small model faults in 3,000 pages anew: a tenth
    of its time, a sixth with the look-ups of 4 kB pages. What is larger than MAPPED by itself goes back as before, and
    so does the end of the heap where more than TRIM is free. No number changes; only Linux with glibc has this.
    """
    libc: Any = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "gnu_get_libc_version"):
        return
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes, libc.madvise.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mallopt(M_TRIM_THRESHOLD, TRIM)
    libc.mallopt(M_MMAP_THRESHOLD, HUGE + 1)  # so that the heap itself grows; not resident until it is used
    if start := libc.malloc(HUGE):
        aligned = -(-start // PAGE) * PAGE
        libc.madvise(aligned, start + HUGE - aligned, MADV_HUGEPAGE)  # where the system has none it says so: no matter
        libc.free(start)
    libc.mallopt(M_MMAP_THRESHOLD, MAPPED)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware does: elsewhere (an AVX2 CPU, a GPU before Ampere) fp32 is faster, on AVX2 130 times."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # without oneDNN's kernels torch multiplies in a plain loop
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def used_precision(config: Config, device: torch.device) -> str:
    """bf16 where the config asks for it and the device has it, else fp32."""
    return "bf16" if config.precision == "bf16" and multiplies_bf16(device) else "fp32"


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """For the forward passes of a run."""
    return torch.autocast(device.type, torch.bfloat16, enabled=used_precision(config, device) == "bf16")


def without_bf16(config: Config, device: torch.device) -> list[str]:
    """What a run should know where it asks for bf16 in vain."""
    if used_precision(config, device) == config.precision:
        return []
    return [f"{device_label(device)} has no bf16 products: the run computes in fp32, as with precision=fp32."]


def device_label(device: torch.device) -> str:
    """For example `cpu (AMD EPYC, 1 thread)` or `NVIDIA H200`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    n = torch.get_num_threads()
    return f"{device.type} ({processor()}, {n} thread{'s' if n > 1 else ''})"


def instructions(device: torch.device) -> str:
    """The widest products that this CPU has and torch uses, such as `amx_bf16` or `avx2`: two machines of one name may
    differ in them. "" for a GPU, whose name says it.
    """
    if device.type != "cpu":
        return ""
    usable = torch.backends.cpu.get_cpu_capability().lower()
    if usable.startswith("avx512"):
        wider = ("amx_bf16", "avx512_bf16")
        return next((name for name in wider if name in cpu_flags()), "avx512")
    return usable


def cpu_flags() -> set[str]:
    """What the kernel says that the CPU can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())


def crowded(device: torch.device) -> list[str]:
    """What a run of several CPU threads should know where others want the cores too: each step waits for the slowest.

    Measured with two threads on two cores of which one was busy: 0.7 steps/s; with one thread 6.6.
    """
    load, cores, threads = os.getloadavg()[0], os.cpu_count() or 1, torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or threads + load < cores + 0.7:
        return []
    free = max(1, cores - round(load))
    return [
        f"Others use this machine (load {load:.1f} on {cores} cores), and each step of {threads} threads waits for the "
        f"slowest: run.threads={free} may be many times faster."
    ]


def peak_memory(device: torch.device) -> int:
    """Bytes: allocated on the GPU, or resident in the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def processor() -> str:
    """The CPU's name, as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
