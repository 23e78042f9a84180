"""What was done to an image's colours, as the vector that a predictor is told (IWM)."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_bench.views.augment import Draws

ACTIONS = 7  # brightness, contrast, saturation, hue, gray, blur, solarize


def action_vector(draws: Draws) -> Tensor:
    """What was done to each image's colours: [B, 7], 0 where nothing was."""
    none = torch.zeros(len(draws.boxes), device=draws.boxes.device)
    jittered = none if draws.jitter is None else draws.jitter.float()
    identity = (1.0, 1.0, 1.0, 0.0)  # factors that change nothing; a hue shift of 0
    columns = [none if f is None else jittered * (f - one) for f, one in zip(draws.factors, identity, strict=True)]
    columns.append(none if draws.gray is None else draws.gray.float())
    columns.append(none if draws.blur is None or draws.sigma is None else draws.blur * draws.sigma)
    columns.append(none if draws.solarize is None else draws.solarize.float())
    return torch.stack(columns, 1)
