"""Points: grouping, PointNet, sequence, masks, losses and views against known values; one step of each method."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from conftest import tiny
from sines import sines

from methods.pointjepa import PointJEPA, PointJEPAConfig, make_targets, pointjepa_loss
from ssl_bench import find
from ssl_bench.config.schema import Config, DataConfig, ViTConfig
from ssl_bench.data.dataset import open_data
from ssl_bench.data.images import square
from ssl_bench.data.points import Points, farthest
from ssl_bench.errors import UserError
from ssl_bench.models.groups import PointNet, neighbours
from ssl_bench.models.pointdecoder import chamfer
from ssl_bench.models.vit import ViT
from ssl_bench.rng import Rng
from ssl_bench.training.method import configured, ema, frozen_copy
from ssl_bench.training.train import Trainer, rehearse
from ssl_bench.views.clouds import CloudConfig, about_y, change, rotation, unit_sphere
from ssl_bench.views.masks_points import runs, sequence

SHAPE = ViTConfig(16, 2, 2, patch_size=6, class_token=False, pos_embed="centres")


def grouped() -> tuple[torch.Tensor, torch.Tensor]:
    """Golden case 22 and 23: the clouds in farthest-point order, groups of 4 around the first 8."""
    clouds = sines(5, 2, 64, 3)
    order = [farthest(c.numpy(), 64) for c in clouds]
    ordered = torch.stack([c[o] for c, o in zip(clouds, order, strict=True)])
    return neighbours(ordered, ordered[:, :8], 4), ordered[:, :8]


def test_groups_of_neighbours():
    """Golden case 23, by brute force there."""
    groups, centres = grouped()
    assert float(groups.sum()) == pytest.approx(-4.947446, abs=1e-4)
    assert float(groups.abs().sum()) == pytest.approx(27.601572, abs=1e-4)
    assert float(centres.sum()) == pytest.approx(-0.962062, abs=1e-5)
    assert (groups.abs().sum(-1) == 0).sum(-1).tolist() == [[1] * 8] * 2  # the centre itself is one of them


@pytest.mark.parametrize(("training", "first", "mean"), [
    (False, [-0.348587, -0.046967, -0.075382], -0.038441), (True, [-0.297753, 1.150790, 0.583650], 0.468263),
])  # fmt: skip
def test_the_small_pointnet_is_the_published_one(training, first, mean):
    """Golden case 24: Point-JEPA's Mini-PointNet, executed; widths 128, 256, 512, 512, out 16."""
    net = PointNet(16, 128).train(training)
    with torch.no_grad():
        for j, (name, p) in enumerate(net.named_parameters()):
            norm = name in ("first.1.weight", "second.1.weight")
            p.copy_(0.1 * sines(100 + j, *p.shape) + norm)
        out = net(grouped()[0])
    assert out[0, 0, :3].tolist() == pytest.approx(first, abs=2e-5) and float(out.mean()) == pytest.approx(
        mean, abs=2e-5
    )


@pytest.mark.parametrize(("start", "expected"), [
    ("least", [[5, 3, 0, 7, 6, 2, 1, 4], [2, 7, 1, 6, 4, 3, 5, 0]]),
    ("first", [[0, 7, 6, 2, 1, 4, 3, 5], [0, 4, 3, 5, 7, 1, 6, 2]]),
])  # fmt: skip
def test_sequence_of_eight_centres(start, expected):
    """Golden cases 18 and 19: Point-JEPA's `sort_iterative_nearest`, executed."""
    assert sequence(sines(1, 2, 8, 3), start).tolist() == expected


def test_sequence_of_64_centres_is_a_short_permutation():
    """Golden case 20, with the lengths of the paths."""
    centres = sines(3, 2, 64, 3)
    order = sequence(centres)
    assert order[0, :8].tolist() == [6, 30, 13, 14, 5, 29, 23, 47]
    assert order[1, :8].tolist() == [22, 46, 6, 55, 30, 38, 34, 43]
    path = centres.gather(1, order.unsqueeze(-1).expand(-1, -1, 3)).diff(dim=1).norm(dim=-1).sum(1)
    assert path.tolist() == pytest.approx([24.239933, 27.684052], abs=1e-4)
    assert (order.sort(1).values == torch.arange(64)).all()


