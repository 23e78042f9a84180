"""Encode once: pooled features and tokens of one part, kept on disk under a key of everything that decides them.

The key holds the architecture and the weights' hash, the images' fingerprint and part, the transform, layers, pooling
and dtype. Two encoders, or one encoder with another crop, never share a file. Labels are never written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssl_bench.config.schema import sides
from ssl_bench.data import world
from ssl_bench.data.dataset import Dataset, Split
from ssl_bench.encoders.encoder import Encoder, architecture, sha256
from ssl_bench.evaluation.protocol import Features, Rows
from ssl_bench.files import atomic
from ssl_bench.parallel import collectives
from ssl_bench.screen import paced
from ssl_bench.training import code

VERSION = 2  # raised when the same key could hold other numbers; 2: the architecture is in the key
BATCH = 256


@dataclass(frozen=True)
class Held:
    """Tokens held in memory or mapped from a file."""

    tokens: Tensor  # fp32 [N, T, D]

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, indices: np.ndarray) -> Tensor:
        return self.tokens[torch.as_tensor(indices)]


@dataclass(frozen=True)
class Moving:
    """Exact motion of clips, made when it is asked for."""

    split: Split

    def __len__(self) -> int:
        return len(self.split)

    def batch(self, indices: np.ndarray) -> Tensor:
        assert self.split.targets is not None and self.split.flows is not None
        return torch.from_numpy(self.split.flows(self.split.targets[indices].numpy()))


@dataclass(frozen=True)
class Streamed:
    """Tokens that do not fit memory: computed each time they are asked for."""

    encoder: Encoder
    items: Split

    def __len__(self) -> int:
        return len(self.items)

    @torch.no_grad()
    def batch(self, indices: np.ndarray) -> Tensor:
        return self.encoder.encode(self.items.batch(indices), 1, want_tokens=True)["tokens"]


def memory_limit() -> int:
    """Bytes this process may use: the machine's, or the container's if that is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if os.path.exists(name):
            text = Path(name).read_text().strip()
            limits += [int(text)] if text.isdigit() else []
    return min(limits)


def cache_key(encoder: Encoder, split: Split, fingerprint: str) -> str:
    """Sixteen hex digits over everything that decides a feature."""
    rows = hashlib.sha256(np.ascontiguousarray(split.index).tobytes() + str(split.store.shape).encode()).hexdigest()
    entry = {k: v for k, v in encoder.entry.items() if k not in ("source", "evaluated")}
    facts = {"version": VERSION, "entry": entry, "data": fingerprint, "rows": rows, "dtype": "float32"}
    facts |= {"architecture": architecture(encoder.model), "depth": encoder.depth}
    facts |= {"code": code.features(encoder.model)["hash"]}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def cached(encoder: Encoder, split: Split, part: str, fingerprint: str, root: Path) -> dict[str, Path]:
    """Where the pooled features and the tokens of one part lie, if they have been extracted."""
    key = cache_key(encoder, split, f"{fingerprint}/{part}")
    return {name: root / "features" / f"{key}.{name}.safetensors" for name in ("pooled", "tokens")}


def extract(
    encoder: Encoder, split: Split, part: str, fingerprint: str, num_classes: int, root: Path, tokens: bool = False
) -> Features:
    """One part as `Features`, from the cache in `root/features` or by one pass over the images."""
    held = tokens and token_bytes(encoder, split) <= memory_limit() // 2
    files = cached(encoder, split, part, fingerprint, root)
    if not held:
        del files["tokens"]
    found = _read(files) if collectives.rank() == 0 else {}
    if not collectives.first(lambda: bool(found)):
        found = encode(encoder, split, held)
        for name, path in files.items() if collectives.rank() == 0 else ():
            _write(path, found[name])
    elif collectives.rank():
        found = {name: load_file(path) for name, path in files.items()}
    bare = split.bare()
    blind = replace(encoder, config={}, source="", run="", pretrain_data={})  # a protocol gets these tokens
    rows = Rows.of(Held(found["tokens"]["tokens"]) if held else Streamed(blind, bare)) if tokens else None
    items, pooled = Rows.of(bare), found["pooled"]
    masks = None if split.masks is None else torch.from_numpy(split.masks[split.index])
    return Features(
        split.labels, num_classes, encoder.pooling, pooled, items, rows, encoder, split.targets, split.files,
        encoder.device, split.factors, masks, split.mask_classes, encoder.grid if encoder.model is not None else (),
        covered(encoder, split), flows=moving(split),
    )  # fmt: skip


def moving(split: Split) -> Rows | None:
    """The motion of a part whose targets are known. One is made now: what that reads is shut while a protocol fits."""
    if split.flows is None or split.targets is None:
        return None
    rows = Rows.of(Moving(split))
    rows.batch(np.arange(1))
    return rows


