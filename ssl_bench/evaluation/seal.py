"""What keeps a protocol from the test labels while it fits and predicts, and its own scorer from what comes after.

A child process for `fit` and `predict` was measured and left out: forked once features have been encoded it hangs with
two CPU threads (OpenMP's pool does not outlive a fork), and started anew it takes 5 s to import torch. So both run
here, the labels are read when they have returned, and meanwhile the files that hold them are shut.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ssl_bench.errors import UserError

CODE = (".py", ".pyc", ".so")  # may lie beside the images: a protocol may import
_shut: list[str] = []  # folders and files that may not be opened now
_watches: list[bool] = []  # an audit hook cannot be taken away, so there is one


@contextmanager
def shut(*places: Path) -> Iterator[None]:
    """Inside, Python opens and lists nothing below `places` but code: stores, the files of a set, other records."""
    if not _watches:
        _watches.append(True)
        sys.addaudithook(_refuse)
    before = list(_shut)
    _shut.extend(os.path.realpath(place) for place in places)
    try:
        yield
    finally:
        _shut[:] = before


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if not _shut or event not in ("open", "os.listdir", "os.scandir") or not isinstance(args[0], (str, bytes, Path)):
        return
    path = os.path.realpath(os.fsdecode(args[0]))
    if not path.endswith(CODE) and any(path == place or path.startswith(place + os.sep) for place in _shut):
        raise UserError(
            f"A protocol opens {path}, which is shut while it fits and predicts: images and their labels come as "
            "arguments, and what else it needs lies outside the stores, the set's files and --root."
        )


def aside(call: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What `call` returns, from a process of its own: what it keeps in memory ends with it.

    On one CPU thread and without a GPU, as a fork demands. What it raises is raised here.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)
            told: dict[str, Any] = {"metrics": {name: float(value) for name, value in call().items()}}
        except UserError as error:
            told = {"said": str(error)}
        except BaseException:
            told = {"said": f"The protocol's own scorer failed:\n{traceback.format_exc()}"}
        with os.fdopen(writing, "w") as file:
            file.write(json.dumps(told))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    os.waitpid(child, 0)
    found = json.loads(text or '{"said": "The protocol\'s own scorer ended without an answer."}')
    if "said" in found:
        raise UserError(found["said"])
    metrics: dict[str, float] = found["metrics"]
    return metrics
