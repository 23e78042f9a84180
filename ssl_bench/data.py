"""Names, folders and files -> a uint8 store decoded once, a content fingerprint, and a sealed split.

`open_data` gives the training split, cut into a training and a validation part. The test split is opened by
`open_test`, which `evaluate.py` alone may name; a test on the AST holds it to that.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ssl_bench import factors
from ssl_bench.config import DataConfig
from ssl_bench.errors import UserError, nearest

EMBEDDED = {"clothing48": Path(__file__).parent / "embedded" / "clothing48"}
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
BAD_LIMIT = 0.001  # share of unreadable images above which a set is refused
STORE_VERSION = 1

# Encoded image or its file, class name, "train" or "test"; then the values [F] of known factors, if there are any.
Item = tuple[bytes | Path, str, str] | tuple[bytes | Path, str, str, np.ndarray]


@dataclass(frozen=True)
class Split:
    """Images of one part: a view into the store."""

    store: np.ndarray  # uint8 [M, C, H, W], memory-mapped
    index: np.ndarray  # int64 [N], rows of the store
    labels: Tensor  # int64 [N]
    targets: Tensor | None = None  # fp32 [N, F] of a set with known factors

    def __len__(self) -> int:
        return len(self.index)

    def part(self, mask: np.ndarray) -> Split:
        """The images where `mask` [N] is set."""
        targets = None if self.targets is None else self.targets[mask]
        return Split(self.store, self.index[mask], self.labels[mask], targets)

    def batch(self, indices: np.ndarray | Iterable[int] | slice) -> Tensor:
        """uint8 [B, C, H, W] for positions in this split."""
        rows = self.index[indices if isinstance(indices, slice) else np.asarray(indices)]
        return torch.from_numpy(np.ascontiguousarray(self.store[rows]))


@dataclass(frozen=True)
class Dataset:
    """What may be known of a data set before the seal is opened: no test split in here."""

    name: str
    classes: tuple[str, ...]
    fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    channels: int
    train: Split
    val: Split


def open_data(config: DataConfig) -> Dataset:
    """The training split as a training and a validation part (fixed, stratified, the same for every seed)."""
    folder = _store(config)
    meta = json.loads((folder / "meta.json").read_text())
    whole = _whole(folder, "train")
    labels = whole.labels.numpy()
    # The store is ordered by content hash, so the first images of a class are a fixed random sample of it.
    val = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        val[members[: round(len(members) * config.val_fraction)]] = True
    if not val.any():
        raise UserError(f"'{config.name}' has too few training images ({len(val)}) to hold out a validation part.")
    return Dataset(
        config.name, tuple(meta["classes"]), meta["fingerprint"], tuple(meta["mean"]), tuple(meta["std"]),
        config.image_size, whole.store.shape[1], whole.part(~val), whole.part(val),
    )  # fmt: skip


def open_test(config: DataConfig) -> Split:
    """The sealed test split. Only `evaluate.py` calls this."""
    return _whole(_store(config), "test")


def notes(config: DataConfig) -> list[str]:
    """Sentences about the set a user should read: unreadable images, a test split cut here."""
    return list(json.loads((_store(config) / "meta.json").read_text())["notes"])


def cache_folder() -> Path:
    """Where stores live: $SSL_BENCH_CACHE, or ~/.cache/ssl-bench."""
    return Path(os.environ.get("SSL_BENCH_CACHE") or Path.home() / ".cache" / "ssl-bench")


def _whole(folder: Path, split: str) -> Split:
    """A split as it lies in the store."""
    images, labels = np.load(folder / f"{split}.npy", mmap_mode="r"), np.load(folder / f"{split}_labels.npy")
    path = folder / f"{split}_targets.npy"
    targets = torch.from_numpy(np.load(path)) if path.exists() else None
    return Split(images, np.arange(len(labels)), torch.from_numpy(labels), targets)


def _store(config: DataConfig) -> Path:
    """The store's folder, built first if it is not there; a lock makes several processes build it once."""
    location, reader = _source(config.name)
    state = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in _files(location)]
    key = hashlib.sha256(json.dumps([STORE_VERSION, config.name, config.image_size, state]).encode()).hexdigest()[:16]
    folder = cache_folder() / "stores" / key
    if (folder / "meta.json").exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.parent / f"{key}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "meta.json").exists():
                _build(folder, reader(location), config)
    except OSError as error:
        raise UserError(
            f"Cannot write the image store to {folder.parent} ({error.strerror}). "
            "Set SSL_BENCH_CACHE to a folder with space that you may write to."
        ) from error
    return folder