def test_masks_have_the_published_statistics():
    """Section 0.4 of the sheet: 2,000 draws of the official samplers at 64 tokens."""
    lengths, covered, contexts = [], [], []
    for seed in range(1000):
        context, targets = runs(Rng(seed, 2), 64, 4, (0.15, 0.2), (0.4, 0.75))
        assert not set(context.tolist()) & set(targets.flatten().tolist())
        assert (
            (targets.diff(dim=1) == 1).all() and (context.diff() > 0).all() and 0 <= targets.min() <= targets.max() < 64
        )
        lengths.append(targets.shape[1])
        covered.append(len(targets.unique()))
        contexts.append(len(context))
    for found, low, high, mean, near in (
        (lengths, 9, 12, 10.67, 0.1), (covered, 12, 48, 32.1, 0.8), (contexts, 6, 36, 17.9, 0.6),
    ):  # fmt: skip
        assert low <= min(found) and max(found) <= high
        assert sum(found) / len(found) == pytest.approx(mean, abs=near)


def test_a_context_is_left_where_the_targets_cover_all():
    context, targets = runs(Rng(0, 2), 4, 4, (1.0, 1.0), (0.4, 0.75))
    assert context.tolist() == [0] and targets.tolist() == [[0, 1, 2, 3]] * 4


def test_losses():
    """Golden cases 27 and 31."""
    target = torch.nn.functional.layer_norm(sines(1, 2, 4, 8), (8,))
    assert float(pointjepa_loss(sines(2, 2, 4, 8), target)) == pytest.approx(0.412382, abs=1e-6)
    assert float(pointjepa_loss(target, 3 * target, cosine=True)) == pytest.approx(0, abs=1e-6)
    assert float(chamfer(sines(1, 3, 32, 3), sines(2, 3, 32, 3)).mean()) == pytest.approx(0.404566, abs=1e-6)
    same = sines(1, 2, 8, 3)
    assert float(chamfer(same, same.flip(1)).abs().max()) == 0


def test_views_keep_the_shape_and_what_they_say():
    clouds = sines(1, 64, 32, 3)
    for turn in (about_y(torch.linspace(-3, 3, 7)), rotation(torch.rand(50, 3))):
        assert torch.allclose(turn @ turn.mT, torch.eye(3).expand_as(turn), atol=1e-5)
        assert torch.allclose(torch.linalg.det(turn), torch.ones(len(turn)), atol=1e-5)
    turned = change(clouds, Rng(0, 64), 32, CloudConfig(rotate="upright"))
    assert torch.allclose(turned[..., 1], clouds[..., 1], atol=1e-6) and not torch.allclose(turned, clouds)
    assert torch.allclose(turned.norm(dim=-1), clouds.norm(dim=-1), atol=1e-5)
    scaled = change(clouds, Rng(0, 64), 32, CloudConfig((0.5, 2.0), mirror=True)) / clouds
    assert scaled.var(1).max() < 1e-4 and 0.5 <= scaled.abs().min() <= scaled.abs().max() <= 2.001
    signs = scaled[:, 0].sign()
    assert (signs[:, 1] > 0).all() and 16 < (signs[:, 0] > 0).sum() < 48 and (signs[:, 0] != signs[:, 2]).any()
    once = change(clouds, Rng(0, 64), 32, CloudConfig((0.5, 2.0), once=True)) / clouds
    assert once.var((0, 1)).max() < 1e-4
    ball = unit_sphere(clouds)
    assert ball.mean(1).abs().max() < 1e-6 and torch.allclose(ball.norm(dim=-1).amax(1), torch.ones(64))
    part = change(clouds, Rng(0, 64), 12, CloudConfig())
    assert part.shape == (64, 12, 3) and torch.equal(change(clouds, Rng(0, 64), 32, CloudConfig()), clouds)


def test_rows_of_a_batch_get_the_numbers_of_the_whole_batch():
    clouds, look = sines(1, 6, 32, 3), CloudConfig((0.5, 2.0), True, True, "any", 0.1, 0.01)
    whole = change(clouds, Rng(0, 6), 20, look)
    assert torch.allclose(change(clouds[2:4], Rng(0, 6, slice(2, 4)), 20, look), whole[2:4], atol=1e-6)


