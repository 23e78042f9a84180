"""Losses of the self-distillation, contrastive and redundancy methods against known values.

Golden values: reference/methods.md, section 3. DINO, iBOT, MoCo v3, Barlow Twins, VICReg, KoLeo and Sinkhorn were
executed with the official code at the commits named there; SimSiam is a one-liner of the official loop; BYOL and
SimCLR are formulas transcribed from JAX and TensorFlow. What has no golden value is held against a plain loop.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from sines import sines
from torch import Tensor, nn

from methods import barlow, byol, dino, dinov2, ibot, mocov3, msn, simclr, simsiam, swav, vicreg
from ssl_bench.config.overrides import resolve
from ssl_bench.config.schema import Config
from ssl_bench.data.images import square
from ssl_bench.errors import UserError
from ssl_bench.models.assignment import Center, sinkhorn
from ssl_bench.models.projection import MLP
from ssl_bench.parallel.collectives import BatchNorm
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method
from ssl_bench.training.optimizer import make_optimizer, set_schedules

INFO = DataInfo(square(48), 10)


Q1, Q2, K1, K2 = (sines(i, 6, 8) for i in (1, 2, 3, 4))


def tiny(config: Config) -> Config:
    """The same recipe on a two-block ViT in fp32."""
    return resolve(config, ["backbone=toy", "precision=fp32"])


def stepped(method: Method, at: float = 0.5, seed: int = 1) -> dict[str, Tensor]:
    """Forward and backward on noise images."""
    images = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        views = method.views(images, Rng(seed, 4), at)
    out = method(views, at)
    out["loss"].backward()
    return out


def near(value: Tensor | float, golden: float) -> None:
    assert float(value) == pytest.approx(golden, abs=1e-5)


def test_dino_golden():
    center, student, teacher = Center(8, 0.9), sines(1, 12, 8).unflatten(0, (4, 3)), sines(2, 6, 8)
    near(dino.dino_loss(student, center(teacher, 0.04).unflatten(0, (2, 3)), 0.1), 8.273106)
    assert float(center.value.norm()) == 0  # the centre moves after the loss
    center.update()
    near(center.value.norm(), 0.078707)
    near(dino.dino_loss(student, center(teacher, 0.04).unflatten(0, (2, 3)), 0.1), 8.278214)


def test_ibot_golden():
    mask = torch.zeros(6, 2, 2, dtype=torch.bool)  # view 1: images 0, 1, 2, then view 2
    mask[0], mask[1], mask[4], mask[5] = (
        torch.tensor(m).bool() for m in ([[1, 0], [0, 1]], [[0, 0], [1, 0]], [[1, 1], [1, 1]], [[0, 1], [0, 0]])
    )
    mask = mask.flatten(1)
    student = torch.cat([sines(1, 6, 8), sines(5, 3, 8)]).unflatten(0, (3, 3))
    cls = dino.dino_loss(student, Center(8, 0.9)(sines(3, 6, 8), 0.04).unflatten(0, (2, 3)), 0.1)
    patches = ibot.patch_loss(sines(2, 6, 4, 8)[mask], Center(8, 0.9)(sines(4, 6, 4, 8), 0.04)[mask], mask, 0.1)
    near(cls, 8.629786)
    near(patches, 5.098523)
    near(cls + patches, 13.728310)


def test_two_view_golden():
    near(mocov3.contrastive_loss(Q1, K2, 0.2) + mocov3.contrastive_loss(Q2, K1, 0.2), 1.931469)
    near(simsiam.simsiam_loss(Q1, Q2, K1, K2), 0.023185)
    near(byol.byol_loss(Q1, Q2, K1, K2), 4.092741)
    near(simclr.simclr_loss(Q1, Q2, 0.5), 5.709309)
    near(barlow.barlow_loss(Q1, Q2, 0.0051), 13.524032)
    near(sum(w * t for w, t in zip((25, 25, 1), vicreg.vicreg_terms(Q1, Q2), strict=True)), 35.093899)
    near(dinov2.koleo_loss(Q1), -0.152510)


def test_sinkhorn_golden_and_balanced():
    q = sinkhorn(sines(2, 6, 8), 0.07)
    near(q[0, 0], 0.002790)
    near(q[5, 7], 0.002927)
    torch.testing.assert_close(q.sum(1), torch.ones(6))
    even = sinkhorn(sines(2, 60, 8), 0.07, iterations=200)
    torch.testing.assert_close(even.sum(0), torch.full((8,), 60 / 8), rtol=1e-3, atol=0)
    per_position = sinkhorn(sines(3, 5, 6, 8), 0.07)  # leading dimensions are separate problems
    torch.testing.assert_close(per_position[2], sinkhorn(sines(3, 5, 6, 8)[2], 0.07))
    assert torch.isfinite(sinkhorn(1000 * sines(2, 6, 8), 0.07)).all()
    assert sinkhorn(torch.zeros(0, 8), 0.07).shape == (0, 8)


def test_sinkhorn_against_a_loop():
    q = (sines(2, 6, 8).double() / 0.07).exp().tolist()
    for _ in range(3):
        for k in range(8):
            share = sum(row[k] for row in q)
            for row in q:
                row[k] /= share
        q = [[x / sum(row) for x in row] for row in q]
    torch.testing.assert_close(sinkhorn(sines(2, 6, 8), 0.07), torch.tensor(q), atol=1e-6, rtol=1e-5)


def test_center_joins_micro_batches():
    whole, parts, logits = Center(8, 0.9), Center(8, 0.9), sines(2, 6, 8)
    for center, rows in ((whole, logits), (parts, logits[:2]), (parts, logits[2:])):
        center(rows, 0.04)
    whole.update()
    parts.update()
    torch.testing.assert_close(whole.value, parts.value)
    before = parts.value.clone()
    parts.update()  # nothing seen since
    assert torch.equal(parts.value, before)


def test_swav_swaps_assignments():
    logits, loss = sines(1, 3, 4, 8), 0.0
    targets = torch.stack([sinkhorn(logits[v], 0.05) for v in range(2)])
    for i in range(2):
        others = [v for v in range(3) if v != i]
        for v in others:
            for b in range(4):
                log_p = (logits[v, b].double() / 0.1).log_softmax(0)
                loss -= float((targets[i, b].double() * log_p).sum()) / 4 / len(others) / 2
    near(dino.dino_loss(logits, targets, 0.1), loss)


def test_msn_against_a_loop():
    anchors, targets, match, total = sines(1, 3, 4, 8), sines(2, 4, 8).softmax(1), 0.0, torch.zeros(8).double()
    for v in range(3):
        for b in range(4):
            log_p = (anchors[v, b].double() / 0.1).log_softmax(0)
            match -= float((targets[b].double() * log_p).sum()) / 12
            total += log_p.exp() / 12
    found = msn.msn_terms(anchors, targets, 0.1)
    near(found[0], match)
    near(found[1], math.log(8) + float((total * total.log()).sum()))
    near(msn.msn_terms(torch.zeros(3, 4, 8), targets, 0.1)[1], 0.0)


def test_koleo_against_a_loop():
    rows, loss = F.normalize(Q2.double(), dim=1), 0.0
    for i in range(6):
        loss -= math.log(min(float((rows[i] - rows[j]).norm()) for j in range(6) if j != i)) / 6
    near(dinov2.koleo_loss(Q2), loss)


def test_dino_loss_reaches_only_the_student():
    student = sines(1, 3, 4, 8).requires_grad_()
    teacher = sines(2, 8, 8).requires_grad_()
    dino.dino_loss(student, Center(8, 0.9)(teacher, 0.04).unflatten(0, (2, 4)), 0.1).backward()
    assert student.grad is not None
    assert teacher.grad is None
    z = [v.clone().requires_grad_() for v in (Q1, Q2, K1, K2)]
    (simsiam.simsiam_loss(*z) + byol.byol_loss(*z)).backward()
    assert z[0].grad is not None
    assert z[2].grad is None
    assert z[3].grad is None


@pytest.mark.parametrize("affine", [True, False])
def test_batchnorm_is_torchs_on_one_process(affine):
    ours, theirs, x = BatchNorm(8, affine), nn.BatchNorm1d(8, affine=affine), sines(1, 6, 8)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.eval()(x), ours.train()(x))  # always the batch's statistics
    assert not list(ours.buffers())


def test_published_heads():
    """Layers of each projector and predictor: reference/methods.md 1.6 and 1.7."""
    kinds = lambda head: [type(m).__name__[0] + str(getattr(m, "out_features", "")) for m in head]  # noqa: E731
    moco = MLP(8, 16, 4, layers=3, end="whiten")
    assert kinds(moco) == ["L16", "B", "R", "L16", "B", "R", "L4", "B"]
    assert not moco[-1].affine
    assert all(m.bias is None for m in moco if isinstance(m, nn.Linear))
    simsiam_predictor = MLP(8, 2, 8, end="bias")
    assert kinds(simsiam_predictor) == ["L2", "B", "R", "L8"]
    assert simsiam_predictor[-1].bias is not None
    assert kinds(MLP(8, 16, 4)) == ["L16", "B", "R", "L4"]  # BYOL
    assert MLP(8, 16, 4, layers=3, end="norm")[-1].affine  # SimCLR


def test_moco_moves_the_momentum_encoder_before_the_keys():
    torch.manual_seed(0)
    method = mocov3.MoCoV3(tiny(mocov3.quick()), INFO)
    stepped(method, 0.1)
    old = method.momentum_encoder.norm.weight.clone()
    assert torch.equal(old, method.encoder.norm.weight)  # the first update finds equal networks
    with torch.no_grad():
        method.encoder.norm.weight += 1.0
    stepped(method, 0.2)
    momentum = 1 - 0.01 * 0.5 * (1 + math.cos(math.pi * 0.2))
    torch.testing.assert_close(method.momentum_encoder.norm.weight, old + 1 - momentum)
    stepped(method, 0.2)  # a second micro-batch of the same step
    torch.testing.assert_close(method.momentum_encoder.norm.weight, old + 1 - momentum)


def test_moco_paper():
    config = mocov3.paper()
    assert (config.backbone.num_heads, config.optim.decay_all) == (12, True)
    method = mocov3.MoCoV3(tiny(replace(config, objective=replace(config.objective, hidden=16, crop_size=48))), INFO)
    frozen = {n for n, p in method.encoder.named_parameters() if not p.requires_grad}
    assert frozen == {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert [group["params"] for group in method.param_groups()][1] == []  # weight decay on everything


def test_simsiam_predictor_keeps_its_learning_rate():
    method = simsiam.SimSiam(tiny(simsiam.quick()), INFO)
    optimizer = make_optimizer(method, method.config)
    for at in (0.01, 0.5, 0.99):
        lr = set_schedules(optimizer, method.config, at)["lr"]
        for group in optimizer.param_groups:
            assert group["lr"] == (method.config.optim.lr if group["lr_constant"] else lr)
    constant = {p for group in optimizer.param_groups if group["lr_constant"] for p in group["params"]}
    assert constant == set(method.predictor.parameters())


@pytest.mark.parametrize("module", [ibot, dinov2])
def test_teacher_does_not_see_the_mask(module):
    torch.manual_seed(0)
    method = {ibot: ibot.IBOT, dinov2: dinov2.DINOv2}[module](tiny(module.quick()), INFO)
    images = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8)
    views = method.views(images, Rng(1, 4), 0.5)
    other = views["mask"].clone()
    other[:, 0] = True
    cls, patches = method.teach(views["global"], views["mask"] | other, 0.05)
    again, first = method.teach(views["global"], other, 0.05)
    torch.testing.assert_close(cls, again)
    torch.testing.assert_close(patches[: len(first)], first)
    assert len(views["mask"]) == len(views["global"])


@pytest.mark.parametrize("module", [dino, ibot, dinov2])
def test_prototypes_start_as_linear_does_and_their_lengths_train_where_asked(module):
    """nn.Linear's default is uniform in +-1 / sqrt(bottleneck); `norm_last_layer false` trains the gain."""
    torch.manual_seed(0)
    config = tiny(module.quick())
    cls = {dino: dino.DINO, ibot: ibot.IBOT, dinov2: dinov2.DINOv2}[module]
    fixed = cls(config, INFO)
    assert float(fixed.head.prototypes.detach().std()) == pytest.approx(1 / math.sqrt(3 * 64), rel=0.02)
    assert module.paper().objective.train_gain and fixed.head.gain is None and cls.version == 2
    method = cls(replace(config, objective=replace(config.objective, train_gain=True)), INFO)
    stepped(method)
    assert method.head.gain.grad.abs().sum() > 0
    x = torch.randn(5, config.backbone.embed_dim)
    cosines = method.head(x)
    assert float(cosines.abs().max()) <= 1
    with torch.no_grad():
        method.head.gain.mul_(3)
    assert torch.allclose(method.head(x), 3 * cosines, atol=1e-6)
    method.before_step(0.0)
    assert method.head.prototypes.grad is None and method.head.gain.grad is None, "the last layer waits"


