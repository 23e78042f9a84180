"""The fifteen common corruptions at five severities, for a whole batch on its device.

After Hendrycks & Dietterich 2019 (arXiv 1903.12261): the same kinds and, for small images, the strengths of CIFAR-C,
scaled with the image's side where they are lengths. Not the same pixels: JPEG quality steps and blurs are those of
torchvision and torch, frost is made from noise and not from their photographs, and the random draws differ. Compare
numbers made here with numbers made here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg

from ssl_bench.errors import UserError
from ssl_bench.views.augment import gaussian_blur

Corruption = Callable[[Tensor, int, torch.Generator], Tensor]  # images [B, C, H, W] in [0, 1], severity 0-4, draws
SEVERITIES = 5


def _side(x: Tensor) -> float:
    return x.shape[-1] / 32  # CIFAR-C's lengths are for 32 pixels


def _randn(x: Tensor, g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*(shape or x.shape), generator=g, device=x.device)


def _rand(x: Tensor, g: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*(shape or x.shape), generator=g, device=x.device)


def gaussian_noise(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    return x + (0.04, 0.06, 0.08, 0.09, 0.10)[s] * _randn(x, g)


def shot_noise(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    photons = (500, 250, 100, 75, 50)[s]
    return torch.poisson(x * photons, generator=g) / photons


def impulse_noise(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    share, draw = (0.01, 0.02, 0.03, 0.05, 0.07)[s], _rand(x, g)
    return torch.where(draw < share / 2, 0.0, torch.where(draw < share, 1.0, x))


def _filtered(x: Tensor, kernel: Tensor) -> Tensor:
    pad = kernel.shape[-1] // 2
    weight = (kernel / kernel.sum())[None, None].expand(x.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(x, (pad,) * 4, mode="reflect"), weight, groups=x.shape[1])


def _grid(radius: int, device: torch.device) -> tuple[Tensor, Tensor]:
    line = torch.arange(-radius, radius + 1, device=device, dtype=torch.float32)
    return line[:, None].expand(-1, len(line)), line[None].expand(len(line), -1)


def defocus_blur(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    radius = (0.3, 0.4, 0.5, 1.0, 1.5)[s] * 2 * _side(x)
    rows, columns = _grid(math.ceil(radius), x.device)
    return _filtered(x, (radius + 0.5 - (rows**2 + columns**2).sqrt()).clamp(0, 1))


def glass_blur(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    sigma, reach = (0.05, 0.25, 0.4, 0.25, 0.4)[s] * _side(x) * 2, max(1, int(_side(x)))
    times = (1, 1, 1, 2, 2)[s]
    blurred = _blurred(x, sigma)
    b, _, h, w = x.shape
    for _ in range(times):  # pixels swap places with near ones
        offset = (_rand(x, g, b, h, w, 2) * (2 * reach + 1)).floor() - reach
        blurred = F.grid_sample(blurred, _places(x) + offset * 2 / (w - 1), "nearest", "reflection", align_corners=True)
    return _blurred(blurred, sigma)


def _blurred(x: Tensor, sigma: float) -> Tensor:
    return gaussian_blur(x, torch.full((len(x),), max(sigma, 0.05), device=x.device), max(1, math.ceil(3 * sigma)))


def _places(x: Tensor) -> Tensor:
    """Sampling places [B, H, W, 2] (column, row) in [-1, 1] that leave the images as they are."""
    rows, columns = (torch.linspace(-1, 1, n, device=x.device) for n in x.shape[-2:])
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1).expand(len(x), -1, -1, -1)


def motion_blur(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    length = (1.5, 2.0, 2.5, 3.0, 4.0)[s] * _side(x)
    angle = (_rand(x, g, len(x), 1, 1, 1) - 0.5) * math.pi / 2
    step = torch.cat([angle.cos(), angle.sin()], -1) * 2 / x.shape[-1]
    shifts, base = torch.linspace(-length, length, 2 * math.ceil(length) + 1).tolist(), _places(x)
    moved = [F.grid_sample(x, base + d * step, "bilinear", "reflection", align_corners=True) for d in shifts]
    return torch.stack(moved).mean(0)


def zoom_blur(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    most, base = (0.06, 0.11, 0.16, 0.21, 0.26)[s], _places(x)
    zooms = [1 + most * i / 5 for i in range(6)]
    return torch.stack([F.grid_sample(x, base / z, "bilinear", "border", align_corners=True) for z in zooms]).mean(0)


def _plasma(x: Tensor, g: torch.Generator, roughness: float) -> Tensor:
    """Fractal noise [B, 1, H, W] in [0, 1]: octaves of smooth noise, each `roughness` times the last."""
    total, size, weight = torch.zeros(len(x), 1, *x.shape[-2:], device=x.device), 2, 1.0
    while size <= x.shape[-1]:
        total = total + weight * F.interpolate(
            _rand(x, g, len(x), 1, size, size), x.shape[-2:], mode="bicubic", align_corners=True
        )
        size, weight = size * 2, weight * roughness
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    return (total - low) / (high - low).clamp(min=1e-6)


def snow(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    mean, threshold, keep = ((0.1, 0.6, 0.95), (0.1, 0.5, 0.9), (0.15, 0.55, 0.9), (0.25, 0.6, 0.85), (0.3, 0.65, 0.8))[
        s
    ]
    flakes = mean + (0.2, 0.2, 0.3, 0.3, 0.3)[s] * _randn(x, g, len(x), 1, *x.shape[-2:])
    layer = motion_blur(torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1), 4, g)
    pale = torch.maximum(x, x.mean(1, keepdim=True) * 1.5 + 0.5)
    return keep * x + (1 - keep) * pale + layer + layer.flip(2)


def frost(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    keep, amount = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[s]
    crystals = (2 * (_plasma(x, g, 0.9) - 0.5).abs()) ** 0.5
    tint = torch.tensor([0.85, 0.95, 1.0], device=x.device)[: x.shape[1], None, None]
    return keep * x + amount * crystals * tint


def fog(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    amount, roughness = ((0.2, 0.33), (0.5, 0.33), (0.75, 0.4), (1.0, 0.5), (1.5, 0.57))[s]
    peak = x.amax((1, 2, 3), keepdim=True)
    return (x + amount * _plasma(x, g, roughness)) * peak / (peak + amount)


def brightness(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    value = x.amax(1, keepdim=True)  # HSV's value, raised at the same hue and saturation
    return x * ((value + (0.05, 0.1, 0.15, 0.2, 0.3)[s]).clamp(max=1) / value.clamp(min=1e-3))


def contrast(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[s] + mean


def elastic_transform(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    strength, smooth = ((0.08, 2.5), (0.08, 2.0), (0.10, 2.0), (0.12, 2.0), (0.15, 1.5))[s]
    field = _blurred(2 * _rand(x, g, len(x), 2, *x.shape[-2:]) - 1, smooth * _side(x))
    field = field / field.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-6) * strength
    return F.grid_sample(x, _places(x) + field.permute(0, 2, 3, 1), "bilinear", "reflection", align_corners=True)


def pixelate(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    size = [max(1, round(n * (0.95, 0.9, 0.85, 0.75, 0.65)[s])) for n in x.shape[-2:]]
    return F.interpolate(F.interpolate(x, size, mode="area"), x.shape[-2:], mode="nearest")


def jpeg_compression(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    quality = (80, 65, 58, 50, 40)[s]
    coded = encode_jpeg(list((x * 255).round().to(torch.uint8).cpu()), quality)
    return torch.stack([decode_jpeg(image) for image in coded]).to(x.device).float() / 255


CORRUPTIONS: dict[str, Corruption] = {
    f.__name__: f
    for f in (
        *(
            gaussian_noise,
            shot_noise,
            impulse_noise,
            defocus_blur,
            glass_blur,
            motion_blur,
            zoom_blur,
            snow,
            frost,
            fog,
        ),
        *(brightness, contrast, elastic_transform, pixelate, jpeg_compression),
    )
}


def corrupt(images: Tensor, name: str, severity: int, seed: int) -> Tensor:
    """uint8 [B, C, H, W] -> the same images corrupted, uint8; severity 1 to 5. Frames of a clip get the same draws."""
    if images.ndim < 4:
        raise UserError("Corruptions are of pictures, and these items are none: leave 'robust' out.")
    if images.ndim == 5:
        return torch.stack([corrupt(frame, name, severity, seed) for frame in images.unbind(1)], 1)
    generator = torch.Generator(images.device).manual_seed(seed)
    out = CORRUPTIONS[name](images.float() / 255, severity - 1, generator)
    return (out.clamp(0, 1) * 255).round().to(torch.uint8)
