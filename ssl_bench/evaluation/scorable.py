"""Whether a protocol can be scored on a set: told before anything is trained or encoded."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ssl_bench.data.dataset import Dataset
from ssl_bench.data.items import of_kind
from ssl_bench.evaluation.protocol import Protocol


def nothing_to_tell_apart(dataset: Dataset) -> str:
    """Why no protocol can score an encoder on these images, or ""."""
    if not dataset.labelled:
        return f"'{dataset.name}' has no labels to evaluate by"
    if len(found := torch.cat([dataset.train.labels, dataset.val.labels]).unique()) < 2:
        only = dataset.classes[int(found[0])]
        return f"All training images of '{dataset.name}' are of one class, '{only}', and one class cannot be classified"
    return ""


def lacking(dataset: Dataset, protocols: Iterable[tuple[str, Protocol]]) -> str:
    """Why one of the named protocols cannot be scored on these items, or ""."""
    segments, crops = dataset.item.views
    for name, one in protocols:
        if segments * crops > 1 and not one.votes and one.input == "images":
            return f"{name} prepares clips itself and takes none in segments or crops, as '{dataset.name}' has them"
        if crops > 1 and not one.votes:
            return (
                f"{name} gives no logits, by which the {crops} crops of a film in '{dataset.name}' could vote; "
                f"linear and attentive do, and #views={segments}x1 has no crops"
            )
        if one.input == "world" and dataset.item.name != "trajectory":
            return (
                f"{name} needs trajectories of a world, and '{dataset.name}' has {dataset.item.noun}; two_room has them"
            )
        if one.only and dataset.item.name not in one.only.split():
            needed = " or ".join(of_kind(kind).noun for kind in one.only.split())
            return f"{name} needs {needed}, and '{dataset.name}' has {dataset.item.noun}"
        if one.scores == "targets" and not (one.only or dataset.train.factors):
            return f"{name} probes known factors, which '{dataset.name}' lacks; the set factors has them"
        if one.factor and one.factor not in {f.name for f in dataset.train.factors}:
            what = f"{dataset.item.noun} whose {one.factor} is known"
            return f"{name} needs {what}, which '{dataset.name}' lacks; cues has it"
        if one.scores == "flows" and dataset.train.flows is None:
            return f"{name} needs clips whose motion is known, and '{dataset.name}' has none; movingphotos has it"
        if one.scores == "masks" and dataset.train.masks is None:
            return f"{name} needs images with masks, which '{dataset.name}' lacks; the set factors has them"
    return nothing_to_tell_apart(dataset)
