"""Several processes, one per GPU: started here on one machine, or found in torchrun's or SLURM's environment."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ssl_bench import screen
from ssl_bench.errors import UserError
from ssl_bench.parallel import devices as compute
from ssl_bench.parallel.collectives import leave

START = "spawn"  # how workers start: CUDA allows no fork
GRACE = 10.0  # seconds for a process to end, or to notice that another one has


@dataclass(frozen=True)
class Place:
    """Where this process stands among all, and on its machine."""

    rank: int
    world: int
    local: int
    local_world: int


def place() -> Place | None:
    """What torchrun or srun says of this process; None where there is nobody else. Sets MASTER_ADDR for SLURM."""
    env = os.environ
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= env.keys():
        world = int(env["WORLD_SIZE"])
        local = int(env.get("LOCAL_RANK", 0)), int(env.get("LOCAL_WORLD_SIZE", world))
        return Place(int(env["RANK"]), world, *local) if world > 1 else None
    world = int(env.get("SLURM_STEP_NUM_TASKS", 1))  # of this srun; a batch script has SLURM_NTASKS, and is alone
    if world == 1:
        return None
    if "MASTER_ADDR" not in env:
        from submitit.slurm.slurm import SlurmJobEnvironment

        env["MASTER_ADDR"] = SlurmJobEnvironment().hostnames[0]
    job = int(env["SLURM_JOB_ID"]) + 101 * int(env.get("SLURM_STEP_ID", 0))
    env.setdefault("MASTER_PORT", str(20000 + job % 20000))
    tasks = env.get("SLURM_STEP_TASKS_PER_NODE", str(world)).partition("(")[0].partition(",")[0]
    return Place(int(env["SLURM_PROCID"]), world, int(env["SLURM_LOCALID"]), int(tasks))


@contextmanager
def group(devices: int, device: str, call: Callable[..., Any], *args: Any) -> Iterator[None]:
    """Inside, this process is one of several, if a launcher says so or `devices` asks for it; else it is alone.

    With `devices` > 1 and no launcher the others are started here; each runs `call(*args)`, which must meet this one
    in every collective. This process is number 0: what it raises is what a user sees, and they end with it.
    """
    where, kind = place(), compute.pick_device(device).type
    if devices < 1:
        raise UserError(f"devices={devices} must be 1 or more.")
    if dist.is_initialized() or (where is None and devices == 1):
        yield
    elif where is not None:
        if devices not in (1, where.local_world):
            raise UserError(
                f"{devices} devices are asked for, but the launcher started {where.local_world} processes on this "
                "machine. Leave run.devices (or --devices) out."
            )
        _check(where.local_world, device)
        _join(where, kind)
        try:
            yield
        finally:
            leave()
    else:
        _check(devices, device)
        with _workers(devices, kind, call, args):
            yield


def use_threads(count: int) -> None:
    """CPU threads of this process; 0 leaves them as they are."""
    if count:
        torch.set_num_threads(count)


def _check(count: int, device: str) -> None:
    if compute.pick_device(device).type == "cuda":
        there = torch.cuda.device_count()
        if ":" in device:
            raise UserError(f"device={device} is one GPU for {count} processes. Use device=cuda.")
        if there not in (1, count) and count > there:  # 1: a launcher shows each process its own
            raise UserError(f"{count} devices are asked for; there are {there} GPUs here. Lower run.devices.")


def _join(where: Place, kind: str, store: dist.Store | None = None) -> None:
    """Enter the group; from here on `cuda` is this process' GPU, and CPU threads are its share."""
    backend = "gloo"
    if kind == "cuda":
        torch.cuda.set_device(where.local % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    else:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // where.local_world))
    dist.init_process_group(backend, store=store, rank=where.rank, world_size=where.world)


@contextmanager
def _workers(devices: int, kind: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Iterator[None]:
    store = dist.TCPStore("127.0.0.1", 0, devices, is_master=True, wait_for_workers=False)
    context = mp.start_processes(
        _work, (store.port, devices, kind, call, args), nprocs=devices - 1, join=False, start_method=START
    )
    over = threading.Event()
    threading.Thread(target=_watch, args=(context, over), daemon=True).start()
    try:
        _join(Place(0, devices, 0, devices), kind, store)
        yield
    except Exception as error:
        if not isinstance(error, UserError) and (cause := _cause(context)):
            raise UserError(f"{cause} The last checkpoint is whole: the same command goes on from it.") from error
        raise
    finally:
        over.set()
        leave()
        for process in context.processes:
            process.join(GRACE)
            process.kill()  # SIGTERM would be a request to stop at the end of a step that never ends


def _work(index: int, port: int, devices: int, kind: str, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
    rank = index + 1
    screen.console.quiet = True  # process 0 speaks
    store = dist.TCPStore("127.0.0.1", port, devices, is_master=False)
    _join(Place(rank, devices, rank, devices), kind, store)
    try:
        call(*args)
    except (UserError, KeyboardInterrupt):
        return  # process 0 says it, or knows
    finally:
        leave()


def _cause(context: Any) -> str:
    """What a worker died of; waits for it a little, since its death is noticed here before its words arrive."""
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline:
        for index, process in enumerate(context.processes):
            if process.exitcode:
                return f"Process {index + 1} of {len(context.processes) + 1} ended: {_words(context, index)}."
        if all(process.exitcode == 0 for process in context.processes):
            return ""
        time.sleep(0.1)
    return ""


def _words(context: Any, index: int) -> str:
    """The last line of its traceback, or its exit code."""
    import pickle

    path = context.error_files[index]
    if os.path.exists(path):
        with open(path, "rb") as file:  # written by torch.multiprocessing in the worker: our own process
            return str(pickle.load(file)).strip().splitlines()[-1].rstrip(".")
    return f"exit code {context.processes[index].exitcode}"


def _watch(context: Any, over: threading.Event) -> None:
    """A collective on GPUs does not notice that another process died: end this one with a sentence."""
    while not over.wait(1.0):
        dead = [i for i, process in enumerate(context.processes) if process.exitcode]
        if dead and not over.wait(GRACE):
            print(f"error: process {dead[0] + 1} ended: {_words(context, dead[0])}.", file=sys.stderr, flush=True)
            for process in context.processes:
                process.kill()
            os._exit(1)
