"""Augmentation, held image by image to torchvision's functional transforms on the same parameters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchvision.transforms.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from ssl_bench.errors import UserError
from ssl_bench.rng import Rng
from ssl_bench.views import augment as A
from ssl_bench.views.augment import AugmentConfig, augment
from ssl_bench.views.plain import plain

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
SIMCLR = AugmentConfig(
    brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, jitter_p=0.8, gray_p=0.2, blur_p=0.5, solarize_p=0.2
)


@pytest.fixture
def images() -> Tensor:
    """uint8 [24, 3, 48, 48]: smooth shapes with noise, a gray one, a black one and pure noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(24, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=48, mode="bicubic").clamp(0, 1)
    out = (smooth * 230 + 25 * torch.rand(24, 3, 48, 48, generator=generator)).round().to(torch.uint8)
    out[0] = out[0, :1]
    out[1] = 0
    out[2] = torch.randint(0, 256, (3, 48, 48), generator=generator, dtype=torch.uint8)
    return out


@pytest.fixture
def unit(images: Tensor) -> Tensor:
    return images.float() / 255


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [16, 32, 48, 64])
def test_resized_crop(images: Tensor, unit: Tensor, interpolation: A.Filter, size: int) -> None:
    boxes = A.random_boxes(Rng(1, 24), (48, 48), (0.08, 1.0), (3 / 4, 4 / 3))
    flip = Rng(2, 24).rand() < 0.5
    got = A.resized_crop(images, boxes, size, interpolation, flip)
    for i, box in enumerate(boxes.tolist()):
        expected = F.resized_crop(unit[i], *box, [size, size], MODES[interpolation], antialias=True).clamp(0, 1)
        expected = F.hflip(expected) if flip[i] else expected
        torch.testing.assert_close(got[i], expected, atol=1e-5, rtol=0)
        picture = F.resized_crop(F.to_pil_image(images[i]), *box, [size, size], MODES[interpolation])
        pil = F.to_tensor(F.hflip(picture) if flip[i] else picture)
        if interpolation == "bilinear" or i != 2:  # PIL clips between its two passes: 20 of 255 apart on pure noise
            assert (got[i] - pil).abs().max() * 255 <= (1.01 if interpolation == "bilinear" else 4)


def test_resized_crop_of_rectangles() -> None:
    image = torch.rand(1, 3, 40, 64, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[3, 10, 30, 50]])
    expected = F.resized_crop(image[0], 3, 10, 30, 50, [24, 24], antialias=True)
    torch.testing.assert_close(A.resized_crop(image, box, 24)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_blends(unit: Tensor, name: str) -> None:
    factor = Rng(3, 24).uniform(0.0, 2.0)
    got = getattr(A, f"adjust_{name}")(unit, factor)
    for i, f in enumerate(factor.tolist()):
        torch.testing.assert_close(got[i], getattr(F, f"adjust_{name}")(unit[i], f), atol=1e-6, rtol=0)


def test_hue(unit: Tensor) -> None:
    factor = Rng(3, 24).uniform(-0.5, 0.5)
    got = A.adjust_hue(unit, factor)
    for i, f in enumerate(factor.tolist()):
        torch.testing.assert_close(got[i], F.adjust_hue(unit[i], f), atol=2e-6, rtol=0)
    torch.testing.assert_close(A.adjust_hue(unit, torch.zeros(24)), unit, atol=2e-6, rtol=0)


def test_gray_and_solarize(unit: Tensor) -> None:
    torch.testing.assert_close(A.grayscale(unit), F.rgb_to_grayscale(unit, 3), atol=1e-6, rtol=0)
    for threshold in (0.0, 0.5, 1.0):
        assert torch.equal(A.solarize(unit, threshold), F.solarize(unit, threshold))


@pytest.mark.parametrize(("size", "radius"), [(48, 6), (48, 4), (16, 6), (6, 6)])
def test_blur(unit: Tensor, size: int, radius: int) -> None:
    sigma = Rng(3, 24).uniform(0.1, 2.0)
    view = unit[..., :size, : size + 2]
    got = A.gaussian_blur(view, sigma, radius)
    kernel = 2 * min(radius, size - 1) + 1  # reflection needs kernel // 2 < size
    for i, s in enumerate(sigma.tolist()):
        torch.testing.assert_close(got[i], F.gaussian_blur(view[i], [kernel, kernel], [s, s]), atol=2e-6, rtol=0)
    torch.testing.assert_close(
        A.gaussian_blur(unit, sigma.clamp(max=1.9)), A.gaussian_blur(unit, sigma.clamp(max=1.9), 6)
    )


def test_boxes_follow_torchvisions_law() -> None:
    """Same mean area, aspect and position as 3,000 draws of RandomResizedCrop, within four standard errors."""
    torch.manual_seed(0)
    scale, ratio = (0.2, 1.0), (3 / 4, 4 / 3)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(torch.zeros(3, 48, 40), list(scale), list(ratio)) for _ in range(3000)]
    ).float()
    mine = A.random_boxes(Rng(0, 3000), (48, 40), scale, ratio).float()
    assert (mine[:, :2] >= 0).all()
    assert (mine[:, 0] + mine[:, 2] <= 48).all()
    assert (mine[:, 1] + mine[:, 3] <= 40).all()
    for statistic in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: (b[:, 3] / b[:, 2]).log(),
        lambda b: b[:, 0],
        lambda b: b[:, 1],
        lambda b: (b[:, 0] + b[:, 2] == 48).float(),  # the last row is reached as often
    ):
        a, b = statistic(mine), statistic(theirs)
        error = (a.var() / 3000 + b.var() / 3000).sqrt()
        assert (a.mean() - b.mean()).abs() < 4 * error


