"""The linear support vector machine of the tables of point clouds, on the maximum beside the mean of the tokens."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.svm import SVC
from torch import Tensor

from ssl_bench.evaluation.protocol import Features, Predictor

BATCH = 256


def max_and_mean(x: Features) -> np.ndarray:
    """Float64 [N, 2D]: the largest value of each dimension over the last layer's tokens, then the mean."""
    assert x.tokens is not None
    rows = [x.tokens.batch(np.arange(i, min(i + BATCH, len(x)))).float() for i in range(0, len(x), BATCH)]
    return torch.cat([torch.cat([t.amax(1), t.mean(1)], 1) for t in rows]).double().cpu().numpy()


class SVM(Predictor):
    """sklearn's `SVC(kernel="linear")` with a given C on features as they are: one against one, votes decide."""

    def __init__(self, x: Features, strength: float) -> None:
        super().__init__()
        self.num_classes = x.num_classes
        self.machine = SVC(kernel="linear", C=strength).fit(max_and_mean(x), x.labels.numpy())
        self.selected = {"head": f"max+mean/C={strength:g}", "candidates": 1}

    def predict(self, x: Features) -> Tensor:
        """Its one guess of each image [N, C]: every other class is -inf, so that none is among the first five."""
        guess = F.one_hot(torch.from_numpy(self.machine.predict(max_and_mean(x))), self.num_classes)
        return torch.zeros(guess.shape).masked_fill(guess == 0, -torch.inf)
