"""`flow`: motion by how patch tokens of two frames resemble each other, without training, on clips of known motion.

Definition: for clips whose exact motion from the first frame to the second is known (`movingphotos`; in
`movingphotos:2` everything moves). Each of the two is shown to the frozen encoder alone, as a clip of one tubelet of
that frame, so that no token has seen both; tokens of the last layer, standardised per dimension over training frames.
Tokens lie a patch apart and motion is smaller, so a frame is shown `places` x `places` times, moved by a part of a
patch each time (its edge is repeated): tokens at every such place. Each is compared by cosine with those up to `reach`
places away in the second frame; the answer is the mean displacement under a softmax of the cosines, its temperature
chosen by the error on the validation part, places outside the frame left out, bilinear at the frame's size. The
headline is the mean endpoint error in pixels over all pixels of all test clips (`epe`, lower is better), with its 95 %
interval over clips drawn again; beside it that over the pixels that move, and `epe_zero`, that of the answer that
nothing moves. Each clip's own error is recorded. The row of raw input is a plain correlation of raw patches of
`raw_patch` pixels a side.

The read-out is this benchmark's own. Published errors (Sintel, KITTI) are of estimators trained with the encoder, such
as that of MC-JEPA; a frozen encoder has none, and its tokens are all that is judged here.

Changes: 1 first version.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.errors import UserError
from ssl_bench.evaluation import map_scorers
from ssl_bench.evaluation.patch_maps import raw_patches
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol
from ssl_bench.models.flow import correlate, displacements
from ssl_bench.screen import paced
from ssl_bench.views.plain import plain

ROWS = 32  # clips at a time


@dataclass(frozen=True)
class FlowConfig:
    places: int = 4  # of a patch, down and across
    reach: int = 4  # places up, down and to the sides
    raw_patch: int = 4  # pixels per side of a patch of raw input
    clips: int = 200  # of the validation part at most, by which the temperature is chosen
    temperatures: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)

    def check(self) -> None:
        if min(self.places, self.reach, self.raw_patch, self.clips) < 1 or min(self.temperatures, default=0) <= 0:
            raise UserError("flow needs places, reach, raw_patch and clips of 1 or more, and temperatures above 0.")


class Motion(Predictor):
    """Tokens at many places of two frames, and where those of the first are found in the second."""

    temperature: float

    def __init__(self, config: FlowConfig, x: Features) -> None:
        super().__init__()
        clips = x.items.batch(torch.arange(min(8 * ROWS, len(x))).numpy())
        self.config, (height, width), self.network = config, clips.shape[-2:], x.encoder.model is not None
        grid = x.grid[-2:] if self.network else (height // config.raw_patch, width // config.raw_patch)
        self.patch = height // grid[0] if self.network else config.raw_patch
        if x.covered != (1.0, 1.0) or (self.patch * grid[0], self.patch * grid[1]) != (height, width):
            raise UserError(
                f"flow needs frames of whole patches, and {height} x {width} pixels are {grid[0]} x {grid[1]} patches "
                "of no whole number of pixels: set data.image_size, or flow.raw_patch for raw input."
            )
        if self.patch % config.places:
            raise UserError(f"places={config.places} must divide the {self.patch} pixels of a patch.")
        self.step = self.patch // config.places
        z = torch.cat([self.tokens(x, clips[:, t]).flatten(2).transpose(1, 2) for t in (0, 1)]).flatten(0, 1)
        std, self.mean = torch.std_mean(z, 0, correction=0)
        self.std = torch.where(std < 1e-6, 1.0, std)
        self.selected = {"places": [g * config.places for g in grid], "step": self.step}

    @torch.no_grad()
    def tokens(self, x: Features, frames: Tensor) -> Tensor:
        """fp32 [B, D, h, w] of frames [B, C, H, W], each shown alone, at every place."""
        (height, width), n, edge = frames.shape[-2:], self.config.places, (self.patch - self.step + 1) // 2
        wide = F.pad(frames.float(), (edge, self.patch - edge) * 2, mode="replicate").to(frames.dtype)
        shown = [(y * self.step, x * self.step) for y in range(n) for x in range(n)]
        found = [self._encoded(x, wide[..., top : top + height, left : left + width]) for top, left in shown]
        maps = torch.stack(found, 1).transpose(2, 3)  # [B, n * n, D, T]
        maps = maps.unflatten(3, (height // self.patch, width // self.patch)).unflatten(1, (n, n))
        return maps.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)

    def _encoded(self, x: Features, frames: Tensor) -> Tensor:
        """Tokens [B, T, D] where the patches lie."""
        if not self.network:
            return raw_patches(frames, self.config.raw_patch)
        e = x.encoder
        still = frames[:, None].expand(-1, e.frames // x.grid[0], -1, -1, -1).to(e.device)
        ready = plain(still, e.image_size, e.resize, e.interpolation, e.mean, e.std)
        found: Tensor = e.forward(ready, 1, want_tokens=True)["tokens"]
        return found.float().cpu()

    def cosines(self, x: Features, rows: Tensor) -> Tensor:
        """[n, R, h, w] of some clips of `x`; -inf for places outside the frame."""
        clips, (mean, std) = x.items.batch(rows.numpy()), (v[:, None, None] for v in (self.mean, self.std))
        first, second = (F.normalize((self.tokens(x, clips[:, t]) - mean) / std, dim=1) for t in (0, 1))
        whole, reach = torch.ones_like(first[:1, :1]), self.config.reach
        inside = correlate(whole, whole, reach) > 0
        return (first.shape[1] * correlate(first, second, reach)).masked_fill(~inside, -torch.inf)

    def flows(self, cosines: Tensor, temperature: float) -> Tensor:
        """fp32 [n, 2, H, W] in pixels."""
        steps = self.step * displacements(self.config.reach)
        found = torch.einsum("nrhw,rc->nchw", (cosines / temperature).softmax(1), steps)
        return F.interpolate(found, scale_factor=self.step, mode="bilinear") if self.step > 1 else found

    def choose(self, val: Features) -> None:
        """The temperature with the smallest error on clips of the validation part."""
        assert val.flows is not None
        parts, tried = list(torch.arange(len(val))[: self.config.clips].split(ROWS)), self.config.temperatures
        errors = torch.zeros(len(tried))
        for rows in paced("choosing the temperature", parts, len(parts)):
            cosines, truth = self.cosines(val, rows), val.flows.batch(rows.numpy())
            found = [map_scorers.endpoint(self.flows(cosines, t), truth).mean((1, 2)).sum() for t in tried]
            errors += torch.stack(found) / sum(map(len, parts))
        self.temperature = tried[int(errors.argmin())]
        told = {"temperature": self.temperature, "val_epe": float(errors.min()), "candidates": len(tried)}
        self.selected |= told

    def predict(self, x: Features) -> Tensor:
        parts = list(torch.arange(len(x)).split(ROWS))
        rows = paced("comparing frames", parts, len(parts))
        return torch.cat([self.flows(self.cosines(x, r), self.temperature) for r in rows])


class Flow(Protocol):
    input = "images"
    headline = "epe"
    higher_is_better = False
    scorer = map_scorers.Endpoint()
    scores = "flows"
    config: FlowConfig

    def fit(self, train: Features, val: Features, seed: int) -> Motion:
        if train.flows is None or val.flows is None:
            raise UserError("Protocol 'flow' needs clips of known motion: use --data movingphotos:2.")
        found = Motion(self.config, train)
        found.choose(val)
        return found

    def classes(self, output: Tensor) -> None:
        return None