def test_box_fallback_is_torchvisions() -> None:
    for shape, ratio in (((10, 100), (3 / 4, 4 / 3)), ((100, 10), (3 / 4, 4 / 3)), ((20, 21), (0.5, 2.0))):
        boxes = A.random_boxes(Rng(0, 2), shape, (1.0, 1.0), ratio)
        expected = RandomResizedCrop.get_params(torch.zeros(1, *shape), [1.0, 1.0], list(ratio))
        if shape != (20, 21):
            assert boxes.tolist() == [list(expected)] * 2
        assert (boxes[:, 2] <= shape[0]).all()
        assert (boxes[:, 3] <= shape[1]).all()


def test_augment_is_its_steps_in_order(images: Tensor) -> None:
    """`render` on drawn parameters equals torchvision's functions, one image at a time."""
    config = replace(SIMCLR, crop_scale=(0.2, 1.0))
    for seed in range(3):
        draws = A.draw(Rng(seed, 24), (48, 48), config)
        got = A.render(images, draws, 32, config, (0.0,) * 3, (1.0,) * 3)
        assert len({*draws.order}) == 4
        for i in range(24):
            expected, tie = by_torchvision(images[i], draws, i)
            torch.testing.assert_close(got[i][~tie], expected[~tie], atol=2e-5, rtol=0)


def by_torchvision(image: Tensor, draws: A.Draws, i: int) -> tuple[Tensor, Tensor]:
    """The view, and the few pixels that lie so near the threshold of solarize that the last bit decides."""
    assert draws.flip is not None
    assert draws.jitter is not None
    assert draws.gray is not None
    assert draws.blur is not None
    assert draws.sigma is not None
    assert draws.solarize is not None
    view = F.resized_crop(image.float() / 255, *draws.boxes[i].tolist(), [32, 32], antialias=True)
    view = F.hflip(view) if draws.flip[i] else view
    steps = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    for k in draws.order if draws.jitter[i] else []:
        factor = draws.factors[k]
        assert factor is not None
        view = steps[k](view, float(factor[i]))
    view = F.rgb_to_grayscale(view, 3) if draws.gray[i] else view
    view = F.gaussian_blur(view, [13, 13], [float(draws.sigma[i])] * 2) if draws.blur[i] else view
    tie = (view - 0.5).abs() < 1e-5
    assert tie.float().mean() < 0.01
    return (F.solarize(view, 0.5) if draws.solarize[i] else view), tie


def test_nothing_on_equals_the_plain_view(images: Tensor) -> None:
    off = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0)
    for size in (48, 32):
        a, b = augment(images, Rng(0, 24), size, off, MEAN, STD), plain(images, size, 0, "bilinear", MEAN, STD)
        torch.testing.assert_close(a, b, atol=2e-6, rtol=0)
    expected = F.normalize(images.float() / 255, list(MEAN), list(STD))
    torch.testing.assert_close(plain(images, 48, 0, "bilinear", MEAN, STD), expected, atol=2e-6, rtol=0)


