"""What is recorded already: a number fills a cell where everything that decides it is that of the cell.

That is the encoder (a run's name and the hash of its weights, a reference's identity), both seeds, the images (their
fingerprint, and how many are held out) and the protocol (version and every setting). docs/keys.md has all keys.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ssl_bench import find
from ssl_bench.config.from_file import from_dict
from ssl_bench.config.schema import DataConfig, to_dict
from ssl_bench.data import dataset
from ssl_bench.errors import UserError
from ssl_bench.training import code, run_folder

if TYPE_CHECKING:
    from results.records import Record

Kind = tuple[str, str, int, str]  # protocol, variant, version, settings as JSON


class Cell(NamedTuple):
    """One encoder on one set of images, for all protocols. Plain values: SLURM jobs carry it."""

    encoder: str  # a run's name, or the identity of a reference
    seed: int  # of pretraining and probe
    data: str
    look: str = "{}"  # the other settings of the images, as JSON: whatever DataConfig has, and hashable

    @staticmethod
    def of(encoder: str, seed: int, images: DataConfig) -> Cell:
        """What records know this encoder on these images by."""
        look = {key: value for key, value in to_dict(images).items() if key != "name"}
        return Cell(encoder, seed, images.name, json.dumps(look, sort_keys=True))

    @property
    def images(self) -> DataConfig:
        found: DataConfig = from_dict(DataConfig, {"name": self.data, **json.loads(self.look)})
        return found


@functools.cache
def kind(name: str) -> Kind:
    """A protocol as it is now: a number made by another version, or with other settings, is not its number."""
    from ssl_bench.evaluation.protocol import load

    base, _, variant = name.partition(":")
    one = load(name)
    return base, variant, one.version, json.dumps(to_dict(one.config), sort_keys=True)


def kind_of(record: Record) -> Kind:
    """The protocol that made a record."""
    return record.protocol, record.variant, record.protocol_version, json.dumps(record.protocol_config, sort_keys=True)


class Images:
    """What the names of sets mean now; each is looked up once, and again for as long as its store is not there."""

    def __init__(self) -> None:
        self._found: dict[DataConfig, tuple[str, int]] = {}

    def now(self, data: DataConfig) -> tuple[str, int] | None:
        """Fingerprint and number of validation images; None where the store is not built: nothing is known then."""
        if data not in self._found and (found := dataset.present(data)):
            self._found[data] = found
        return self._found.get(data)

    def known(self, run: run_folder.Run, data: DataConfig) -> bool:
        """Whether the run is known to be of these images, or of none yet. `UserError` where it is of others."""
        if not run_folder.trained_on(run):
            return True
        now = self.now(data)
        if now:
            run_folder.same_images(run, data.name, now[0])
        return now is not None


class Numbers:
    """The records below a root, found by everything that decides them."""

    def __init__(self, root: Path, images: Images | None = None) -> None:
        from results.records import read

        self.root, self.images = root, images or Images()
        folder = root / "records"
        self.changed: dict[str, list[str]] = {}  # id of a record -> modules that are other ones now
        self._records: dict[tuple[Any, ...], list[Record]] = {}
        for record in read(folder) if folder.is_dir() else ():
            self._records.setdefault(key(record), []).append(record)

    def of(self, protocols: Sequence[str], cell: Cell) -> list[Record]:
        """The numbers of a cell by these protocols as they are now."""
        if not self._records or not (now := self.images.now(cell.images)):  # no store: nothing was evaluated on it
            return []
        weights = run_folder.weights(run_folder.Run(self.root / cell.encoder))
        found = (self._records.get((cell.encoder, weights, cell.seed, *now, *kind(p)), []) for p in protocols)
        return [record for records in found for record in records]

    def missing(self, protocols: Sequence[str], cell: Cell, keep_old: bool = False) -> list[str]:
        """The protocols without a number for this cell; one made by other code is none, unless `keep_old`."""
        there = {kind_of(record) for record in self.of(protocols, cell) if keep_old or not self._changed(record)}
        return [protocol for protocol in protocols if kind(protocol) not in there]

    def _changed(self, record: Record) -> bool:
        """Whether the code of its evaluation is another one now; what has changed is added to `changed`."""
        names = code.differing(record.code, code.evaluation(record.protocol))
        if names:
            self.changed[record.id] = names
        return bool(names)

    def told(self) -> str:
        """What to say of the numbers that are there and do not count; "" where there are none."""
        if not (count := len(self.changed)):
            return ""
        names = code.files(sorted({name for found in self.changed.values() for name in found}))
        many = f"{count} numbers were" if count > 1 else "1 number was"
        return f"{many} made by other code ({names} changed since): measured anew; --keep-old keeps what is there."

    def named(self, protocols: Sequence[str], cell: Cell) -> bool:
        """Whether each has a number by the names alone: what a job that has ended did, not what a set means now."""
        there = {(k[0], k[2], k[5:]) for k in self._records}
        return all((cell.encoder, cell.seed, kind(protocol)) in there for protocol in protocols)

    def done(self, protocols: Sequence[str], cell: Cell) -> bool:
        """`missing` nothing; by the names where the images cannot be looked at from here."""
        try:
            return (
                not self.missing(protocols, cell, keep_old=True)
                if self.images.now(cell.images)
                else self.named(protocols, cell)
            )
        except UserError:
            return self.named(protocols, cell)


def key(record: Record) -> tuple[Any, ...]:
    """Encoder, weights (of runs), seeds, fingerprint, validation images, protocol. See `Cell`."""
    seeds = (record.seeds["pretrain"] or 0, record.seeds["probe"] or 0)
    seed = seeds[0] if seeds[0] == seeds[1] else seeds  # the matrix gives both the same
    weights = record.encoder["weights_sha256"] if record.run else ""
    data = (record.data["fingerprint"], record.data["num_val"])
    return (record.run or record.identity, weights, seed, *data, *kind_of(record))


def values(root: Path) -> dict[tuple[Any, ...], tuple[float, dict[str, Any]]]:
    """Value and code of the newest number of every key below `root`, without the records: those hold which test images
    were right, and a protocol that is to predict could find them in memory.
    """
    from results.records import read

    folder = root / "records"
    there = sorted(read(folder), key=lambda r: r.created) if folder.is_dir() else []
    return {key(r): (r.value, r.code) for r in there}


def replaced(before: Mapping[tuple[Any, ...], tuple[float, dict[str, Any]]], record: Record) -> str:
    """What to say where `record` takes the place of a number that other code has measured; "" where not."""
    value, then = before.get(key(record), (0.0, {}))
    if not (names := code.differing(then, record.code)):
        return ""
    return f"it replaces {value:.2f}, measured by other code: {code.files(names)} changed since."


def of_other_code(records: Sequence[Record]) -> list[str]:
    """Which of these numbers come from other code than is here, one sentence per row or protocol and what changed.

    Numbers of an older version stand in rows and columns of their own, which say so. Nothing is said of records from
    before there was a hash.
    """
    from results.rows import newest, version
    from ssl_bench.evaluation.protocol import Protocol
    from ssl_bench.training.method import Method

    def now(base: type[Any], folder: str, name: str, then: int) -> int:
        """The version in the file; that of the record where there is no such file any more."""
        try:
            return int(find.defined(find.module(folder, name), base).version)
        except UserError:
            return then

    find.search_here()
    found: dict[tuple[str, str], set[str]] = {}  # what is of other code, and what happened to it -> modules
    for r in newest(records):
        trained, then = r.code.get("training") or {}, version(r)
        if (names := code.since(trained)) and now(Method, "methods", r.method, then) == then:
            found.setdefault((r.method, "trained"), set()).update(names)
        if (names := code.since(r.code)) and now(Protocol, "protocols", r.protocol, r.protocol_version) == (
            r.protocol_version
        ):
            found.setdefault((r.protocol, "measured"), set()).update(names)
    said: dict[tuple[str, str], list[str]] = {}  # the same of several is one sentence
    for (what, how), modules in sorted(found.items()):
        said.setdefault((how, code.files(sorted(modules))), []).append(what)
    return [
        f"{', '.join(whats)}: {how} by other code than is here now; not as they were then: {files}."
        for (how, files), whats in sorted(said.items(), reverse=True)
    ]


def refuse_other_code(runs: Mapping[str, run_folder.Run]) -> None:
    """`UserError` where some of these runs, by their labels, were trained or half trained by other code than now."""
    found = {label: names for label, run in runs.items() if (names := run_folder.other_code(run))}
    if not found:
        return
    files = code.files(sorted({name for changed in found.values() for name in changed}))
    more = f" and {len(found) - 6} more" if len(found) > 6 else ""
    folders = " ".join(str(runs[label].folder) for label in list(found)[:6]) + (" ..." if more else "")
    raise UserError(
        f"{len(found)} of {len(runs)} runs were trained, or begun, by other code ({files} changed since): "
        f"{', '.join(list(found)[:6])}{more}. If numbers can be others now, raise `version` of the method (trained "
        f"anew, the old runs stay), or remove the runs ({folders}). If not, keep them: --keep-old."
    )