def test_positions_are_of_the_centres_in_every_block_and_the_order_of_tokens_says_nothing():
    torch.manual_seed(0)
    vit, clouds = ViT(SHAPE, Points(24)).eval(), sines(1, 3, 24, 3)
    assert vit.grid == (8,) and vit(clouds).shape == (3, 8, 16)
    keep = torch.rand(3, 8).argsort(1)
    assert torch.allclose(vit(clouds, keep).mean(1), vit(clouds).mean(1), atol=1e-5)
    part = vit(clouds, keep[:, :3])
    tokens, places = (
        vit.patch_embed(clouds, keep[:, :3]),
        vit.places(clouds.gather(1, keep[:, :3, None].expand(-1, -1, 3))),
    )
    for block in vit.blocks:
        tokens = torch.nn.Module.__call__(block, tokens, None, places)
    assert torch.allclose(vit.norm(tokens), part, atol=1e-6)
    assert vit(clouds[:, :18]).shape == (3, 6, 16)
    with pytest.raises(UserError, match="gives them no positions of points"):
        vit.encode(vit.embed(clouds))


def test_positions_and_kinds_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"pos_embed=sincos is not for clouds of points"):
        ViT(replace(SHAPE, pos_embed="sincos"), Points(24))
    with pytest.raises(UserError, match=r"pos_embed=centres is not for images"):
        ViT(SHAPE, square(24))


def test_a_teacher_averages_the_running_statistics_too():
    torch.manual_seed(0)
    student = ViT(SHAPE, Points(24))
    teacher = frozen_copy(student)
    student.train()(sines(1, 3, 24, 3))
    before, now = (dict(m.named_buffers())["patch_embed.net.first.1.running_var"].clone() for m in (teacher, student))
    ema(teacher, student, 0.75)
    after = dict(teacher.named_buffers())["patch_embed.net.first.1.running_var"]
    assert not torch.equal(before, now) and torch.allclose(after, 0.75 * before + 0.25 * now)


def on_points(method: str, recipe: str) -> Config:
    config = find.recipe(method, recipe)()
    objective = config.objective
    for name in ("crop_size", "global_size"):
        objective = replace(objective, **{name: 24}) if hasattr(objective, name) else objective
    small = tiny("pointjepa", "")
    shape = replace(small.backbone, class_token=config.backbone.class_token)
    return replace(small, method=method, objective=objective, backbone=shape, precision="fp32").check()


RECIPES = [
    (m, r) for m in find.names("methods") for r, f in find.recipes(find.module("methods", m)).items()
    if f().data.name == "ldraw16"
]  # fmt: skip


@pytest.mark.parametrize(("method", "recipe"), RECIPES)
def test_a_step_on_points(method, recipe):
    config = on_points(method, recipe)
    trainer = Trainer(config, open_data(config.data), torch.device("cpu"))
    losses = [float(trainer.train_step()["loss"]) for _ in range(3)]
    assert len(set(losses)) == 3 and all(math.isfinite(loss) for loss in losses)
    assert trainer.method.encoder.grid == (8,)


def test_targets_come_before_the_final_norm_and_only_blocks_have_a_teacher():
    config = tiny("pointjepa", "")
    trainer = Trainer(config, open_data(config.data), torch.device("cpu"))
    method = trainer.method
    assert isinstance(method, PointJEPA)
    teacher = {n.split(".")[0] for n, p in method.named_parameters() if not p.requires_grad}
    assert teacher <= {"teacher", "encoder"} and not any(
        "patch_embed" in n for n, _ in method.teacher.named_parameters()
    )
    images, _, rng = trainer.batch(0)
    views = method.views(images, rng, 0.0)
    before = float(method(views, 0.0)["target_std"])
    with torch.no_grad():
        method.encoder.norm.weight.mul_(5)
    assert float(method(views, 0.0)["target_std"]) == pytest.approx(before, rel=1e-3)


