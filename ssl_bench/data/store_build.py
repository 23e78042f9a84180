"""Building a store, chunk by chunk, by any number of processes, on one machine or several.

A chunk is claimed by a lock that the kernel drops when its holder dies, and is done when its table is there, so a build
goes on where it was stopped.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ssl_bench.config.from_file import from_dict
from ssl_bench.config.schema import DataConfig, to_dict
from ssl_bench.data import masks, registry
from ssl_bench.data.encoded_store import mapped
from ssl_bench.data.groups import number
from ssl_bench.data.images import Item, Unreadable
from ssl_bench.data.items import Kind, asked
from ssl_bench.data.source import Chunk, Content
from ssl_bench.errors import UserError
from ssl_bench.files import atomic, write_atomic

ALONE = 20_000  # images that one process builds without helpers
SAY_SECONDS = 10.0  # between lines of progress


@dataclass
class Build:
    """One process's part in building a store."""

    folder: Path
    config: DataConfig
    items: Kind
    kind: str
    content: Content
    quiet: bool = False  # helpers say nothing and end with the process that started them

    def __post_init__(self) -> None:
        self.began = self.said = time.monotonic()
        self.before = self.done_images()
        self.parent = os.getppid()

    @property
    def finished(self) -> bool:
        return (self.folder / "meta.json").exists()

    def table(self, i: int) -> Path:
        return self.folder / f"{i:06d}.npz"

    def done_images(self) -> int:
        return sum(c.count for i, c in enumerate(self.content.chunks) if self.table(i).exists())

    def run(self) -> None:
        """Until the store is whole: claim and build chunks, wait for those of others, then put it together.

        A set that is refused leaves nothing behind: what is wrong with it stays wrong, and mended it is another store.
        """
        with open(self.folder / "lock", "a+b") as lock:
            here = len(self.content.chunks) + 2
            fcntl.lockf(lock, fcntl.LOCK_SH, 1, here)
            try:
                self._build(lock)
            except UserError:
                fcntl.lockf(lock, fcntl.LOCK_UN, 1, here)
                if _claim(lock, here):  # nobody else is at it; the last of several removes the store
                    shutil.rmtree(self.folder, ignore_errors=True)
                raise

    def _build(self, lock: IO[bytes]) -> None:
        leads = not self.quiet and _claim(lock, len(self.content.chunks) + 1)
        helpers = self._helpers() if leads else []
        try:
            self._chunks(lock, leads)
        finally:
            for helper in helpers:
                helper.terminate()
                helper.wait()
        if not self.quiet and not self.finished:
            fcntl.lockf(lock, fcntl.LOCK_EX, 1, len(self.content.chunks))
            if not self.finished:
                finish(self)

    def _chunks(self, lock: IO[bytes], leads: bool) -> None:
        starts = _starts(self.content.chunks)
        while waiting := [i for i in range(len(self.content.chunks)) if not self.table(i).exists()]:
            claimed = 0
            for i in waiting:
                if self.quiet and os.getppid() != self.parent:
                    return
                if self.table(i).exists() or not _claim(lock, i):
                    continue
                if not self.table(i).exists() and not self.finished:
                    self._chunk(i, starts[i])
                claimed += 1
                fcntl.lockf(lock, fcntl.LOCK_UN, 1, i)
                self._progress(leads)
            if self.finished:
                return
            if not claimed:
                time.sleep(0.2)
                self._progress(leads)

    def _chunk(self, i: int, start: int) -> None:
        """Decode a chunk; its pixels or bytes reach the disk before its table says that it is done."""
        chunk = self.content.chunks[i]
        rows: dict[str, list[Any]] = {}
        bad: list[list[str]] = []
        unusual: dict[str, int] = {}
        modes: dict[str, int] = {}
        packed = self.kind == "encoded"
        file = self.folder / (f"{i:06d}.pack" if packed else f"{chunk.split}.u8")
        told = self.content.masks
        with _open(file) as out, masks.beside(self.folder, chunk.split, start, self.items.shape[-2:], told) as keep:
            if packed:
                out.truncate(0)
            else:
                out.seek(start * self.items.nbytes)
            for item in chunk.read():
                try:
                    pixels, data, odd, (mode, size) = self.items.read(item, packed)
                    mask = masks.read(item, told)
                    modes[mode] = modes.get(mode, 0) + 1
                except Unreadable as why:
                    bad.append([item.place, str(why)])
                    pixels, data, odd = np.zeros((self.items.channels, 0), self.items.dtype), b"", ""
                    size, mask = (0, 0), None
                if odd:
                    unusual[odd] = unusual.get(odd, 0) + 1
                raw, item = pixels.tobytes(), self.items.described(item, pixels)
                out.write(data if packed else raw or bytes(self.items.nbytes))
                _add(rows, item, self.items.by_channel(pixels), raw, keep(mask), len(data), size)
            out.flush()
            os.fsync(out.fileno())
        if len(rows["ok"]) != chunk.count:
            raise UserError(
                f"'{self.config.name}' changed while it was read: {len(rows['ok'])} of {chunk.count} images."
            )
        _write_table(self.table(i), rows, {"bad": bad, "unusual": unusual, "modes": modes})

    def _helpers(self) -> list[subprocess.Popen[bytes]]:
        """Further processes of this machine, for sets that are worth it."""
        cores = len(os.sched_getaffinity(0))
        count = min(cores, len(self.content.chunks), -(-(self.content.count - self.before) // ALONE)) - 1
        path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        what = [json.dumps(to_dict(self.config)), self.kind, str(self.folder)]
        command = [sys.executable, "-m", "ssl_bench.data.store_build", *what]
        return [subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}) for _ in range(count)]

    def _progress(self, leads: bool) -> None:
        now = time.monotonic()
        if self.quiet or now - self.said < SAY_SECONDS:
            return
        from ssl_bench import screen

        self.said, done, total = now, self.done_images(), self.content.count
        rate = (done - self.before) / (now - self.began)
        left = f", {screen.clock((total - done) / rate)} left" if rate else ""
        doing = "reading" if leads else "reading (with another process)"
        noun = self.items.noun
        screen.say(f"{doing} {self.config.name}: {done:,} of {total:,} {noun}, {rate:,.0f} {noun}/s{left}")