def test_the_plain_view_is_the_middle_square() -> None:
    image = torch.rand(2, 3, 40, 64, generator=torch.Generator().manual_seed(0))
    expected = F.center_crop(F.resize(image, [24], antialias=True), [24, 24])
    found = plain(image, 24, 0, "bilinear", (0.0,) * 3, (1.0,) * 3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", [SIMCLR, AugmentConfig(interpolation="bicubic")])
def test_processes_agree(images: Tensor, config: AugmentConfig) -> None:
    one = augment(images, Rng(7, 24), 32, config, MEAN, STD)
    parts = [augment(images[rows], Rng(7, 24, rows), 32, config, MEAN, STD) for rows in (slice(0, 9), slice(9, 24))]
    torch.testing.assert_close(torch.cat(parts), one, atol=1e-6, rtol=0)
    assert torch.equal(one, augment(images, Rng(7, 24), 32, config, MEAN, STD))
    assert not torch.equal(one, augment(images, Rng(8, 24), 32, config, MEAN, STD))


def test_probabilities_and_ranges() -> None:
    config = replace(SIMCLR, jitter_p=0.8, gray_p=0.2, blur_p=0.5, solarize_p=0.2, brightness=0.4, hue=0.1, flip=0.3)
    draws = A.draw(Rng(0, 4000), (32, 32), config)
    for name in ("flip", "jitter", "gray", "blur", "solarize"):
        p = {"flip": 0.3, "jitter": 0.8, "gray": 0.2, "blur": 0.5, "solarize": 0.2}[name]
        assert getattr(draws, name).float().mean() == pytest.approx(p, abs=0.03)
    for k, (low, high) in enumerate([(0.6, 1.4), (0.2, 1.8), (0.2, 1.8), (-0.1, 0.1)]):
        factor = draws.factors[k]
        assert factor is not None
        assert low <= factor.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < factor.max() <= high
    orders = {tuple(A.draw(Rng(seed, 1), (8, 8), config).order) for seed in range(300)}
    assert len(orders) == 24
    off = A.draw(Rng(0, 4), (8, 8), AugmentConfig(flip=0.0))
    assert all(getattr(off, name) is None for name in ("flip", "jitter", "gray", "blur", "sigma", "solarize"))


def test_no_image_chosen_and_input_untouched(images: Tensor) -> None:
    """A step that happens to choose no image of the batch, and inputs that stay as they were."""
    rare = AugmentConfig(flip=0.0, brightness=0.4, hue=0.1, jitter_p=1e-9, gray_p=1e-9, blur_p=1e-9, solarize_p=1e-9)
    before = images.clone()
    view = augment(images, Rng(0, 24), 24, rare, MEAN, STD)
    assert view.isfinite().all()
    unit = images.float() / 255
    kept = unit.clone()
    augment(unit, Rng(0, 24), 48, SIMCLR, MEAN, STD)
    assert torch.equal(images, before)
    assert torch.equal(unit, kept)


def test_float_input_one_channel_dtype_and_autocast(images: Tensor) -> None:
    a = augment(images, Rng(0, 24), 32, SIMCLR, MEAN, STD)
    torch.testing.assert_close(augment(images.float() / 255, Rng(0, 24), 32, SIMCLR, MEAN, STD), a)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # resampling and blur must stay in float32
        torch.testing.assert_close(augment(images, Rng(0, 24), 32, SIMCLR, MEAN, STD), a)
    assert augment(images, Rng(0, 24), 32, SIMCLR, MEAN, STD, torch.bfloat16).dtype == torch.bfloat16
    gray = replace(SIMCLR, saturation=0.0, hue=0.0, gray_p=0.0)
    assert augment(images[:, :1], Rng(0, 24), 32, gray, (0.5,), (0.2,)).shape == (24, 1, 32, 32)
    with pytest.raises(UserError, match="3 channels"):
        augment(images[:, :1], Rng(0, 24), 32, SIMCLR, (0.5,), (0.2,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_scale": (0.0, 1.0)}, "crop_scale"),
        ({"crop_scale": (0.5, 1.2)}, "crop_scale"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio"),
        ({"flip": 1.5}, "flip"),
        ({"hue": 0.6, "jitter_p": 0.8}, "hue"),
        ({"brightness": -0.1, "jitter_p": 0.8}, "brightness"),
        ({"brightness": 0.4}, "no effect"),
        ({"jitter_p": 0.8}, "no effect"),
        ({"blur_sigma": (0.1, 1.0)}, "no effect"),
        ({"solarize_threshold": 0.7}, "no effect"),
        ({"interpolation": "nearest"}, "interpolation"),
    ],
)
def test_config_refuses(changes: dict[str, object], message: str) -> None:
    AugmentConfig().check()
    SIMCLR.check()
    with pytest.raises(UserError, match=message):
        replace(AugmentConfig(), **changes).check()  # type: ignore[arg-type]