def _build(folder: Path, source: Iterable[Item], config: DataConfig) -> None:
    items: list[Any] = list(source)
    if not items:
        raise UserError(f"No images in '{config.name}'. Looked for {', '.join(sorted(SUFFIXES))} in class folders.")
    with ThreadPoolExecutor() as pool:
        decoded = list(pool.map(lambda item: _decode(item[0], config.image_size), items))
    bad = [(item[0], image) for item, image in zip(items, decoded, strict=True) if isinstance(image, str)]
    lines = [f"{place if isinstance(place, Path) else 'row'}: {why}" for place, why in bad]
    if len(bad) > BAD_LIMIT * len(items):
        shown = "; ".join(lines[:5])
        raise UserError(
            f"{len(bad)} of {len(items)} images of '{config.name}' cannot be read: {shown}. Mend or remove them."
        )
    classes = sorted({item[1] for item in items})
    rows = [
        (hashlib.sha256(f"{name}\0".encode() + image.tobytes()).hexdigest(), image, classes.index(name), *rest)
        for (_, name, *rest), image in zip(items, decoded, strict=True)
        if not isinstance(image, str)
    ]
    rows.sort(key=lambda row: row[0])  # canonical order: the same pixels give the same store from any source
    remarks = [f"{len(bad)} unreadable images left out: {'; '.join(lines)}"] if bad else []
    rows = _with_test(rows, remarks)
    temporary = folder.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for split in ("train", "test"):
        part = [row for row in rows if row[3] == split]
        np.save(temporary / f"{split}.npy", np.stack([row[1] for row in part]))
        np.save(temporary / f"{split}_labels.npy", np.array([row[2] for row in part], dtype=np.int64))
        if len(part[0]) > 4:
            np.save(temporary / f"{split}_targets.npy", np.stack([row[4] for row in part]))
    train = np.load(temporary / "train.npy", mmap_mode="r").reshape(-1, *rows[0][1].shape)
    mean, std = _moments(train)
    digest = hashlib.sha256("".join(f"{row[3]}{row[0]}" for row in rows).encode()).hexdigest()[:16]
    meta = {"classes": classes, "fingerprint": digest, "mean": mean, "std": std, "notes": remarks}
    (temporary / "meta.json").write_text(json.dumps(meta, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _with_test(rows: list[Any], remarks: list[str]) -> list[Any]:
    """Every set has a test split: where the source has none, every fifth image of each class, by content hash."""
    if any(row[3] == "test" for row in rows):
        if not any(row[3] == "train" for row in rows):
            raise UserError("The data has a test split but no training split.")
        return rows
    seen: dict[int, int] = {}
    out = []
    for digest, image, label, _ in rows:
        seen[label] = seen.get(label, 0) + 1
        out.append((digest, image, label, "test" if seen[label] % 5 == 0 else "train"))
    remarks.append("The source has no test split: every fifth image of each class, by content hash, was set apart.")
    if not any(row[3] == "test" for row in out):
        raise UserError("Too few images: five or more per class are needed to set a test split apart.")
    return out


def _moments(train: np.ndarray) -> tuple[list[float], list[float]]:
    total, square, n = 0.0, 0.0, train.shape[0] * train.shape[2] * train.shape[3]
    for i in range(0, len(train), 4096):
        x = train[i : i + 4096].astype(np.float64) / 255
        total, square = total + x.sum((0, 2, 3)), square + (x**2).sum((0, 2, 3))
    mean = total / n
    return [round(float(m), 4) for m in mean], [round(float(s), 4) or 1.0 for s in np.sqrt(square / n - mean**2)]


def _decode(source: bytes | Path, size: int) -> np.ndarray | str:
    """uint8 [3, size, size]: the centre square, resized with antialiasing; or why it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Any = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16-bit greys: PIL would clip, not scale
                image = Image.fromarray(np.rint(np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
            image = image.convert("RGB")
        if image.size != (size, size):
            image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    except Exception as error:  # Pillow raises many kinds for damaged files; each is counted and named, none hidden
        return f"{type(error).__name__}: {str(error)[:120]}"


def _source(name: str) -> tuple[Path, Callable[[Path], Iterator[Item]]]:
    kind, _, rest = name.partition(":")
    if kind in EMBEDDED and not rest:
        return EMBEDDED[kind], _parquet
    if kind == "factors":
        number = factors.count(rest)
        return Path(factors.__file__), lambda _: factors.items(number)
    if kind not in ("folder", "parquet") or not rest:
        known = [*EMBEDDED, "factors", "folder:PATH", "parquet:PATH"]
        raise UserError(f"Unknown data '{name}'. {nearest(name, known)}")
    location = Path(rest).expanduser()
    pattern = kind == "parquet" and any(c in rest for c in "*?[")
    if not (pattern or location.exists()):
        raise UserError(
            f"No such path: {location}. Give an existing {'folder' if kind == 'folder' else 'file or folder'}."
        )
    if kind == "folder" and not location.is_dir():
        raise UserError(f"{location} is a file: folder: needs a folder with one sub-folder per class.")
    return location, _folder if kind == "folder" else _parquet


def _files(location: Path) -> list[Path]:
    if any(c in location.name for c in "*?["):
        return sorted(location.parent.glob(location.name))
    return [location] if location.is_file() else sorted(p for p in location.rglob("*") if p.is_file())


def _folder(location: Path) -> Iterator[Item]:
    """ImageFolder layout: PATH/<class>/*, or PATH/train/<class>/* beside PATH/test (or val, validation)."""
    if not (location / "train").is_dir():
        yield from _class_folders(location, "train")
        return
    yield from _class_folders(location / "train", "train")
    held = [location / name for name in ("test", "val", "validation") if (location / name).is_dir()]
    if held:
        yield from _class_folders(held[0], "test")


def _class_folders(location: Path, split: str) -> Iterator[Item]:
    for folder in sorted(p for p in location.iterdir() if p.is_dir()):
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES:
                yield path, folder.name, split


def _parquet(location: Path) -> Iterator[Item]:
    """Columns `image` (bytes, or a struct with `bytes`) and `label`; files named test*, val* are the test split."""
    import pyarrow.parquet as pq

    files = [p for p in _files(location) if p.suffix == ".parquet"]
    if not files:
        raise UserError(f"No .parquet file in {location}.")
    for path in files:
        try:
            table = pq.read_table(path)
        except Exception as error:
            raise UserError(f"{path} is not a readable parquet file: {str(error)[:120]}") from error
        missing = {"image", "label"} - set(table.column_names)
        if missing:
            raise UserError(
                f"{path} has no column {sorted(missing)}; it has {table.column_names}. image and label are needed."
            )
        names = _class_names(table.schema.metadata or {})
        split = "test" if path.name.startswith(("test", "val")) else "train"
        for image, label in zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True):
            if isinstance(label, int):
                label = names[label] if names else f"{label:05d}"
            yield (image["bytes"] if isinstance(image, dict) else image), str(label), split


def _class_names(metadata: dict[bytes, bytes]) -> list[str]:
    """Class names from the metadata of our own files or of Hugging Face's; [] if there are none."""
    own = json.loads(metadata.get(b"dataset_info", b"{}"))
    hub = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {}).get("label", {})
    return own.get("classes") or own.get("class_names") or hub.get("names") or []