def test_msn_prototypes_are_neither_decayed_nor_clipped():
    method = msn.MSN(tiny(msn.quick()), INFO)
    groups = {p: group for group in method.param_groups() for p in group["params"]}
    assert set(groups) == {p for p in method.parameters() if p.requires_grad}
    apart = groups[method.prototypes]
    assert apart["weight_decay_scale"] == 0 and apart["clip"] is False and apart["params"] == [method.prototypes]
    assert all(group.get("clip", True) for p, group in groups.items() if p is not method.prototypes)


@pytest.mark.parametrize("module", [simsiam, swav, msn])
def test_crops_are_bilinear_where_the_official_ones_are(module):
    objective = module.paper().objective
    views = ("view_1", "view_2") if module is simsiam else ("global_1", "global_2", "local")
    assert {getattr(objective, view).interpolation for view in views} == {"bilinear"}


def test_dinov2_blur_as_released():
    """What trained the released weights is one override away: it blurred with 1 - p."""
    asked = ["objective.global_1.blur_p=0", "objective.global_2.blur_p=0.9"]
    objective = resolve(dinov2.paper(), asked).objective
    assert (objective.global_1.blur_p, objective.global_2.blur_p, objective.local.blur_p) == (0, 0.9, 0.5)


def test_mask_ratios():
    """iBOT: a fair coin and U(0.1, 0.5); DINOv2: exactly half of the crops, ratios spread evenly over (0.1, 0.5)."""
    ratios = ibot.IBOT(tiny(ibot.quick()), INFO).mask_ratios(Rng(1, 500))
    assert 0.45 < float((ratios > 0).float().mean()) < 0.55
    assert 0.1 <= float(ratios[ratios > 0].min()) <= float(ratios.max()) < 0.5
    v2 = dinov2.DINOv2(tiny(dinov2.quick()), INFO)
    ratios = v2.mask_ratios(Rng(1, 64))
    strata = ((ratios[ratios > 0] - 0.1) / 0.4 * 64).floor().long().sort().values
    assert strata.tolist() == list(range(64))
    assert torch.equal(v2.mask_ratios(Rng(1, 64, slice(16, 32))), v2.mask_ratios(Rng(1, 64))[16:32])


