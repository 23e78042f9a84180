"""What a data set is: a training and a validation part that anyone may read, and a sealed test split.

`open_data` gives the training split, cut into a training and a validation part. The test images are opened by
`open_test`, what is true of them by `open_truth`; `evaluate.py` alone may name these, and a test on the AST holds it
to that. Test images lie in a file of their own, in the order of their content hashes: neither the training images'
file nor their place in their own tells anything of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_bench import screen
from ssl_bench.config.schema import DataConfig, RunConfig
from ssl_bench.data import groups, masks, registry, store, summary
from ssl_bench.data.encoded_store import Encoded, mapped
from ssl_bench.data.factors import Factor
from ssl_bench.data.items import Kind, written
from ssl_bench.data.places import cache_folder
from ssl_bench.errors import UserError

PATHS = ("folder", "parquet", "webdataset")  # kinds of names that hold a path


@dataclass(frozen=True)
class Split:
    """Images of one part: rows of a store. `batch(indices)` depends on the indices alone."""

    store: Any  # [M, *item.shape]: mapped, or `Encoded`, which decodes the rows it is asked for; without a path
    index: np.ndarray  # int64 [N], rows of the store
    labels: Tensor  # int64 [N]
    targets: Tensor | None = None  # fp32 [N, F] of a set with known factors
    files: np.ndarray | None = None  # bytes [N], the file names of training images whose source has them
    factors: tuple[Factor, ...] = ()  # what the targets are
    masks: Any = None  # uint8 [M, H, W] by row of the store, of a set with masks: classes and masks.VOID
    mask_classes: tuple[str, ...] = ()
    flows: Callable[[np.ndarray], np.ndarray] | None = None  # targets -> exact motion: see registry.flows
    view: Callable[[Tensor], Tensor] | None = None  # of what is stored, where `batch` gives something else

    def __len__(self) -> int:
        return len(self.index)

    def part(self, mask: np.ndarray) -> Split:
        """The images where `mask` [N] is set."""
        targets = None if self.targets is None else self.targets[mask]
        files = None if self.files is None else self.files[mask]
        return replace(self, index=self.index[mask], labels=self.labels[mask], targets=targets, files=files)

    def bare(self) -> Split:
        """The images without anything that is known of them."""
        return replace(self, labels=self.labels.new_empty(0), targets=None, files=None, masks=None, flows=None)

    def batch(self, indices: np.ndarray | Iterable[int] | slice) -> Tensor:
        """[B, *item.shape], of the item's dtype, for positions in this split."""
        rows = self.index[indices if isinstance(indices, slice) else np.asarray(indices)]
        found = torch.from_numpy(np.ascontiguousarray(self.store[rows]))
        return found if self.view is None else self.view(found)

    @property
    def decodes(self) -> bool:
        """Whether `batch` has to decode, so that `ahead` saves time."""
        return isinstance(self.store, Encoded)

    def ahead(self, indices: np.ndarray) -> None:
        """Say what `batch` will be asked for next: an encoded store decodes it meanwhile. Changes no result."""
        if self.decodes:
            self.store.ahead(self.index[indices])


@dataclass(frozen=True)
class Changed:
    """A store whose every item is changed by a control of its kind (`Kind.changed`)."""

    store: Any
    item: Kind
    control: str

    @property
    def shape(self) -> tuple[int, ...]:
        found: tuple[int, ...] = self.store.shape
        return found

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.item.changed(np.asarray(self.store[rows]), self.control, rows)


@dataclass(frozen=True)
class Dataset:
    """What may be known of a data set before the seal is opened: no test split in here."""

    name: str
    classes: tuple[str, ...]
    fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    item: Kind
    config: DataConfig  # what was asked for
    train: Split
    val: Split
    notes: tuple[str, ...] = ()  # unreadable images, a test split cut here, duplicates: what a reader must know
    labelled: bool = True

    def pictured(self) -> Dataset:
        """The same set as an encoder of images or clips sees it: of a trajectory its first frame."""
        kind = self.item.as_kind(("image", "clip"))
        if kind is self.item:
            return self
        view = partial(self.item.given, kind=kind)
        return replace(self, item=kind, train=replace(self.train, view=view), val=replace(self.val, view=view))


def open_data(config: DataConfig, run: RunConfig | None = None) -> Dataset:
    """The training split as a training and a validation part (fixed, stratified, the same for every seed).

    Builds the store first where there is none, and says on the screen what was understood, once per set. `UserError`
    where more than `run.bad_limit` of the images cannot be read.
    """
    run = run or RunConfig()
    folder = store.ensure(config, run.store)
    meta = _meta(folder)
    store.accept(folder, meta, run.bad_limit)
    val = _held_out(folder, config.val_fraction)
    remarks = [*meta["notes"], *_unseen(np.load(folder / "train_labels.npy"), val, meta["labelled"])]
    for line in summary.first_use(folder, {**meta, "notes": remarks}):
        screen.say(line, "yellow" if line.startswith("  note") else "")
    if not val.any():
        raise UserError(f"'{config.name}' has too few training images ({len(val)}) to hold out a validation part.")
    whole = _whole(folder, meta, "train", run.workers)
    return Dataset(
        config.name, tuple(meta["classes"]), meta["fingerprint"], tuple(meta["mean"]), tuple(meta["std"]),
        written(meta), config, whole.part(~val), whole.part(val), tuple(remarks), meta["labelled"],
    )  # fmt: skip


