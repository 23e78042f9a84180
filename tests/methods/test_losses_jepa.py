"""Losses of the latent-prediction and generative methods, against known values and plain loops, and their invariants.

Golden values: reference/methods.md, section 3, float32, on `sines`. NEPA was made by executing the official
`prediction_loss`; I-JEPA, MAE and SIGReg are transcribed formulas, MAE and SIGReg checked equal to the official code on
another input.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from built import build
from sines import sines
from torch import Tensor

from methods import capi, cjepa, data2vec, ijepa, iwm, lejepa, mae, nepa, simmim
from ssl_bench.errors import UserError
from ssl_bench.models.assignment import sinkhorn
from ssl_bench.rng import Rng
from ssl_bench.views import masks
from ssl_bench.views.actions import action_vector
from ssl_bench.views.augment import augment, draw

# Golden values


def test_ijepa_golden():
    loss = ijepa.jepa_loss(sines(2, 2, 4, 8), sines(1, 2, 4, 8))
    assert float(loss) == pytest.approx(0.682247, abs=1e-5)  # smooth-L1 against LayerNormed targets


def test_mae_norm_pix_golden():
    mask = torch.tensor([[1.0, 0, 1, 1], [0, 1, 1, 1]])
    assert float(mae.mae_loss(sines(2, 2, 4, 12), sines(1, 2, 4, 12), mask)) == pytest.approx(1.559021, abs=1e-5)


def test_sigreg_golden():
    directions = sines(3, 8, 16)
    statistic = lejepa.sigreg(1.4 * sines(1, 64, 8), directions / directions.norm(dim=0))
    assert float(statistic) == pytest.approx(2.658725, abs=1e-5)  # MINIMAL.md's form


def test_nepa_golden():
    assert float(nepa.prediction_loss(sines(1, 2, 5, 8), sines(2, 2, 5, 8))) == pytest.approx(-0.078923, abs=1e-5)


# Plain loops


def test_sigreg_is_its_integral():
    z, directions = sines(1, 3, 10, 4), F.normalize(sines(2, 4, 5), dim=0)
    total = 0.0
    for v, m in itertools.product(range(3), range(5)):
        projected = [sum(float(z[v, n, d]) * float(directions[d, m]) for d in range(4)) for n in range(10)]
        values = []
        for t in (3 * i / 16 for i in range(17)):
            real = sum(math.cos(t * x) for x in projected) / 10 - math.exp(-t * t / 2)
            imaginary = sum(math.sin(t * x) for x in projected) / 10
            values.append((real**2 + imaginary**2) * math.exp(-t * t / 2))
        trapezoid = sum((a + b) / 2 * 3 / 16 for a, b in itertools.pairwise(values))
        total += 2 * 10 * trapezoid / 15  # even integrand: twice; times N; mean over 3 views x 5 directions
    assert float(lejepa.sigreg(z, directions)) == pytest.approx(total, rel=1e-5)


def test_sigreg_tells_gaussians_from_collapse():
    """The sheet's reference at N = 256, D = 32: about 1.3 for N(0, I), 99 for 0.1 N(0, I), 103 for a constant."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(256, 32, generator=generator)
    directions = F.normalize(torch.randn(32, 512, generator=generator), dim=0)
    assert float(lejepa.sigreg(normal, directions)) == pytest.approx(1.3, abs=0.15)
    assert float(lejepa.sigreg(0.1 * normal, directions)) == pytest.approx(99.06, abs=1)
    assert float(lejepa.sigreg(torch.zeros(256, 32), directions)) == pytest.approx(102.92, abs=0.05)


def test_lejepa_prediction_uses_the_mean_of_global_views_only():
    z = sines(1, 3, 4, 5)
    total = 0.0
    for v, n, d in itertools.product(range(3), range(4), range(5)):
        total += (float(z[0, n, d] + z[1, n, d]) / 2 - float(z[v, n, d])) ** 2 / 60
    assert float(lejepa.prediction_loss(z, 2)) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("instance", [True, False])
