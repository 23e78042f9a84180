"""`zeroshot`: questions about test images, answered by what the run has kept beside its encoder; nothing is fitted.

Definition: of each question (shape, colour, texture, whole caption) the answer whose embedding is nearest to the one
predicted from image and question, by cosine, among all answers of that question; of a captioner the likeliest answer,
by its mean log-probability over its bytes and the end, for all but captions, of which there are 144. Reported in
percent: each question, `mean` of the three short ones, and both on the combinations that no training image has
(`mean_held`, `caption_held`). `chance` is what a guess would give on `mean`. An encoder that keeps nothing to answer by
gets 0.

Changes: 1 first version.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_bench.data.captions import ANSWERS
from ssl_bench.encoders.encoder import Encoder
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol
from ssl_bench.evaluation.text_scorers import Answered
from ssl_bench.models.answers import Answerer
from ssl_bench.models.texts import as_bytes


@dataclass(frozen=True)
class ZeroshotConfig:
    batch_size: int = 250  # images at a time: changes no number


@torch.no_grad()
def scores(answerer: Answerer, tokens: Tensor, question: str, answers: tuple[str, ...]) -> Tensor:
    """[B, A] of the answers, for images with tokens [B, N, D]."""
    asked = as_bytes([question], answerer.length).to(tokens.device).expand(len(tokens), -1)
    known = as_bytes(answers, answerer.length).to(tokens.device)
    if answerer.config.writes:
        each = [answerer.likelihood(tokens, asked, one.expand(len(tokens), -1)) for one in known]
        return torch.stack(each, 1)
    return answerer.answer(tokens, asked) @ answerer.text(known).T


class Guesser(Predictor):
    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    @torch.no_grad()
    def predict(self, x: Features) -> Tensor:
        """The answer to each question [N, Q], -1 where none is given."""
        encoder: Encoder = x.encoder
        found = torch.full((len(x), len(ANSWERS)), -1)
        if (answerer := encoder.answerer) is None:
            return found
        for rows in torch.arange(len(x)).split(self.batch_size):
            tokens = encoder.model(encoder.prepare(x.items.batch(rows.numpy())))
            for i, (question, answers) in enumerate(ANSWERS.items()):
                if not (answerer.config.writes and question == "caption"):
                    found[rows, i] = scores(answerer, tokens, question, answers).argmax(1).cpu()
        return found


class Zeroshot(Protocol):
    input = "images"
    only = "captioned"
    headline = "mean"
    scores = "targets"
    scorer = Answered()
    config: ZeroshotConfig

    def fit(self, train: Features, val: Features, seed: int) -> Guesser:
        return Guesser(self.config.batch_size)

    def classes(self, output: Tensor) -> None:
        return None