def test_what_all_groups_of_a_cloud_share_is_not_in_targets_normalised_over_them():
    tokens, own = sines(3, 2, 8, 6), sines(4, 2, 1, 6)
    plain, apart = make_targets(tokens), make_targets(tokens, instance_norm=True)
    assert torch.allclose(make_targets(tokens + own, instance_norm=True), apart, atol=1e-4)
    assert not torch.allclose(make_targets(tokens + own), plain, atol=0.1)
    each = (tokens - tokens.mean(1, keepdim=True)) / (tokens.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(apart, torch.nn.functional.layer_norm(each, (6,)), atol=1e-5)
    assert [find.recipe("pointjepa", r)().objective.instance_norm for r in ("quick", "points", "jepa3d")] == [
        False, True, False,
    ]  # fmt: skip


def test_data2vec_on_points_is_point2vecs():
    """Smooth-L1 (beta 2) to the average of layers normalised over channels, at hidden groups, from the visible ones.

    The decoder knows where hidden groups lie and nothing of what is in them.
    """
    config = on_points("data2vec", "points")
    trainer = Trainer(config, open_data(config.data), torch.device("cpu"))
    method = trainer.method
    images, _, rng = trainer.batch(0)
    views = method.views(images, rng, 0.5)
    assert views["mask"].shape == (12, 1, 8) and (views["mask"].sum(-1) == 5).all()  # int(0.65 * 8)
    mask, (_, predicted) = views["mask"][:, 0], method.predict(views)  # type: ignore[operator]
    outputs = method.teacher.layers(views["images"], range(-2, 0), norm=False)  # type: ignore[operator, union-attr]
    layers = torch.stack([torch.nn.functional.layer_norm(y, (32,)) for y in outputs]).mean(0)
    target = torch.nn.functional.layer_norm(layers, (32,))
    expected = torch.nn.functional.smooth_l1_loss(predicted[:, 0][mask], target[mask], beta=2.0)
    assert float(method(views, 0.5)["loss"]) == pytest.approx(float(expected), rel=1e-5)
    moved = {**views, "hidden": views["hidden"] + mask[..., None]}
    assert not torch.allclose(method.predict(moved)[1], predicted)  # type: ignore[operator]


@pytest.mark.parametrize(("setting", "sentence"), [
    ("block=3", "no blocks to keep: set block=3 and adjust=0 to 0"),
    ("noise=0.1", r"objective\.noise=0\.1 has no effect on points"),
    ("decoder_groups=5", r"decoder_groups=5 \(heads of the blocks\) must divide decoder_dim=64"),
    ("cls_weight=1", "CLS unless cls_weight is 0"), ("mask_ratio=0.01", "hides 0 of 32 groups"),
])  # fmt: skip
def test_settings_of_grids_are_refused_on_points(setting: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        rehearse(configured("data2vec", "points", [f"objective.{setting}"]))


def test_wrong_settings_are_one_sentence():
    config = tiny("pointjepa", "")
    config = replace(config, backbone=replace(config.backbone, class_token=True))
    with pytest.raises(UserError, match="pointjepa has no CLS"):
        Trainer(config, open_data(config.data), torch.device("cpu"))
    with pytest.raises(UserError, match=r"objective.target_ratio=0.5,0.2"):
        PointJEPAConfig(target_ratio=(0.5, 0.2)).check()
    config = replace(tiny("pointjepa", ""), data=DataConfig("clothing48", 48))
    config = replace(config, backbone=replace(config.backbone, pos_embed="sincos"))
    with pytest.raises(UserError, match="takes points items, and these are images"):
        Trainer(config, open_data(config.data), torch.device("cpu"))


@pytest.mark.parametrize(("method", "recipe", "setting"), [
    ("mae", "points", "augment.crop_scale=0.5,1"), ("simclr", "points", "view_2.blur_p=0.5"),
    ("mae", "quick", "augment.cloud.jitter=0.1"), ("simclr", "sound", "view_1.cloud.mirror=true"),
    ("lejepa", "points", "local_view.blur_p=0.5"), ("data2vec", "points", "augment.flip=0"),
])  # fmt: skip
def test_settings_of_views_that_a_kind_does_not_read_are_refused(method: str, recipe: str, setting: str) -> None:
    name = setting.partition("=")[0]
    name = name[: name.index(".cloud") + 6] if ".cloud" in name else name
    with pytest.raises(UserError, match=rf"objective\.{name} has no effect on"):
        rehearse(configured(method, recipe, [f"objective.{setting}"]))
