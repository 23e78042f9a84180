"""`lowshot`: classification from a few labelled images per class, or from 1 % and 10 % of them.

Definition: shots 1, 2, 5, 10, 25 per class and 1 %, 10 % of each class (at least one image), five draws. A draw
permutes the images of each class once and takes the first ones, so smaller sets lie inside larger ones, and the draws
are the same for every method and seed. A class that has fewer images gives all it has, and the metric's name says so:
`shots10 (6 per class)`. Features of the last layer in the encoder's own pooling. Nothing is chosen.

`lowshot` is MSN's logistic regression (Assran et al. 2022, arXiv 2204.07141; msn/logistic_eval.py): each feature vector
is centred and L2-normalised, no intercept, penalty 0.00025 / n, that is C = 4000. MSN takes CLS before the final norm;
here it is after it, as for every other protocol. `lowshot:ridge` is big_vision's closed form
(evaluators/fewshot_lsr.py): features whitened per dimension by the shots, a constant column of 100 as bias, targets
+-1, ridge 2^10, in float64. The headline is 10 images per class, mean over draws; the spread over draws is recorded.

`lowshot:imagenet` is MSN's regression on ImageNet's official 1 % and 10 % (ssl_bench/data/imagenet_subsets.py).
`lists=FOLDER` names the folder of the two files; each must have the official sha256, which the record keeps in place
of the folder. The lists name training images and nothing is chosen, so both parts are fitted on: without the
validation part a tenth of each list would be missing. Any variant that takes 1 % or 10 % alone, once, can be given
`lists` too.

`lowshot:ijepa` fine-tunes the whole network on 1 % (Assran et al. 2023, arXiv 2301.08243): 50 epochs, AdamW, batch
512, layer decay 0.75, label smoothing 0.1, RandAugment, and no mixup, cutmix, erasing or drop path. `lowshot:finetune`
is the same for small sets, where 1 % does not fill a batch of that size: batches of 32, the rate and crops of
`finetune`, no RandAugment; these were not searched. Without `lists`, their 1 % and 10 % are drawn per class.

`lowshot:ways`: n-way m-shot, ten draws of n classes, 20 test items of each; the regression (published: fine-tuning).

Changes: 1 first version. 2 fine-tuning; the other two as before. 3 the regression is solved to the end (it had stopped
at a gradient of 1e-4 or after 300 passes); the others as before. 4 of fine-tuning alone: as version 3 of `finetune`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from protocols.finetune import PICTURES, FinetuneConfig, Finetuned
from ssl_bench.config.schema import bounded, later
from ssl_bench.data.imagenet_subsets import OFFICIAL, read, rows
from ssl_bench.errors import UserError
from ssl_bench.evaluation.logistic import rotate, solve
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol, given, members
from ssl_bench.evaluation.scorers import Settings, Ways
from ssl_bench.screen import paced


@dataclass(frozen=True)
class LowShotConfig:
    solver: Literal["logistic", "ridge", "finetune"] = "logistic"
    penalty: float = bounded(0.00025, least=0)  # MSN's lambda, divided by n; or big_vision's ridge
    shots: tuple[int, ...] = bounded((1, 2, 5, 10, 25), empty=True)  # per class; one that has fewer gives all it has
    percents: tuple[float, ...] = bounded((1.0, 10.0), most=100, empty=True)  # of each class
    draws: int = 5
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)  # of the solver of that name
    ways: int = later(0)  # classes of a draw, tested among themselves; 0: all, on all test images
    lists: str = ""  # folder of ImageNet's official lists, read instead of drawing percents; in records: their sha256

    def check(self) -> None:
        if not self.names():
            raise UserError("lowshot needs shots or percents, and both are empty.")
        if self.lists and (self.shots or self.draws != 1 or not set(self.percents) <= set(OFFICIAL)):
            raise UserError("The official lists are one draw of 1 and 10 %: set shots= percents=1,10 draws=1.")
        if self.solver != "finetune" and self.finetune != FinetuneConfig():
            raise UserError(f"finetune.* has no effect with solver={self.solver}.")
        if (self.solver == "finetune") == (self.penalty > 0):
            raise UserError(f"penalty={self.penalty:g} must be above 0, but 0 with solver=finetune, which has none.")
        if self.ways and (self.percents or self.ways < 2 or self.solver == "finetune"):
            raise UserError(f"ways={self.ways} needs 2 classes or more, percents= and a solver that is not finetune.")
        self.finetune.check()

    def names(self) -> list[str]:
        return [f"shots{k}" for k in self.shots] + [f"percent{p:g}" for p in self.percents]


def ridge() -> LowShotConfig:
    """big_vision's few-shot evaluator (evaluators/fewshot_lsr.py, configs/common_fewshot.py): seconds, no choices."""
    return LowShotConfig("ridge", penalty=1024.0)