def test_data2vec_targets(instance: bool):
    outputs = [3 * sines(i, 2, 6, 8) + i for i in range(3)]
    expected = torch.zeros(2, 6, 8, dtype=torch.float64)
    for y in (o.double() for o in outputs):
        for b in range(2):
            for i in range(8 if instance else 6):
                row = y[b, :, i] if instance else y[b, i]
                normal = (row - row.mean()) / (row.var(unbiased=False) + 1e-5).sqrt() / 3
                if instance:
                    expected[b, :, i] += normal
                else:
                    expected[b, i] += normal
    expected = (expected - expected.mean(-1, keepdim=True)) / (
        expected.var(-1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    assert torch.allclose(data2vec.make_targets(outputs, instance).double(), expected, atol=1e-5)


def test_data2vec_losses():
    predicted, target = 4 * sines(1, 3, 8), 4 * sines(2, 3, 8)
    for row in range(3):
        pairs = [(float(a), float(b)) for a, b in zip(predicted[row], target[row], strict=True)]
        squares = sum((a - b) ** 2 for a, b in pairs) / math.sqrt(8)
        smooth = sum(0.25 * (a - b) ** 2 if abs(a - b) < 2 else abs(a - b) - 1 for a, b in pairs) / 8  # beta 2
        assert float(data2vec.d2v_loss(predicted, target, 0)[row]) == pytest.approx(squares, rel=1e-5)
        assert float(data2vec.d2v_loss(predicted, target, 2.0)[row]) == pytest.approx(smooth, rel=1e-5)


def test_simmim_loss():
    predicted, patches, mask = sines(1, 2, 4, 12), sines(2, 2, 4, 12), torch.tensor([[1.0, 0, 1, 0], [0, 0, 1, 0]])
    total = sum(float((predicted - patches).abs()[b, n].sum()) for b, n in ((0, 0), (0, 2), (1, 2)))
    assert float(simmim.simmim_loss(predicted, patches, mask)) == pytest.approx(total / (3 * 4 + 1e-5) / 3, rel=1e-5)


def test_capi_cluster_loss():
    assignments, logits = F.softmax(3 * sines(1, 2, 3, 5), -1), sines(2, 2, 3, 5)
    total = 0.0
    for a, row in zip(assignments.reshape(6, 5), logits.reshape(6, 5), strict=True):
        top = math.log(sum(math.exp(float(x) / 0.12) for x in row))
        total -= sum(float(p) * (float(x) / 0.12 - top) for p, x in zip(a, row, strict=True)) / 6
    assert float(capi.cluster_loss(assignments, logits, 0.12)) == pytest.approx(total, rel=1e-5)


def test_cjepa_adds_vicreg_of_mean_tokens():
    method, _ = build(cjepa, vicreg=0.1)
    predicted, target = sines(1, 6, 4, 3, 32), 2 * sines(2, 6, 4, 3, 32) + 1
    z1 = predicted.reshape(6, 12, 32).mean(1)
    z2 = F.layer_norm(target, (32,)).reshape(6, 12, 32).mean(1)
    expected = float(ijepa.jepa_loss(predicted, target)) + 0.1 * 25 * float((z1 - z2).square().mean())
    for z in (z1, z2):
        hinge = sum(max(0.0, 1 - math.sqrt(float(z[:, i].var()) + 1e-4)) for i in range(32)) / 32
        c = torch.cov(z.T)
        off = sum(float(c[i, j]) ** 2 for i, j in itertools.product(range(32), range(32)) if i != j) / 32
        expected += 0.1 * (25 * hinge / 2 + off)
    assert float(method.losses(predicted, target)["loss"]) == pytest.approx(expected, rel=1e-4)


# Invariants


@pytest.mark.parametrize("module", [ijepa, cjepa, iwm])
def test_ijepa_targets_do_not_depend_on_the_context(module: Any):
    method, views = build(module)
    method.objective = replace(method.objective, instance_norm=False)  # small images: normalised over the whole image
    before = method.targets(views["images"], views["targets"])
    whole = method.encoder(views["images"])[:, method.encoder.num_prefix :]
    rows = torch.arange(len(whole))[:, None, None]
    assert torch.equal(before, whole[rows, views["targets"]])  # cut from the output of the full image
    assert not before.requires_grad


@pytest.mark.parametrize("module", [ijepa, cjepa, iwm])
def test_ijepa_context_and_targets_are_disjoint(module: Any):
    _, views = build(module)
    for context, targets in zip(views["context"].tolist(), views["targets"].flatten(1).tolist(), strict=True):
        assert not set(context) & set(targets)


def test_ijepa_blocks_are_predicted_independently():
    method, views = build(ijepa)
    context = method.student(views["images"], views["context"])[:, method.student.num_prefix :]
    moved = views["targets"].clone()
    moved[:, 0] = (moved[:, 0] + 5) % method.student.num_patches
    before, after = (method.predictor(context, views["context"], t) for t in (views["targets"], moved))
    assert torch.equal(before[:, 1:], after[:, 1:])
    assert not torch.allclose(before[:, 0], after[:, 0])


def test_ijepa_condition_reaches_every_prediction():
    method, views = build(ijepa)
    context = method.student(views["images"], views["context"])[:, method.student.num_prefix :]
    without = method.predictor(context, views["context"], views["targets"])
    nothing = torch.zeros(len(context), method.objective.predictor_dim)
    assert torch.equal(without, method.predictor(context, views["context"], views["targets"], nothing))
    changed = method.predictor(context, views["context"], views["targets"], nothing + 1)
    assert (changed != without).any(-1).all()


def test_data2vec_masks_share_one_teacher_pass(monkeypatch: pytest.MonkeyPatch):
    method, views = build(data2vec)
    passes: list[Tensor] = []
    layers = method.teacher.layers
    monkeypatch.setattr(method.teacher, "layers", lambda x, *a, **k: passes.append(x) or layers(x, *a, **k))
    loss = method(views, 0.5)["loss"]
    assert len(passes) == 1 and torch.equal(passes[0], views["images"])  # once, unmasked
    single = []
    for i in range(views["keep"].shape[1]):
        part = {**views, "keep": views["keep"][:, i : i + 1], "mask": views["mask"][:, i : i + 1]}
        single.append(float(method(part, 0.5)["loss"].detach()))
    assert views["keep"].shape[1] == 4
    assert float(loss.detach()) == pytest.approx(sum(single) / 4, rel=1e-4)  # masks do not see each other


def test_data2vec_student_never_sees_masked_patches():
    method, views = build(data2vec, masks=1)
    hidden = views["mask"][:, 0].unflatten(1, method.encoder.grid)
    noisy = views["images"] + 9 * hidden.repeat_interleave(6, 1).repeat_interleave(6, 2)[:, None]
    before, after = (method.predict({**views, "images": x}) for x in (views["images"], noisy))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not torch.equal(method.targets(views["images"]), method.targets(noisy))  # the teacher does


def test_data2vec_v1_is_full_length_with_mask_tokens():
    method, views = build(data2vec, version="1.0", masks=1, mask_ratio=0.6, beta=2.0, cls_weight=0.0, block=3,
                          decoder_dim=768, decoder_depth=6, decoder_groups=16)  # fmt: skip
    assert int(views["mask"].sum()) == 6 * int(0.6 * 36)
    _, predicted = method.predict(views)
    target = method.targets(views["images"])
    expected = F.smooth_l1_loss(predicted[:, 0][views["mask"][:, 0]], target[views["mask"][:, 0]], beta=2.0)
    assert float(method(views, 0.5)["loss"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    with pytest.raises(UserError, match="no effect"):
        replace(data2vec.v1().objective, noise=0.1).check()


def test_nepa_is_causal_and_its_target_detached():
    method, views = build(nepa)
    sequence = method.student.embed(views["images"])
    before = method.student.encode(sequence, method.causal)
    changed = sequence.clone()
    changed[:, 10:] += sequence[:, 10:].flip(-1)  # a constant would vanish in the LayerNorms
    after = method.student.encode(changed, method.causal)
    assert torch.allclose(before[:, :10], after[:, :10], atol=1e-6)
    assert not torch.allclose(before[:, 10:], after[:, 10:], atol=1e-3)
    h_in = sines(1, 2, 5, 8).requires_grad_()
    h_out = sines(2, 2, 5, 8).requires_grad_()
    nepa.prediction_loss(h_in, h_out).backward()
    assert h_in.grad is None and h_out.grad is not None


def test_nepa_target_is_the_patch_embedding_without_position():
    method, views = build(nepa)
    patches = method.student.patch_embed(views["images"])
    hidden = method.student.encode(method.student.embed(views["images"]), method.causal)
    expected = -F.cosine_similarity(hidden[:, :-1], patches, dim=-1).mean()  # CLS predicts the first patch
    assert float(method(views, 0.5)["loss"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_capi_gradients_stay_apart():
    method, views = build(capi)
    heads = {"clusters.weight", "clusters.bias"}
    for key, reached in (("clustering", True), ("prediction", False)):
        method.zero_grad(set_to_none=True)
        method(views, 0.5)[key].backward()
        got = {n for n, p in method.named_parameters() if p.grad is not None}
        assert got == heads if reached else got and not got & heads and not any(n.startswith("encoder") for n in got)


def test_capi_assignments_are_balanced_at_every_position():
    method, views = build(capi, batch=32, clusters=4, iterations=50, target_temperature=0.5)
    assignments, _ = method.assign(views["images"])
    assert torch.allclose(assignments.sum(-1), torch.ones(32, 36), atol=1e-4)
    assert torch.allclose(assignments.sum(0), torch.full((36, 4), 8.0), atol=0.3)
    tokens = method.encoder(views["images"])[:, method.encoder.num_prefix :]
    logits = method.clusters(F.normalize(tokens[:, 3], dim=-1)).detach()
    assert torch.allclose(assignments[:, 3], sinkhorn(logits, 0.5, 50), atol=1e-4)  # position 3 by itself


def test_capi_predicts_masked_positions_and_queries_do_not_see_each_other():
    method, views = build(capi)
    for keep, chosen in zip(views["keep"].tolist(), views["predict"].tolist(), strict=True):
        assert not set(keep) & set(chosen) and len(set(chosen)) == len(chosen)
    whole = method.predict(views["images"], views["keep"], views["predict"])
    some = method.predict(views["images"], views["keep"], views["predict"][:, 2:4])
    assert torch.allclose(whole[:, 2:4], some, atol=1e-5)


def test_capi_paper_trains_lengths_and_drops_every_block_alike():
    config = capi.paper()
    assert config.objective.train_gain and config.backbone.drop_path_uniform
    method, views = build(capi, train_gain=True)
    method(views, 0.5)["loss"].backward()
    assert method.gain.grad.abs().sum() > 0
    block = capi.CrossBlock(32, 2, 0.25)
    assert (block.drop1.rate, block.drop2.rate) == (0.25, 0.25)


def test_capi_learning_rates():
    method, _ = build(capi)
    scale = {id(p): g["lr_scale"] for g in method.param_groups() for p in g["params"]}
    assert len(scale) == sum(p.requires_grad for p in method.parameters())
    assert scale[id(method.clusters.weight)] == 0.5 and scale[id(method.student.patch_embed.proj.weight)] == 0.2
    assert scale[id(method.prototypes)] == 1.0


def test_iwm_source_and_target_share_the_crop():
    method, views = build(iwm)
    assert torch.equal(views["source"][(views["actions"] == 0).all(1)], views["images"][(views["actions"] == 0).all(1)])
    plain = replace(iwm.PHOTOMETRIC, jitter_p=0.0, gray_p=0.0, blur_p=0.0, solarize_p=0.0, brightness=0.0, contrast=0.0,
                    saturation=0.0, hue=0.0)  # fmt: skip
    torch.manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 36, 36), dtype=torch.uint8)
    rng = Rng(1, 6)
    method.masks(rng)
    expected = augment(images, rng, 36, plain, method.mean, method.std)
    fresh = method.views(images, Rng(1, 6), 0.5)
    assert torch.equal(fresh["images"], expected) and not torch.equal(fresh["source"], expected)


def test_iwm_actions():
    draws = draw(Rng(3, 64), (24, 24), iwm.PHOTOMETRIC)
    actions = action_vector(draws)
    assert draws.jitter is not None and draws.factors[0] is not None and draws.gray is not None
    for i in range(64):
        expected = float(draws.factors[0][i]) - 1 if draws.jitter[i] else 0.0
        assert float(actions[i, 0]) == pytest.approx(expected, abs=1e-6)
        assert float(actions[i, 4]) == float(draws.gray[i])
    assert torch.equal(
        action_vector(replace(draws, jitter=None, gray=None, blur=None, solarize=None)), torch.zeros(64, 7)
    )


def test_simmim_sees_no_masked_pixel():
    method, views = build(simmim)
    hidden = views["mask"].unflatten(1, method.encoder.grid).repeat_interleave(6, 1).repeat_interleave(6, 2)[:, None]
    a, b = (
        method.encoder(x, None, views["mask"], method.mask_token)
        for x in (views["images"], views["images"] + 9 * hidden)
    )
    assert torch.equal(a, b) and int(views["mask"].sum(1)[0]) == math.ceil(0.6 * 36)


def test_lejepa_directions_are_new_every_step_and_equal_on_every_process():
    method, views = build(lejepa, global_size=24, local_size=12)
    images = torch.zeros(6, 3, 36, 36, dtype=torch.uint8)
    half = method.views(images[:3], Rng(1, 6, slice(3, 6)), 0.5)["directions"]
    assert torch.equal(views["directions"], half)
    assert not torch.equal(half, method.views(images, Rng(2, 6), 0.5)["directions"])
    assert torch.allclose(half.norm(dim=0), torch.ones(half.shape[1]))


def test_ijepa_official_masks_are_its_samplers_and_restart():
    """14 x 14: no target or context in the last row and column, and the same masks from the same step's numbers."""
    config = ijepa.paper()
    method, _ = build(ijepa)
    method.objective, method.grid = replace(config.objective, masking="official"), (14, 14)
    context, targets = method.masks(Rng(3, 8))
    for positions in (context, targets):
        assert int((positions % 14).max()) < 13 and int(positions.max()) < 13 * 14
    assert all(torch.equal(a, b) for a, b in zip(method.masks(Rng(3, 8)), (context, targets), strict=True))
    half = method.masks(Rng(3, 8, slice(4, 8)))  # another process: its rows of the same batch
    assert torch.equal(half[0], context[4:]) and torch.equal(half[1], targets[4:])


def test_multiblock_for_the_sheets_grids():
    """The I-JEPA defaults must not hang on an 8 x 8 grid, as the official sampler does."""
    context, targets = masks.multiblock(Rng(0, 64), (8, 8))
    assert context.shape[1] >= 4 and targets.shape[1] == 4
