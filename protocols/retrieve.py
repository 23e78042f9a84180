"""`retrieve`: is the true Code the nearest to Text, among the Codes of all test pairs?

Definition: an embedding is the output of the last layer, after the final norm, at a view's last token, Text and Code
each read alone; Text may be followed by up to four [PRED] tokens, as LLM-JEPA does, or both may be the mean over their
tokens. Which of these (`readouts`) is chosen by R@1 on the validation part, so that an encoder trained without [PRED]
is read where it knows most. Cosine similarity. Reported in percent: R@1, R@5, R@10 and the mean reciprocal rank; equal
Codes are one candidate, equally similar ones share their mean rank; `chance` is R@1 of an order that says nothing.
Raw input: `counts` compares how often each token occurs, `pixels` the tokens' numbers place by place.

Changes: 1 first version.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.encoders.encoder import Encoder
from ssl_bench.errors import UserError, nearest
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol
from ssl_bench.evaluation.text_scorers import Found, different
from ssl_bench.models.texts import asking, at, rows, states

READOUTS = ("last", "pred1", "pred2", "pred3", "pred4", "mean")
TEXTS = 250  # read at a time


@dataclass(frozen=True)
class RetrieveConfig:
    ks: tuple[int, ...] = (1, 5, 10)  # of recall
    readouts: tuple[str, ...] = READOUTS  # tried

    def check(self) -> None:
        if 1 not in self.ks or min(self.ks) < 1:
            raise UserError("ks needs whole numbers, 1 or more, and 1 among them, as in 1,5,10.")
        if wrong := [name for name in self.readouts if name not in READOUTS]:
            raise UserError(f"Unknown readout '{wrong[0]}'. {nearest(wrong[0], READOUTS)}")
        if not self.readouts:
            raise UserError(f"readouts is empty: give one or more of {', '.join(READOUTS)}.")


@torch.no_grad()
def embedded(encoder: Encoder, ids: Tensor, readout: str, asks: bool) -> Tensor:
    """Unit vectors [N, D] of texts, int64 [N, L]; [PRED] tokens follow where the text `asks`."""
    found = []
    for part in ids.split(TEXTS):
        if encoder.model is None or readout == "mean":
            pairs = torch.stack([part, torch.zeros_like(part)], 1).to(torch.uint8)
            found.append(encoder.encode(pairs, 1)["mean"][:, -1].float().cpu())
            continue
        preds = int(readout.removeprefix("pred")) if asks and readout.startswith("pred") else 0
        given = rows(*asking(part.to(encoder.device), preds))
        found.append(at(states(encoder.model, given), given.last(0)).float().cpu())
    return F.normalize(torch.cat(found), dim=1)


class Searcher(Predictor):
    def __init__(self, readout: str) -> None:
        super().__init__()
        self.readout = readout

    def predict(self, x: Features) -> Tensor:
        """Similarities [N, M] to the different Codes in sorted order."""
        text, code = x.items.batch(np.arange(len(x))).long().unbind(1)
        candidates, _ = different(code)
        sides = ((text, True), (candidates, False))
        left, right = (embedded(x.encoder, ids, self.readout, asks) for ids, asks in sides)
        return left @ right.T


class Retrieve(Protocol):
    input = "images"
    only = "text"
    headline = "r@1"
    scores = "targets"
    config: RetrieveConfig

    def __init__(self, config: RetrieveConfig) -> None:
        super().__init__(config)
        self.scorer = Found(config.ks)

    def fit(self, train: Features, val: Features, seed: int) -> Searcher:
        assert val.targets is not None
        raw = train.encoder.model is None
        tried = {}
        for readout in ("mean",) if raw else self.config.readouts:
            output = Searcher(readout).predict(val)
            tried[readout] = self.scorer(output, val.targets, 0)["r@1"]
        best = max(tried, key=tried.__getitem__)
        found = Searcher(best)
        found.selected = {"readout": best, **{f"val_r@1_{name}": value for name, value in tried.items()}}
        return found

    def classes(self, output: Tensor) -> None:
        return None