def ways() -> LowShotConfig:
    """5-way 10- and 20-shot of clouds of points (Point-BERT, Point-MAE, Point-JEPA); ways=10 for 10-way."""
    return LowShotConfig(shots=(10, 20), percents=(), draws=10, ways=5)


def imagenet() -> LowShotConfig:
    """ImageNet's official 1 % and 10 %, google-research/simclr's lists in lists=FOLDER; MSN's default penalty."""
    return LowShotConfig(shots=(), draws=1, lists="imagenet_subsets")


TUNING: dict[str, Any] = {  # I-JEPA's 1 % recipe, as far as it does not depend on the size of the set
    "layer_decay": 0.75, "drop_path": 0.0, "erase": 0.0, "mixup": 0.0, "cutmix": 0.0, "smoothing": 0.1,
}  # fmt: skip


def ijepa() -> LowShotConfig:
    """I-JEPA ViT-L on 1 % of ImageNet (arXiv 2301.08243, appendix): 50 epochs, batch 512, lr 3e-5, decay 0.05."""
    look: dict[str, Any] = {"randaugment": "rand-m9-mstd0.5-inc1", "crop_scale": (0.08, 1.0), "warmup_epochs": 5}
    tuning = FinetuneConfig(50, 512, 3e-5 * 256 / 512, weight_decay=0.05, **look, **TUNING)
    return LowShotConfig("finetune", 0.0, (), (1.0,), 1, tuning)


def finetune() -> LowShotConfig:
    """The same recipe for small images and sets: batches of 32, rate 4e-3 per 256, crops of 0.35-1; 1 % and 10 %."""
    return LowShotConfig("finetune", 0.0, (), (1.0, 10.0), 3, FinetuneConfig(50, 32, warmup_epochs=5, **TUNING))


def draw(labels: Tensor, num_classes: int, config: LowShotConfig, index: int) -> list[Tensor]:
    """Indices of the labelled images, one set per name of `config.names()`; nested."""
    drawn = members(labels, num_classes, index)
    drawn = [drawn[c] for c in Ways((), config.ways).classes(index, num_classes)] if config.ways else drawn
    sets = [[m[:k] for m in drawn] for k in config.shots]
    sets += [[m[: max(1, round(len(m) * p / 100))] for m in drawn] for p in config.percents]
    return [torch.cat(s) for s in sets]


