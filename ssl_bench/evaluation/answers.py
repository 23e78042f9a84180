"""What a protocol answers on the test images, made before their labels are read; and its score, made after."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ssl_bench.evaluation import seal
from ssl_bench.evaluation.protocol import Features, Protocol
from ssl_bench.evaluation.scorers import Scorer


@dataclass(frozen=True)
class Answer:
    """All that is taken from a predictor."""

    name: str
    protocol: Protocol
    num_classes: int
    output: Tensor  # what the scorer reads
    classes: Tensor | None  # [N]
    controls: dict[str, Tensor]  # control -> what the scorer reads of the test items changed by it
    tried: list[tuple[str, Tensor]]  # the classes [N] of every candidate
    measured: dict[str, float]
    selected: dict[str, Any]
    true_names: dict[str, str]
    seconds: float


def predict(
    name: str, one: Protocol, train: Features, val: Features, test: Features, seed: int, closed: Sequence[Path] = (),
    controls: Mapping[str, Features] = MappingProxyType({}), crops: int = 1,
) -> Answer:  # fmt: skip
    """Fit and predict, while nothing in `closed` can be opened. `test` has no labels, and nobody has read them.

    `controls` are the same test items without something, such as clips of one frame: the same predictor is run on them.
    Where an item has several `crops`, they stand in a row in `test` and `controls`, and vote; no candidates are then
    told, for those give classes alone.
    """
    assert not len(test.labels) and test.targets is None and test.files is None
    assert test.masks is None and test.flows is None
    started = time.perf_counter()
    torch.manual_seed(seed)
    with seal.shut(*closed):
        found = one.fit(train, val, seed)
        if isinstance(one.scorer, Scorer):
            one.scorer = one.scorer.judging(sealed=True)
        with torch.no_grad():
            output = voted(found.predict(test), crops)
            classes, tried = one.classes(output), list(found.candidates(test)) if crops == 1 else []
            changed = {control: voted(found.predict(items), crops) for control, items in controls.items()}
    told = found.measured, found.selected, found.true_names
    took = time.perf_counter() - started
    return Answer(name, one, one.outcomes(train), output, classes, changed, tried, *told, took)


def voted(output: Tensor, crops: int) -> Tensor:
    """Logits [N * crops, C] -> the softmax averaged over each item's crops [N, C]; of one crop the output itself."""
    return output if crops == 1 else output.double().softmax(1).unflatten(0, (-1, crops)).mean(1)


def waiting(answers: Iterator[Answer]) -> Iterator[Answer]:
    """The same, but all are made before the first is given out; where one fails, after those made before it."""
    made: list[Answer] = []
    trouble: Exception | None = None
    try:
        made.extend(answers)
    except Exception as error:
        trouble = error
    yield from made
    if trouble is not None:
        raise trouble


def score(answer: Answer, truth: Tensor) -> dict[str, Any]:
    """The fields of the record that come from the protocol, given what is true of the test images."""
    one, started = answer.protocol, time.perf_counter()
    if one.own_scorer:  # it sees labels, so it is given a process of its own
        metrics = seal.aside(lambda: one.score(answer.output.cpu(), truth, answer.num_classes))
    else:
        metrics = one.scorer(answer.output, truth, answer.num_classes)
    metrics, true = {**metrics, **answer.measured}, answer.true_names
    for control, output in answer.controls.items():
        metrics[f"{true.get(one.headline, one.headline)}, {control}"] = one.scorer(output, truth, answer.num_classes)[
            one.headline
        ]
    optimism = _optimism(answer, truth, metrics)
    judge = one.scorer if isinstance(one.scorer, Scorer) else Scorer()
    return {
        "headline": true.get(one.headline, one.headline), "metrics": {true.get(k, k): v for k, v in metrics.items()},
        "optimism": optimism, "selected": answer.selected, "per_image": judge.kept(answer.output, truth),
        "correct": judge.bits(answer.output, answer.classes, truth),
        "seconds": round(answer.seconds + time.perf_counter() - started, 3),
    }  # fmt: skip


def _optimism(answer: Answer, labels: Tensor, metrics: dict[str, float]) -> dict[str, Any]:
    """What picking the best candidate on the test images would have printed, beside what is reported."""
    one, found = answer.protocol, {}
    for name, classes in answer.tried:
        found[name] = float(100 * (classes == labels).double().mean())
        if one.record_candidates:
            metrics[f"{one.headline}@{name}"] = found[name]
    if not found:
        return {}
    best = max(found, key=lambda name: found[name])
    honest = metrics[one.headline]
    return {"usual": max(found[best], honest), "honest": honest, "candidates": len(found), "best": best}
