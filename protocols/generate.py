"""`generate`: Code written from Text by the encoder itself, token by token, the likeliest each time.

Definition: the row is Text and the token that Code begins with; what comes next is scored by the table that the tokens
come from, as in pretraining, until the token that Code ends with, or one token more than a Code may have. Reported of
the test pairs, in percent: `exact` (the true tokens, then the end), `prefix` (the true tokens, whatever follows: the
form that LLM-JEPA's paper takes for networks that do not learn to stop), `ended`, and, where a set's language can be
run, `semantic` (ended, and the same as the true Code on every point it is run at: "x+3" for "3+x"). Nothing is fitted.
Encoders without a table write nothing and get 0.

Changes: 1 first version.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_bench.evaluation.protocol import Features, Predictor, Protocol
from ssl_bench.evaluation.text_scorers import Written
from ssl_bench.models.texts import generate


@dataclass(frozen=True)
class GenerateConfig:
    batch_size: int = 250  # pairs at a time: changes no number


class Writer(Predictor):
    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def predict(self, x: Features) -> Tensor:
        """Tokens [N, L + 1]."""
        encoder, length = x.encoder, x.encoder.item.length + 1
        if encoder.model is None:
            return torch.zeros(len(x), length, dtype=torch.int64)
        found = []
        for rows in torch.arange(len(x)).split(self.batch_size):
            text = x.items.batch(rows.numpy())[:, 0].long().to(encoder.device)
            found.append(generate(encoder.model, text, length).cpu())
        return torch.cat(found)


class Generate(Protocol):
    input = "images"
    only = "text"
    headline = "exact"
    scores = "targets"
    scorer = Written()  # in the set's language
    config: GenerateConfig

    def fit(self, train: Features, val: Features, seed: int) -> Writer:
        self.scorer = Written(train.encoder.item.language)
        return Writer(self.config.batch_size)

    def classes(self, output: Tensor) -> None:
        return None
