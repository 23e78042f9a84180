"""Batched augmentation with per-image parameters, on the images' own device.

Shapes: images [B, C, H, W], uint8 or float in [0, 1]; everything is float32 in [0, 1] until it is normalised.
`augment` takes clips [B, T, C, H, W] too (all frames of one get the same), and clouds of points (clouds.py).
`draw` makes the random numbers, `render` applies them. The pieces follow `torchvision.transforms.functional`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ssl_bench.config.schema import Size, later, sides
from ssl_bench.errors import UserError
from ssl_bench.rng import Rng
from ssl_bench.views import clouds, sound

Filter = Literal["bilinear", "bicubic"]
Stats = Tensor | Sequence[float]  # one number per channel
F32 = torch.float32


@dataclass(frozen=True)
class AugmentConfig:
    """One view: crop, flip, colour jitter, grayscale, blur, solarize, in this order (DINO's and BYOL's)."""

    crop_scale: tuple[float, float] = (0.08, 1.0)  # share of the image's area that a crop covers, before resizing
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of the crop, log-uniform
    flip: float = 0.5  # probability of a horizontal flip
    brightness: float = 0.0  # strength: factor in [max(0, 1 - s), 1 + s]
    contrast: float = 0.0  # strength, as brightness
    saturation: float = 0.0  # strength, as brightness; needs 3 channels
    hue: float = 0.0  # shift in [-hue, hue], in turns of the colour circle, at most 0.5; needs 3 channels
    jitter_p: float = 0.0  # probability of the four operations above together
    gray_p: float = 0.0  # probability of grayscale; needs 3 channels
    blur_p: float = 0.0  # probability of a Gaussian blur
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # its standard deviation in output pixels; kernel 2 * ceil(3 * hi) + 1
    solarize_p: float = 0.0  # probability of inverting the bright pixels
    solarize_threshold: float = 0.5  # pixels at least this bright are inverted (DINO: 128 of 255)
    interpolation: Filter = "bilinear"  # resampling of the crop, always antialiased
    sound: sound.SoundConfig = later(sound.SoundConfig())  # what is done to a spectrogram before it is cropped
    cloud: clouds.CloudConfig = later(clouds.CloudConfig())  # what is done to clouds of points, in place of all above

    def check(self, channels: int = 3) -> None:
        """Raise `UserError` for impossible values, settings without effect, and colour on other than 3 channels."""
        self.sound.check()
        self.cloud.check()
        for name in ("flip", "jitter_p", "gray_p", "blur_p", "solarize_p", "solarize_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)} must lie in [0, 1].")
        for name, top in (("crop_scale", 1.0), ("crop_ratio", math.inf), ("blur_sigma", math.inf)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= top:
                raise UserError(f"{name}=({low}, {high}) must be positive and in order{', at most 1' * (top == 1)}.")
        if min(self.brightness, self.contrast, self.saturation, self.hue) < 0 or self.hue > 0.5:
            raise UserError("brightness, contrast and saturation must not be negative, and hue must lie in [0, 0.5].")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise UserError(f"interpolation='{self.interpolation}' must be bilinear or bicubic.")
        strengths = [n for n in ("brightness", "contrast", "saturation", "hue") if getattr(self, n) > 0]
        if bool(strengths) != (self.jitter_p > 0):
            raise UserError("jitter_p and brightness, contrast, saturation or hue have no effect without each other.")
        for switch, name in (("blur_p", "blur_sigma"), ("solarize_p", "solarize_threshold")):
            if getattr(self, switch) == 0 and getattr(self, name) != getattr(AugmentConfig, name):  # not the default
                raise UserError(f"{name} has no effect while {switch} is 0: set {switch}, or leave {name}.")
        if channels != 3 and (self.saturation > 0 or self.hue > 0 or self.gray_p > 0):
            raise UserError(f"saturation, hue and gray_p need 3 channels; the images have {channels}: set them to 0.")


@dataclass(frozen=True)
class Draws:
    """The random numbers of one view of B images, None where a step is off; IWM conditions its predictor on them."""

    boxes: Tensor  # [B, 4] top, left, height, width in input pixels
    flip: Tensor | None  # [B] bool
    jitter: Tensor | None  # [B] bool
    order: list[int]  # of the four jitter operations below, the same for all images of the call
    factors: list[Tensor | None]  # brightness, contrast, saturation, hue: [B] each
    gray: Tensor | None  # [B] bool
    blur: Tensor | None  # [B] bool
    sigma: Tensor | None  # [B]
    solarize: Tensor | None  # [B] bool

    def repeated(self, times: int) -> Draws:
        """For `times` frames of every item: B * times entries of all that is drawn."""
        known: dict[str, Any] = {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}
        known = {k: v.repeat_interleave(times, 0) for k, v in known.items()}
        factors = [f if f is None else f.repeat_interleave(times, 0) for f in self.factors]
        return self if times == 1 else replace(self, factors=factors, **known)


def augment(
    images: Tensor, rng: Rng, size: Size, config: AugmentConfig, mean: Stats, std: Stats, dtype: torch.dtype = F32
) -> Tensor:
    """One random view of every image: normalised [B, C, size, size]; of clouds [B, P, 3] `size` points [B, size, 3]."""
    if images.ndim == 3:
        return clouds.change(images, rng, sides(size)[0], config.cloud)
    draws = draw(rng, (images.shape[-2], images.shape[-1]), config)
    return render(sound.change(images, rng, config.sound), draws, size, config, mean, std, dtype)


def draw(rng: Rng, shape: tuple[int, int], config: AugmentConfig) -> Draws:
    """The random numbers of one view for images of `shape` (height, width)."""

    def chance(p: float) -> Tensor | None:
        return rng.rand() < p if p > 0 else None

    boxes, flip, jitter = random_boxes(rng, shape, config.crop_scale, config.crop_ratio), chance(config.flip), None
    order: list[int] = []
    factors: list[Tensor | None] = [None] * 4
    if config.jitter_p > 0:
        jitter = chance(config.jitter_p)
        order = rng.shared(4).argsort().tolist()
        for i, strength in enumerate((config.brightness, config.contrast, config.saturation)):
            factors[i] = rng.uniform(max(0.0, 1 - strength), 1 + strength) if strength > 0 else None
        factors[3] = rng.uniform(-config.hue, config.hue) if config.hue > 0 else None
    gray, blur = chance(config.gray_p), chance(config.blur_p)
    sigma = rng.uniform(*config.blur_sigma) if blur is not None else None
    return Draws(boxes, flip, jitter, order, factors, gray, blur, sigma, chance(config.solarize_p))


def render(
    images: Tensor, draws: Draws, size: Size, config: AugmentConfig, mean: Stats, std: Stats, dtype: torch.dtype = F32
) -> Tensor:
    """The view that `draws` describes: normalised [B, C, size, size]."""
    config.check(images.shape[-3])
    frames = math.prod(images.shape[1:-3])  # 1 of an image
    view = resized_crop(images.flatten(1, -3), draws.boxes, size, config.interpolation, draws.flip)
    view, draws = view.unflatten(1, (frames, -1)).flatten(0, 1), draws.repeated(frames)
    if draws.jitter is not None:
        view = _where(draws.jitter, view, lambda x, *f: _jitter(x, draws.order, f), *draws.factors)
    if draws.gray is not None:
        view = _where(draws.gray, view, grayscale)
    if draws.blur is not None:
        radius = math.ceil(3 * config.blur_sigma[1])
        view = _where(draws.blur, view, lambda x, s: gaussian_blur(x, s, radius), draws.sigma)
    if draws.solarize is not None:
        view = _where(draws.solarize, view, lambda x: solarize(x, config.solarize_threshold))
    return normalize(view, mean, std, dtype).reshape(*images.shape[:-2], *view.shape[-2:])


def normalize(images: Tensor, mean: Stats, std: Stats, dtype: torch.dtype = F32) -> Tensor:
    """(images - mean) / std per channel, for images in [0, 1]; the only step that leaves that range."""
    mean, std = (torch.as_tensor(v, device=images.device, dtype=F32).view(-1, 1, 1) for v in (mean, std))
    return (images - mean).div_(std).to(dtype)


def random_boxes(rng: Rng, shape: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Boxes [B, 4] (top, left, height, width) by the law of torchvision's RandomResizedCrop: ten tries, or centred."""
    height, width = shape
    tries = rng.rand(10, 2)
    area = height * width * (scale[0] + tries[..., 0] * (scale[1] - scale[0]))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + tries[..., 1] * (high - low))
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    w, h = w.gather(1, first).squeeze(1), h.gather(1, first).squeeze(1)
    place = rng.rand(2)
    top, left = (place[:, 0] * (height - h + 1)).floor(), (place[:, 1] * (width - w + 1)).floor()
    full_w, full_h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    centre = torch.tensor([(height - full_h) // 2, (width - full_w) // 2, full_h, full_w], device=rng.device)
    return torch.where(fits.any(1)[:, None], torch.stack((top, left, h, w), 1), centre).long()


def resized_crop(
    images: Tensor, boxes: Tensor, size: Size, interpolation: Filter = "bilinear", flip: Tensor | None = None
) -> Tensor:
    """Cut `boxes` [B, 4] (top, left, height, width) and resize to [B, C, *size], float32 in [0, 1].

    Two products with one resampling matrix per image and axis: PIL's and torchvision's antialiased filters, without
    PIL's rounding between. `flip` [B] bool reverses the matrix.
    """
    images = _unit(images)
    height, width = sides(size)
    rows = _resample(boxes[:, 0], boxes[:, 2], images.shape[2], height, interpolation)
    columns = _resample(boxes[:, 1], boxes[:, 3], images.shape[3], width, interpolation)
    if flip is not None:
        columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    return _products(rows, images, columns).clamp_(0, 1)  # bicubic overshoots


def _products(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """rows [B, S, H] @ images @ columns [B, T, W] transposed: [B, C, S, T]."""
    with torch.autocast(images.device.type, enabled=False):  # bf16 would cost pixels their last bits
        out = torch.bmm(images.flatten(1, 2), columns.transpose(1, 2)).unflatten(1, images.shape[1:3])
        return torch.matmul(rows[:, None], out)


def _resample(start: Tensor, length: Tensor, source: int, size: int, interpolation: Filter) -> Tensor:
    """Matrices [B, size, source]: output pixel i as weights of the source pixels inside [start, start + length)."""
    start, length = start.float()[:, None, None], length.float()[:, None, None]
    out = torch.arange(size, device=start.device, dtype=F32)[:, None]
    pixel = torch.arange(source, device=start.device, dtype=F32) + (0.5 - start)
    step = length / size
    x = ((pixel - (out + 0.5) * step) / step.clamp(min=1.0)).abs_()  # a filter as wide as the step: antialiasing
    if interpolation == "bilinear":
        weight = (1 - x).clamp_(min=0)
    else:  # Keys' cubic with a = -0.5, PIL's; torch without antialiasing uses -0.75
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        weight = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    weight *= (pixel > 0) & (pixel < length)
    return weight / weight.sum(-1, keepdim=True)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:  # factor [B]
    return (images * factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean of the image's gray version, clamped; factor [B]."""
    return torch.lerp(_gray(images).mean((1, 2, 3), keepdim=True), images, factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the gray version, clamped; factor [B]; 3 channels."""
    return torch.lerp(_gray(images), images, factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_hue(images: Tensor, factor: Tensor) -> Tensor:
    """Turn the hue by `factor` [B] in [-0.5, 0.5] turns; 3 channels.

    HSV's value and chroma (maximum - minimum) do not change, so saturation is never computed: channel n in (5, 3, 1) is
    value - chroma * clamp(min(k, 4 - k), 0, 1) with k = (n + 6 * hue) mod 6.
    """
    r, g, b = images.unbind(1)
    value, chroma = images.amax(1), images.amax(1) - images.amin(1)
    safe = torch.where(chroma == 0, 1.0, chroma)  # gray pixels have no hue: any will do, chroma is 0
    sector = torch.where(value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    sector += 6 * factor.view(-1, 1, 1)
    out = torch.empty_like(images)
    for channel, n in enumerate((5, 3, 1)):
        k = (sector + n).remainder_(6)
        out[:, channel] = value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)
    return out


def grayscale(images: Tensor) -> Tensor:
    return _gray(images).expand_as(images)


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int | None = None) -> Tensor:
    """Gaussian blur with `sigma` [B] in pixels, edges reflected as in torchvision: one dense matrix per image and axis.

    Kernel 2 * radius + 1, `radius` ceil(3 * largest sigma) (reading it waits for a GPU: pass it), below either side.
    """
    height, width = images.shape[-2:]
    radius = min(math.ceil(3 * float(sigma.max())) if radius is None else radius, height - 1, width - 1)
    distance = torch.arange(radius + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (distance / sigma[:, None]) ** 2)
    kernel = kernel / (2 * kernel.sum(1, keepdim=True) - 1)
    return _products(_reflected(kernel, height), images, _reflected(kernel, width))


def _reflected(kernel: Tensor, size: int) -> Tensor:
    """Matrices [B, size, size] of symmetric kernels [B, radius + 1] with reflected edges."""
    i = torch.arange(size, device=kernel.device)
    distance = torch.arange(kernel.shape[1], device=kernel.device)[:, None, None]
    direct = (i - i[:, None]).abs() == distance
    low = ((i + i[:, None]) == distance) & (i > 0)  # source pixel -j is pixel j
    high = ((2 * (size - 1) - i - i[:, None]) == distance) & (i < size - 1)
    taps = (direct.float() + low + high).flatten(1)
    with torch.autocast(kernel.device.type, enabled=False):
        return (kernel @ taps).view(-1, size, size)


def solarize(images: Tensor, threshold: float) -> Tensor:
    """1 - x where x >= threshold."""
    return torch.where(images >= threshold, 1 - images, images)


def _jitter(images: Tensor, order: Sequence[int], factors: Sequence[Tensor | None]) -> Tensor:
    steps = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    for step, factor in ((steps[i], factors[i]) for i in order):
        images = images if factor is None else step(images, factor)
    return images


def _where(active: Tensor, images: Tensor, step: Callable[..., Tensor], *factors: Tensor | None) -> Tensor:
    """`step` where `active` [B]: a CPU computes only those images, a GPU all, so as not to wait for their count."""
    if images.is_cuda:
        return torch.where(active.view(-1, 1, 1, 1), step(images, *factors), images)
    rows = active.nonzero().squeeze(1)
    return images.index_copy(0, rows, step(images[rows], *(None if f is None else f[rows] for f in factors)))


def _gray(images: Tensor) -> Tensor:
    """ITU-R 601-2 luma [B, 1, H, W] with torchvision's weights; other than 3 channels stay as they are."""
    if images.shape[1] != 3:
        return images
    return (0.2989 * images[:, :1]).add_(images[:, 1:2], alpha=0.587).add_(images[:, 2:], alpha=0.114)


def _unit(images: Tensor) -> Tensor:
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()