def _add(
    rows: dict[str, list[Any]], item: Item, by_channel: np.ndarray, raw: bytes, mask: bytes, length: int,
    size: tuple[int, int],
) -> None:  # fmt: skip
    wide = by_channel.astype(np.int64 if by_channel.dtype.kind in "iu" else np.float64)
    new: dict[str, Any] = {
        "digest": hashlib.sha256(f"{item.label}\0".encode() + raw + mask).digest(),
        "pixels": hashlib.sha256(raw).digest()[:16],
        "label": item.label, "name": item.file, "ok": bool(raw), "length": length, "size": size,
        "sums": wide.sum(1), "squares": (wide * wide).sum(1), "group": number(item.group),
    }  # fmt: skip
    if item.targets is not None:
        new["targets"] = item.targets
    for name, value in new.items():
        rows.setdefault(name, []).append(value)


def _claim(lock: IO[bytes], place: int) -> bool:
    """Whether this process now holds the lock number `place`."""
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except OSError:
        return False
    return True


def _open(path: Path) -> IO[bytes]:
    """For writing at any place, without cutting what others write."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")


def _starts(chunks: Sequence[Chunk]) -> list[int]:
    """The first row of each chunk within its split."""
    seen: dict[str, int] = {}
    out = []
    for chunk in chunks:
        out.append(seen.get(chunk.split, 0))
        seen[chunk.split] = out[-1] + chunk.count
    return out


def _write_table(path: Path, rows: dict[str, list[Any]], facts: dict[str, Any]) -> None:
    names = sorted(set(rows["label"]))
    about = json.dumps({"names": names, **facts}).encode()
    place = {name: i for i, name in enumerate(names)}
    arrays: dict[str, Any] = {k: np.array([list(v) for v in rows[k]], np.uint8) for k in ("digest", "pixels")}
    arrays |= {"label": np.array([place[name] for name in rows["label"]], np.int64), "ok": np.array(rows["ok"], bool)}
    arrays |= {k: np.array(rows[k], np.int64) for k in ("length", "size", "group")}
    arrays |= {k: np.stack(rows[k]) for k in ("sums", "squares")}  # exact where stored items are integers
    arrays["name"] = np.array([os.fsencode(name)[:255] for name in rows["name"]])
    arrays |= {"targets": np.stack(rows["targets"])} if "targets" in rows else {}
    buffer = io.BytesIO()
    np.savez(buffer, about=np.frombuffer(about, np.uint8), **arrays)
    write_atomic(path, buffer.getvalue())


def finish(build: Build) -> None:
    """Put the tables of all chunks together; meta.json comes last and says that the store is whole."""
    from ssl_bench.data import canonical

    arrays, meta = canonical.canonical(build.content, list(_tables(build)), build.config.name, build.items)
    meta |= {"kind": build.kind, **build.items.facts, "asked": to_dict(build.config)}
    meta["seconds"] = round(time.monotonic() - build.began, 1)
    meta |= masks.seal(build.folder, meta["home"]["test"], arrays["test_rows"], build.items.shape, build.content.masks)
    _seal(build, arrays, meta.pop("home")["test"])
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        write_atomic(build.folder / f"{name}.npy", buffer.getvalue())
    write_atomic(build.folder / "bad.txt", "".join(f"{place}: {why}\n" for place, why in meta["bad"]))
    write_atomic(build.folder / "meta.json", json.dumps(meta, indent=1))
    for i in range(len(build.content.chunks)):
        build.table(i).unlink(missing_ok=True)


def _seal(build: Build, arrays: dict[str, np.ndarray], home: str) -> None:
    """Move the test images from `home`, the files they were read into, to one of their own, in canonical order.

    What they were read into lists class after class, and is the training images' too where the test split is cut from
    these: there they are blanked. A build that is stopped in here does it again; the copy is there whole or not at all.
    """
    rows, last = arrays["test_rows"], len(build.content.chunks)
    if build.kind == "encoded":
        where = arrays[f"{home}_table"][rows]
        files = {int(c): build.folder / f"{c:06d}.pack" for c in np.unique(where[:, 0])}
        target = build.folder / f"{last:06d}.pack"
    else:
        size = np.full(len(rows), build.items.nbytes)
        where = np.stack([0 * rows, rows * size, size], 1)
        files, target = {0: build.folder / f"{home}.u8"}, build.folder / "sealed.u8"
    if not target.exists():
        pages = {file: mapped(path) for file, path in files.items()} if len(rows) else {}
        with atomic(target) as out:
            found = (pages[file][offset : offset + length].tobytes() for file, offset, length in where.tolist())
            out.writelines(build.items.sealed(found))
    for file, path in files.items():
        if home == "test":
            path.unlink(missing_ok=True)
            continue
        with open(path, "r+b") as old:
            for offset, length in where[where[:, 0] == file, 1:].tolist():
                old.seek(offset)
                old.write(bytes(length))
            os.fsync(old.fileno())
    ends = np.cumsum(where[:, 2])
    arrays["test_table"] = np.stack([np.full(len(rows), last), ends - where[:, 2], where[:, 2]], 1)
    arrays["test_rows"] = np.arange(len(rows))


def _tables(build: Build) -> Iterator[dict[str, Any]]:
    for i in range(len(build.content.chunks)):
        with np.load(build.table(i), allow_pickle=False) as file:
            yield {**{k: file[k] for k in file.files}, **json.loads(file["about"].tobytes())}


if __name__ == "__main__":  # a helper
    _config, _kind, _folder = sys.argv[1:]
    try:
        _data = from_dict(DataConfig, json.loads(_config))
        _source = registry.find(_data.name)
        _items = asked(_data, _source.kind)
        Build(Path(_folder), _data, _items, _kind, _source.content(), quiet=True).run()
    except (UserError, OSError, KeyboardInterrupt):
        sys.exit(1)  # the process that started this one meets the same and says it
