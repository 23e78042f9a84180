"""`mrr`: does the kept predictor use what it is told was done to an image? Equivariance, of runs that keep one (IWM).

Definition (the metric is IWM's, arXiv 2403.00504; its code is not public and its details are not known to us, so these
are ours): every test image, resized, is changed in colour as in pretraining, jitter always among the changes. The
evaluated encoder, frozen, sees the patches of one context block of the changed image; the predictor predicts the tokens
of four target blocks of the unchanged image (I-JEPA's blocks) once for the true action and once for each of
`candidates` - 1 others, drawn by the same law. Candidates are ranked by the squared distance of the prediction to the
target, normalised as in pretraining; the mean of 1 / rank of the true one over the images, in percent.
`chance` is what an order that says nothing would give: (1 + 1/2 + ... + 1/candidates) / candidates; a predictor that
ignores its actions gets 2 / (candidates + 1), as all are equally far and share their mean rank. High: equivariant.

Changes: 1 first version.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ssl_bench.config.bounds import refuse_outside
from ssl_bench.config.from_file import from_dict
from ssl_bench.encoders.encoder import Encoder
from ssl_bench.errors import UserError
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol
from ssl_bench.evaluation.scorers import Ranks
from ssl_bench.evaluation.tuned import kept_predictor
from ssl_bench.models.tokenizer import gather
from ssl_bench.rng import Rng, mix
from ssl_bench.views.actions import action_vector
from ssl_bench.views.augment import AugmentConfig, draw, render
from ssl_bench.views.masks import multiblock

IMAGES = 128  # at a time


@dataclass(frozen=True)
class MRRConfig:
    candidates: int = 64  # the true action and others

    def check(self) -> None:
        refuse_outside("", self, {"candidates": 2})


def always_jittered(objective: dict[str, Any]) -> AugmentConfig:
    """The changes of pretraining, jitter in every image: an image that stays as it is has no action of its own."""
    found: AugmentConfig = from_dict(AugmentConfig, objective["augment"])
    return replace(found, flip=0.0, jitter_p=1.0 if found.jitter_p else 0.0)


class Ranked(Predictor):
    def __init__(self, encoder: Encoder, candidates: int, seed: int) -> None:
        super().__init__()
        self.encoder, self.kept, self.count, self.seed = encoder, kept_predictor(encoder), candidates, seed
        self.kept.eval()
        known = self.kept.objective
        if known["target"] != "latent" or known["target_view"] != "full":
            raise UserError("mrr needs a predictor of latent tokens: objective.target=latent and target_view=full.")
        self.look = always_jittered(known)

    @torch.no_grad()
    def distances(self, items: Tensor, start: int) -> Tensor:
        """[B, K] of stored images; `start` names the batch among the random numbers."""
        encoder, vit, look = self.encoder, self.encoder.model, self.look
        images = encoder.seen(items)
        height, width = images.shape[-2:]
        rng = Rng(mix("mrr", self.seed, start), len(images), device=encoder.device)
        keep, targets = multiblock(rng, encoder.grid)
        whole = torch.tensor([0, 0, height, width], device=encoder.device).expand(len(images), -1)
        true = replace(draw(rng, (height, width), look), boxes=whole)
        plain = replace(true, jitter=None, gray=None, blur=None, solarize=None)
        size = encoder.image_size
        source, same = (render(images, d, size, look, encoder.mean, encoder.std) for d in (true, plain))
        context = vit(source, keep)[:, vit.num_prefix :]
        wanted = gather(self.kept.target(vit(same)[:, vit.num_prefix :]), targets.flatten(1))
        told = [true, *(draw(rng, (height, width), look) for _ in range(self.count - 1))]
        out = []
        for one in told:
            predicted = self.kept(context, keep, targets, action_vector(one)).flatten(1, 2)
            out.append((predicted.float() - wanted).square().mean((1, 2)))
        return torch.stack(out, 1).cpu()

    def predict(self, x: Features) -> Tensor:
        rows = torch.arange(len(x)).split(IMAGES)
        return torch.cat([self.distances(x.items.batch(r.numpy()), int(r[0])) for r in rows])


class MRR(Protocol):
    input = "images"
    headline = "mrr"
    scorer = Ranks()
    needs_predictor = True
    config: MRRConfig

    def fit(self, train: Features, val: Features, seed: int) -> Ranked:
        return Ranked(train.encoder, self.config.candidates, seed)

    def classes(self, output: Tensor) -> None:
        return None