def _held_out(folder: Path, share: float) -> np.ndarray:
    """Bool [N]: which training images of a store are the validation part; whole groups where it has groups."""
    labels = np.load(folder / "train_labels.npy")
    if (told := folder / "train_groups.npy").exists():
        return groups.hold_out(labels, np.load(told), share)
    # Rows are ordered by content hash, so the first images of a class are a fixed random sample of it.
    val = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        val[members[: round(len(members) * share)]] = True
    return val


def _unseen(labels: np.ndarray, val: np.ndarray, labelled: bool) -> list[str]:
    """A note where the validation part, on which settings are chosen, has not every class."""
    found, wanted = len(np.unique(labels[val])), len(np.unique(labels))
    if not labelled or found in (0, wanted):  # with none there is no part, which is said elsewhere
        return []
    return [f"The validation part has {found:,} of {wanted:,} classes: settings are chosen on these alone."]


def present(config: DataConfig) -> tuple[str, int] | None:
    """Fingerprint and number of validation images of the set as it is now; None where its store is not built yet.

    Cheap where it is: two numbers that, with a part's name, decide every image and label that a number came from.
    """
    folder = store.there(config)
    if folder is None:
        return None
    val = _held_out(folder, config.val_fraction)
    return str(_meta(folder)["fingerprint"]), int(val.sum())


def other_images(name: str, then: str, now: str) -> UserError:
    """What to say of a run whose set has changed, or is another one of that name."""
    kind, _, rest = name.partition(":")
    place = Path(rest).expanduser() if kind in PATHS and rest else None
    advice = (
        "" if place is None or place.is_absolute() else f", or name it by its full path ({kind}:{place.absolute()})"
    )
    return UserError(
        f"The images of '{name}' are not those this run was trained on (fingerprint {then} then, {now} now"
        f"{f', in {place.absolute()}' if place else ''}): start in another --root{advice}."
    )


def open_test(config: DataConfig) -> Split:
    """The images of the sealed test split, where it has several crops (`Kind.views`) in each of them, in a row.

    What is true of them is not read. Only `evaluate.py` calls this.
    """
    folder = store.ensure(config)
    meta, rows = _meta(folder), np.load(folder / "test_rows.npy")
    images, rows = written(meta).rows(_images(folder, meta, "test", 0), rows, every=True)
    return Split(images, rows, torch.empty(0, dtype=torch.int64))


def open_truth(config: DataConfig, name: str = "labels") -> dict[str, Tensor]:
    """ "labels" [N] and, where they are known, "targets" [N, F] and "masks" [N, H, W] of the test images; also "flows"
    [N, 2, H, W] where that is the `name` asked for. Only `evaluate.py` calls this, when all is predicted.
    """
    folder = store.ensure(config)
    found = {name: folder / f"test_{name}.npy" for name in ("labels", "targets", "masks")}
    truth = {name: torch.from_numpy(np.load(path)) for name, path in found.items() if path.exists()}
    if name == "flows" and (made := registry.flows(config.name, "test", item_side(folder))) is not None:
        truth["flows"] = torch.from_numpy(made(truth["targets"].numpy()))
    return truth


def item_side(folder: Path) -> int:
    """Pixels per side of the stored items, which are square where motion is known."""
    return int(written(_meta(folder)).shape[-1])


def homes(config: DataConfig) -> list[Path]:
    """Where this set's images and labels lie: the stores, and the files they were made from."""
    kind, _, rest = config.name.partition(":")
    return [cache_folder(), *([registry.location(rest)] if kind in PATHS else []), *registry.EMBEDDED.values()]


def notes(config: DataConfig) -> list[str]:
    """Sentences about the set a user should read: unreadable images, a test split cut here."""
    return list(_meta(store.ensure(config))["notes"])


def _meta(folder: Path) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
    return meta


def _images(folder: Path, meta: dict[str, Any], split: str, threads: int) -> Any:
    """The images of a split by their rows, from a file that holds no others'."""
    item = written(meta)
    if meta["kind"] == "encoded":
        return Encoded(folder, np.load(folder / f"{split}_table.npy"), item, threads)
    raw = mapped(folder / ("sealed.u8" if split == "test" else f"{split}.u8"))
    return raw.view(item.dtype).reshape(-1, *item.shape)


def _whole(folder: Path, meta: dict[str, Any], split: str, threads: int) -> Split:
    """A split as it lies in the store."""
    images = _images(folder, meta, split, threads)
    names, item = ("rows", "labels", "targets", "files"), written(meta)
    found = {n: np.load(p) for n in names if (p := folder / f"{split}_{n}.npy").exists()}
    targets = torch.from_numpy(found["targets"]) if "targets" in found else None
    factors = registry.factors(meta["name"]) if targets is not None else ()
    flows = registry.flows(meta["name"], split, item.shape[-1]) if targets is not None else None
    return Split(
        *item.rows(images, found["rows"], every=False), torch.from_numpy(found["labels"]), targets, found.get("files"),
        factors, masks.of(folder, item.shape[-2:]), tuple(meta.get("masks", ())), flows,
    )  # fmt: skip