def test_dinov2_learning_rates():
    config = tiny(dinov2.quick())
    objective = replace(config.objective, layer_decay=0.9, patch_lr=0.2, shared_head=False)
    method = dinov2.DINOv2(replace(config, objective=objective), INFO)
    scale = {p: group["lr_scale"] for group in method.param_groups() for p in group["params"]}
    assert set(scale) == {p for p in method.parameters() if p.requires_grad}
    vit = method.student
    assert scale[vit.patch_embed.proj.weight] == pytest.approx(0.9**3 * 0.2)
    assert scale[vit.cls_token] == pytest.approx(0.9**3)
    assert scale[vit.blocks[0].mlp.fc1.weight] == pytest.approx(0.9**2)
    assert scale[vit.norm.weight] == 1.0
    assert scale[method.patch_head.prototypes] == 1.0
    assert scale[method.mask_token] == pytest.approx(0.9**3), "it belongs to layer 0"


def test_swav_queue_fills_and_prototypes_stay_normalised():
    config = tiny(swav.quick())
    method = swav.SwAV(replace(config, objective=replace(config.objective, queue_length=6)), INFO)
    stepped(method, 0.5)
    method.prototypes.data *= 3
    with torch.no_grad():
        method.after_step(0.5)
    torch.testing.assert_close(method.prototypes.norm(dim=1), torch.ones(len(method.prototypes)))
    assert method.queue.any(-1).sum(1).tolist() == [4, 4]  # four images so far
    z = torch.nn.functional.normalize(torch.randn(4, config.objective.out), dim=-1)
    alone = method.assign(z, z @ method.prototypes.T, torch.zeros_like(method.queue[0]), 0.5)
    torch.testing.assert_close(method.assign(z, z @ method.prototypes.T, method.queue[0], 0.5), alone)
    stepped(method, 0.6)
    with torch.no_grad():
        method.after_step(0.6)
    assert method.queue.any(-1).sum(1).tolist() == [6, 6]
    assert not torch.allclose(method.assign(z, z @ method.prototypes.T, method.queue[0], 0.6), alone)  # full: it joins