def ridge_regression(x: Tensor, y: Tensor, num_classes: int, penalty: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [D + 1, C] (the last row for the constant column of 100), and the shots' mean and std; float64."""
    x = x.double()
    mean, std = x.mean(0), x.std(0, unbiased=False) + 1e-5
    z = torch.cat([(x - mean) / std, torch.full((len(x), 1), 100.0, dtype=x.dtype)], 1)
    targets = 2.0 * F.one_hot(y, num_classes).to(x) - 1
    if len(z) < z.shape[1]:  # the dual: the same weights from an n x n system
        gram = z @ z.T + penalty * torch.eye(len(z), dtype=x.dtype)
        return z.T @ torch.linalg.solve(gram, targets), mean, std
    gram = z.T @ z + penalty * torch.eye(z.shape[1], dtype=x.dtype)
    return torch.linalg.solve(gram, z.T @ targets), mean, std


def predict_ridge(bank: Tensor, labels: Tensor, queries: Tensor, num_classes: int, penalty: float) -> Tensor:
    weight, mean, std = ridge_regression(bank, labels, num_classes, penalty)
    return ((queries.double() - mean) / std @ weight[:-1] + 100 * weight[-1]).argmax(1)


def msn_features(x: Tensor) -> Tensor:
    """Each vector centred over its dimensions, then of length 1."""
    return F.normalize(x - x.mean(1, keepdim=True), dim=1)


def predict_logistic(bank: Tensor, labels: Tensor, queries: Tensor, num_classes: int, penalty: float) -> Tensor:
    z, axes = rotate(msn_features(bank).__getitem__, len(bank), intercept=False)
    found = solve(z, labels, num_classes, 1 / penalty, intercept=False)
    return found.logits(axes(msn_features(queries))).argmax(1)


class FewShot(Predictor):
    def __init__(self, bank: Features, config: LowShotConfig, sets: list[list[Tensor]]) -> None:
        super().__init__()
        self.x, self.labels, self.num_classes, self.config = bank.own, bank.labels, bank.num_classes, config
        self.sets = sets  # of each draw, one per name of `config.names()`
        self.selected = {n: len(s) for n, s in zip(config.names(), sets[0], strict=True)}
        for k in config.shots:
            if count := given(bank.labels, bank.num_classes, k):
                self.true_names |= {f"shots{k}{end}": f"shots{k} ({count} per class){end}" for end in ("", "_std")}

    def predict(self, x: Features) -> Tensor:
        """Classes [draws, settings, N]."""
        solve = predict_ridge if self.config.solver == "ridge" else predict_logistic
        return torch.stack([
            torch.stack([solve(self.x[s], self.labels[s], x.own, self.num_classes, self.config.penalty) for s in sets])
            for sets in paced("low-shot draws", self.sets, len(self.sets))
        ])  # fmt: skip


class Tuned(FewShot):
    """The same sets; the encoder itself is trained on each."""

    def __init__(self, bank: Features, config: LowShotConfig, sets: list[list[Tensor]], seed: int) -> None:
        super().__init__(bank, config, sets)
        self.tuned = [[Finetuned(bank.take(s), config.finetune, seed) for s in sets] for sets in self.sets]

    def predict(self, x: Features) -> Tensor:
        return torch.stack([torch.stack([one.predict(x).argmax(1) for one in draw]) for draw in self.tuned])


class LowShot(Protocol):
    version = 3
    config: LowShotConfig

    def __init__(self, config: LowShotConfig) -> None:
        super().__init__(config)
        self.listed = [read(config.lists, p) for p in config.percents] if config.lists else []
        if self.listed:  # where they lie changes no number, which they are does
            self.config = replace(config, lists=" ".join(OFFICIAL[p][1] for p in config.percents))
        self.headline = "shots10" if 10 in config.shots else config.names()[0]
        self.input = "features"
        if config.solver == "finetune":
            self.input, self.only, self.version = "images", PICTURES, 3 if config.finetune.drop_path else 4
        self.scorer = Ways(tuple(config.names()), config.ways) if config.ways else Settings(tuple(config.names()))

    def fit(self, train: Features, val: Features, seed: int) -> FewShot:
        both, c = train + val, self.config
        drawn = (draw(both.labels, both.num_classes, c, i) for i in range(c.draws))
        sets = [[rows(both.files, names) for names in self.listed]] if self.listed else list(drawn)
        return Tuned(both, c, sets, seed) if c.solver == "finetune" else FewShot(both, c, sets)

    def classes(self, output: Tensor) -> None:
        return None  # several draws and sizes: no single correctness bit per image
