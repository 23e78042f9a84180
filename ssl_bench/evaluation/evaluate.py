"""The only code that sees test images and test labels.

A protocol fits on two parts of the training split and hands back a predictor. The predictor is run here, once, on
test images that carry no labels; then the labels are read, its output is scored, and they are dropped; a record is
written here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from results import records
from ssl_bench import screen
from ssl_bench.config.from_file import from_dict
from ssl_bench.config.schema import DataConfig, Size, to_dict
from ssl_bench.data import twins
from ssl_bench.data.dataset import (
    Changed,
    Dataset,
    Split,
    homes,
    open_data,
    open_test,
    open_truth,
    other_images,
    present,
)  # fmt: skip
from ssl_bench.data.items import RAW
from ssl_bench.encoders.encoder import Encoder
from ssl_bench.encoders.resolve import resolve
from ssl_bench.errors import UserError
from ssl_bench.evaluation import answers, features, protocol, scorable
from ssl_bench.evaluation.answers import Answer
from ssl_bench.evaluation.protocol import Features, Protocol
from ssl_bench.evaluation.tuned import kept_predictor
from ssl_bench.parallel import collectives, devices, processes
from ssl_bench.training import code, monitor, provenance, run_folder

RANKME_IMAGES = 1000  # training images behind the collapse field; RankMe depends on the number, so it is fixed


def evaluate(
    source: Encoder | str | None, name: str, data: DataConfig, root: Path | str, seed: int = 0,
    overrides: Sequence[str] = (), device: str = "auto",
) -> records.Record:  # fmt: skip
    """One protocol (`knn`, `linear:mae`) on one encoder: the record, also written to `root/records`."""
    return next(iter(evaluate_all(source, [name], data, root, seed, overrides, device)))


def evaluate_all(
    source: Encoder | str | None, names: Sequence[str], data: DataConfig, root: Path | str, seed: int = 0,
    overrides: Sequence[str] = (), device: str = "auto", tell: Callable[[str], None] | None = None,
) -> Iterator[records.Record]:  # fmt: skip
    """Several protocols (`all`: every frozen one) from one pass over the data.

    `overrides`: `key=value` for every protocol, `linear.key=value` for one. `tell` gets each name before it starts.
    Where one of them is not of protocols/, or brings its own scorer, all predict before any is scored.
    The pass is shared by all processes of a `processes.group`; what follows is process 0's alone, and the group ends.
    """
    own = protocol.assign(protocol.expand(names), overrides)
    wanted = [(name, protocol.load(name, own[name])) for name in own]
    place, root = devices.pick_device(device), Path(root)
    dataset = open_data(data)
    if trouble := scorable.lacking(dataset, wanted):
        raise UserError(f"{trouble}: name another set with --data.")
    encoder = resolve(source, root, seed, dataset) if not isinstance(source, Encoder) else source
    _refuse_non_finite(encoder)
    if any(one.needs_predictor for _, one in wanted):
        kept_predictor(encoder)  # told before anything is encoded
    _same_images(encoder, data, dataset)
    encoder.to(place)
    started, sealed = time.perf_counter(), open_test(data)
    (train, val, test), controls = _encoded(encoder, dataset, sealed, root, [one for _, one in wanted])
    feature_seconds = time.perf_counter() - started
    helped = collectives.rank() > 0
    collectives.leave()
    if helped:
        return
    for part, name in ((train, "train"), (val, "val"), (test, "test")):
        _refuse_features(encoder, part, name)
    collapse = _collapse(encoder, train)
    closed, twin, crops = [root, *homes(data)], _twins(encoder, data), dataset.item.views[1]

    def answer(name: str, one: Protocol) -> Answer:
        if tell:
            tell(name)
        own = {c: _view(one, x) for c, x in controls.items() if one.controlled}
        return answers.predict(
            name, one, _view(one, train), _view(one, val), _view(one, test), seed, closed, own, crops
        )

    made = (answer(name, one) for name, one in wanted)
    # Correctness bits tell labels: a protocol from elsewhere could find them in what is recorded before it predicts.
    waits = any("." in name or one.own_scorer for name, one in wanted)
    for each in answers.waiting(made) if waits else made:
        truth = open_truth(data, each.protocol.scores)
        result = answers.score(each, truth[each.protocol.scores])
        asked = (
            len(sealed) // crops if result["correct"] is None else len(result["correct"])
        )  # episodes, where these are judged
        counts = {"num_test": asked, **_balance(train.labels, val.labels, truth["labels"]), "twins": twin}
        del truth
        counts |= result.pop("per_image")
        spent = _spent(result.pop("seconds"), feature_seconds, place, each.protocol)
        result["compute"] = {"pretrain": encoder.compute, "eval": spent}
        record = _record(encoder, dataset, each.protocol, each.name, seed, counts, collapse, result)
        records.write(record, root / "records")
        yield record


def _spent(seconds: float, feature_seconds: float, place: torch.device, one: Protocol) -> dict[str, Any]:
    """What an evaluation cost, and how it was scored."""
    return {
        "seconds": seconds, "feature_seconds": round(feature_seconds, 3),
        "device": devices.device_label(place), "peak_memory_bytes": devices.peak_memory(place),
        "sealed": "order", "scorer": "own" if one.own_scorer else "harness",
    }  # fmt: skip


def _encoded(
    encoder: Encoder, dataset: Dataset, sealed: Split, root: Path, wanted: Sequence[Protocol]
) -> tuple[list[Features], dict[str, Features]]:
    """Training, validation and test part as these protocols read them, and the test items without something."""
    tokens = any(one.input == "tokens" for one in wanted)
    named = (("train", dataset.train), ("val", dataset.val), ("test", sealed))
    parts = [features.of_part(encoder, dataset, split, part, root, tokens) for part, split in named]
    controlled = any(one.controlled for one in wanted)
    return parts, _controls(encoder, dataset, sealed, root, tokens) if controlled else {}


def _controls(encoder: Encoder, dataset: Dataset, sealed: Split, root: Path, tokens: bool) -> dict[str, Features]:
    """The test items without something: see Kind.controls."""
    found = {}
    for control in dataset.item.controls:
        changed = replace(sealed, store=Changed(sealed.store, dataset.item, control))
        found[control] = features.of_part(encoder, dataset, changed, f"test, {control}", root, tokens)
    return found


def _refuse_non_finite(encoder: Encoder) -> None:
    weights = encoder.model.named_parameters() if isinstance(encoder.model, torch.nn.Module) else ()
    if bad := [name for name, value in weights if not torch.isfinite(value).all()]:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise UserError(
            f"The weights of '{encoder.source}' are not finite ({bad[0]}{more}): its training diverged or the file is "
            "damaged, and no number of it would mean anything. Name another encoder."
        )


def _same_images(encoder: Encoder, data: DataConfig, dataset: Dataset) -> None:
    """`UserError` where the set a run was trained on is evaluated by its name, which means another set now."""
    then = encoder.pretrain_data.get("fingerprint", "")
    if not (encoder.run and then) or encoder.config.get("data", {}).get("name") != data.name:
        return
    trained: DataConfig = from_dict(DataConfig, encoder.config["data"])
    alike = replace(trained, val_fraction=data.val_fraction) == data
    now = (dataset.fingerprint,) if alike else present(trained)
    if now and now[0] != then:
        raise other_images(data.name, then, now[0])


def _twins(encoder: Encoder, data: DataConfig) -> dict[str, Any]:
    """Test images with the pixels of one that was pretrained on, told on the screen; {} where nothing was, or its
    images are not here.
    """
    if not encoder.run or encoder.pretrain_data.get("name") != encoder.config.get("data", {}).get("name"):
        return {}
    trained: DataConfig = from_dict(DataConfig, encoder.config["data"])
    found = twins.with_pretraining(data, trained)
    if found and (line := twins.told(found)):
        screen.say(f"note: {line}", "yellow")
    return found


def help_with(threads: int, *args: Any) -> None:
    """What a further process does for `evaluate_all(*args)`: its share of the features."""
    processes.use_threads(threads)
    for _ in evaluate_all(*args):
        raise AssertionError("only process 0 makes records")


def data_of(source: str, root: Path, name: str | None = None, image_size: Size | None = None) -> DataConfig:
    """What to evaluate on: as given, else what the run was pretrained on, else the embedded set."""
    run = source.removeprefix("random:").removeprefix("pixels:")
    is_run = (root / run).exists() or (":" not in source and run not in ("pixels", *RAW))
    base = run_folder.find_run(root, run).config().data if is_run else DataConfig()
    found = replace(base, name=name or base.name, image_size=base.image_size if image_size is None else image_size)
    found.check()
    return found


def _refuse_features(encoder: Encoder, found: Features, part: str) -> None:
    """`UserError` where some are not finite. For process 0: the others hold their share alone, perhaps none."""
    finite = torch.stack([torch.isfinite(x).flatten(1).all(1) for x in found.pooled.values()]).all(0)
    if not finite.all():
        raise UserError(
            f"'{encoder.source}' gives features that are not finite for {int((~finite).sum())} of {len(finite)} {part} "
            "images: no number of it would mean anything. Check how its images must be scaled, or name another encoder."
        )


def _balance(train: Tensor, val: Tensor, test: Tensor) -> dict[str, float]:
    """What always answering the largest training class would score on the test images, in percent, how many classes
    these have, and how many times as many images the largest of them has as the smallest.
    """
    if not len(test):
        return {}
    largest, sizes = torch.cat([train, val]).bincount().argmax(), test.bincount()
    sizes = sizes[sizes > 0]
    share = float(100 * (test == largest).double().mean())
    return {"majority": share, "test_classes": len(sizes), "imbalance": float(sizes.max() / sizes.min().double())}


def _view(one: Protocol, x: Features) -> Features:
    """Only what the protocol declares: tokens for `tokens`, the encoder, which knows of no run or set, for `images` and

    `world`, and whole trajectories for `world`.
    """
    whole = one.input in ("images", "world")
    encoder = replace(x.encoder, config={}, source="", run="", pretrain_data={}) if whole else None
    tokens, raw = x.tokens if one.input == "tokens" else None, x.raw if one.input == "world" else None
    masks = x.masks if one.scores == "masks" else None
    flows = x.flows if one.scores == "flows" else None
    return replace(x, tokens=tokens, raw=raw, encoder=encoder, masks=masks, flows=flows)


def _collapse(encoder: Encoder, train: Features) -> dict[str, Any]:
    """The run's own flag and reason, with RankMe of the features that are evaluated."""
    if encoder.model is None:
        return {"flag": False, "reason": "", "rankme": None}
    z = train.own[:: max(1, len(train) // RANKME_IMAGES)][:RANKME_IMAGES]
    return {"flag": False, "reason": "", **encoder.collapse, "rankme": round(monitor.rankme(z), 3)}


def _record(
    encoder: Encoder, dataset: Dataset, one: Protocol, name: str, seed: int, counts: dict[str, Any],
    collapse: dict[str, Any], result: dict[str, Any],
) -> records.Record:  # fmt: skip
    base, _, variant = name.partition(":")
    segments, crops = dataset.item.views
    seen = {"segments": segments, "crops": crops, "vote": "softmax averaged"} if segments * crops > 1 else {}
    return records.make(
        method=encoder.method, recipe=encoder.recipe, overrides=[], identity=encoder.identity, config=encoder.config,
        run=encoder.run, encoder=encoder.entry | seen, protocol=base, variant=variant, protocol_version=one.version,
        protocol_config=to_dict(one.config),
        data={
            "name": dataset.name, "fingerprint": dataset.fingerprint, "num_train": len(dataset.train),
            "num_val": len(dataset.val), "num_classes": len(dataset.classes), **counts,
            **({"notes": list(dataset.notes)} if dataset.notes else {}),
        },
        pretrain_data=encoder.pretrain_data, seeds={"pretrain": encoder.seed, "probe": seed, "split": 0},
        higher_is_better=one.higher_is_better, collapse=collapse,
        code={**provenance.code_state(), **code.evaluation(base, encoder.model), "training": encoder.code},
        versions=provenance.versions(), **result,
    )  # fmt: skip