def test_byol_target_starts_elsewhere():
    method = byol.BYOL(tiny(byol.quick()), INFO)
    assert not torch.equal(method.target.blocks[0].mlp.fc1.weight, method.encoder.blocks[0].mlp.fc1.weight)


@pytest.mark.parametrize(("config", "field", "value"), [
    (dinov2.quick(), "layer_decay", 0.0), (ibot.quick(), "masked_share", 0.0), (swav.quick(), "queue_start", 0.1),
    (msn.quick(), "mask_ratio", 1.0), (simclr.quick(), "temperature", 0.0),
])  # fmt: skip
def test_refuses_what_cannot_work(config, field, value):
    with pytest.raises(UserError):
        replace(config.objective, **{field: value}).check()


def test_sizes_must_fit_the_patches():
    config = tiny(dino.quick())
    with pytest.raises(UserError, match="global_size=20"):
        dino.DINO(replace(config, objective=replace(config.objective, global_size=20)), INFO)
    with pytest.raises(UserError, match="local_size=20"):
        dino.DINO(replace(config, objective=replace(config.objective, local_size=20, local_crops=1)), INFO)
    with pytest.raises(UserError, match="class_token"):
        simclr.SimCLR(replace(config, backbone=replace(config.backbone, class_token=False)), INFO)