def of_part(encoder: Encoder, data: Dataset, split: Split, part: str, root: Path, tokens: bool = False) -> Features:
    """The same of a data set's part, which may have trajectories: features are those of their first frames."""
    seen = replace(split, view=data.pictured().train.view)
    found = extract(encoder, seen, part, data.fingerprint, len(data.classes), root, tokens)
    if data.item.name != "trajectory":
        return found
    made_in = world.parse(data.name).world
    return replace(
        found, raw=Rows.of(split.bare()), world=made_in, kind=data.item, factors=made_in.factors, sealed=part == "test"
    )


def covered(encoder: Encoder, split: Split) -> tuple[float, float]:
    """Share of the items' height and width that is left when they are prepared for the encoder."""
    return centre_share(encoder, split.store.shape[-2:])


def centre_share(encoder: Encoder, have: tuple[int, ...]) -> tuple[float, float]:
    """The same of items of `have` pixels."""
    fit, size = sides(encoder.resize or encoder.image_size), sides(encoder.image_size)
    scale = max(fit[0] / have[0], fit[1] / have[1])
    return size[0] / round(have[0] * scale), size[1] / round(have[1] * scale)


def kept(encoder: Encoder, split: Split, part: str, fingerprint: str, root: Path) -> dict[str, Tensor] | None:
    """Pooled features [N, L, D] of one part by token, where an evaluation has left them."""
    path = cached(encoder, split, part, fingerprint, root)["pooled"]
    return _read({"pooled": path}).get("pooled")


def token_bytes(encoder: Encoder, split: Split) -> int:
    """What the part's tokens would take, from the shape of one image's."""
    with torch.no_grad():
        one = encoder.encode(split.batch(np.arange(1)), 1, want_tokens=True)["tokens"]
    return one.numel() * 4 * len(split)


@torch.no_grad()
def encode(encoder: Encoder, split: Split, tokens: bool) -> dict[str, dict[str, Tensor]]:
    """One pass in fp32, without augmentation: {"pooled": {"mean", "cls"}, "tokens": {"tokens"}}.

    Several processes take whole batches in turn, so each image is encoded once and in the company it has on one
    process; process 0 gets all rows in order, the others keep theirs.
    """
    out: dict[str, Tensor] = {}
    begin, end = shares(len(split))[collectives.rank()]
    count = end - begin if collectives.rank() else len(split)
    starts = range(begin, end, BATCH)
    for start in paced("encoding the images", starts, len(starts)):
        rows = np.arange(start, min(start + BATCH, end))
        images = split.batch(rows)
        split.ahead(rows[-1] + 1 + np.arange(min(BATCH, end - rows[-1] - 1)))
        for name, value in encoder.encode(images, want_tokens=tokens).items():
            if name not in out:
                out[name] = torch.empty(count, *value.shape[1:])
            out[name][start - begin : start - begin + len(rows)] = value.float().cpu()
    for name in out:
        collect(out[name], shares(len(split)))
    kept: dict[str, Any] = {"pooled": {k: v for k, v in out.items() if k != "tokens"}}
    return {**kept, "tokens": {"tokens": out["tokens"]}} if tokens else kept


@torch.no_grad()
def changed(x: Features, rows: np.ndarray, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """As `x.pooled`, of some items that are changed before the encoder sees them, for protocols with input "images"."""
    return {k: v.float().cpu() for k, v in x.encoder.encode(change(x.items.batch(rows).to(x.device))).items()}


def shares(count: int) -> list[tuple[int, int]]:
    """First and last (exclusive) image of each process: whole batches, process 0 never without one."""
    world, batches = collectives.world_size(), -(-count // BATCH)
    ends = [min(count, -(-batches * r // world) * BATCH) for r in range(world + 1)]
    return list(pairwise(ends))


def collect(rows: Tensor, parts: list[tuple[int, int]]) -> None:
    """Send this process' rows to process 0, which has room for all; in pieces, so that no message is large."""
    for sender, (begin, end) in list(enumerate(parts))[1:]:
        for start in range(begin, end, BATCH):
            stop = min(start + BATCH, end)
            if collectives.rank() == 0:
                dist.recv(rows[start:stop], src=sender)
            elif collectives.rank() == sender:
                dist.send(rows[start - begin : stop - begin], dst=0)


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Two processes may write the same key at once, both the same bytes."""
    with atomic(path) as file:
        try:
            save_file(tensors, file.name, {"sha256": sha256(tensors)})
        except SafetensorError as error:  # how it tells of a full disk
            raise OSError(0, str(error)) from error


def _read(files: dict[str, Path]) -> dict[str, dict[str, Tensor]]:
    """What was written, whole and unchanged, or nothing: a file that a crash or a disk has damaged is made again."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, path in files.items():
        try:
            with safe_open(path, "pt") as file:
                written = (file.metadata() or {}).get("sha256")
                found[name] = {key: file.get_tensor(key) for key in file.offset_keys()}
        except (OSError, SafetensorError):
            return {}
        if sha256(found[name]) != written:
            return {}
    return found
