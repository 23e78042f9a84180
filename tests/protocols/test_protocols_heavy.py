"""Attentive probes, online linear probes, fine-tuning and robustness, on toy encoders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fake_features import part
from PIL import Image
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from protocols import attentive, finetune, linear, lowshot, robust
from protocols.finetune import Finetune, FinetuneConfig
from protocols.robust import Robust, RobustConfig
from ssl_bench.config.schema import vit
from ssl_bench.data.dataset import Split
from ssl_bench.encoders import references
from ssl_bench.errors import UserError
from ssl_bench.evaluation import features, linear_heads
from ssl_bench.evaluation.attentive_heads import Head
from ssl_bench.evaluation.features import Held
from ssl_bench.evaluation.protocol import Features, Rows, load
from ssl_bench.evaluation.scorers import classification
from ssl_bench.evaluation.tuned import Classifier, layer_of, param_groups
from ssl_bench.views.corrupt import CORRUPTIONS, corrupt


def tokens(n: int, seed: int) -> Features:
    """Nine noise tokens per image, one of which, anywhere, tells the class."""
    x, g = part(n, seed=seed), torch.Generator().manual_seed(seed + 7)
    noise = torch.randn(n, 9, 16, generator=g)
    noise[torch.arange(n), torch.randint(9, (n,), generator=g)] += 3 * x.own
    return replace(x, tokens=Rows.of(Held(noise)))


def coloured(n: int, seed: int) -> Split:
    """Images whose class is their colour."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = rng.integers(0, 120, (n, 3, 16, 16), dtype=np.uint8)
    images[np.arange(n), labels] += 120
    return Split(images, np.arange(n), torch.from_numpy(labels))


@pytest.fixture
def parts(tmp_path):
    encoder = references.untrained(vit("toy_patch8"), 16, 0)
    return [
        features.extract(encoder, coloured(n, s), str(s), "colour", 3, tmp_path) for s, n in enumerate((150, 30, 60))
    ]


@pytest.mark.parametrize("name", ["vjepa", "vjepa2", "capi", "aim", "ep"])
def test_attentive_heads_learn_and_the_best_is_chosen(name):
    base = attentive.AttentiveConfig() if name == "vjepa" else getattr(attentive, name)()
    config = replace(base, epochs=6, batch_size=32)  # rates follow the batch: 32 images learn slowly
    predictor = attentive.Attentive(config).fit(tokens(160, 0), tokens(40, 1), 0)
    test = tokens(200, 2)
    names = [n for n, _ in predictor.candidates(test)]
    assert len(names) == len(config.lrs) * len(config.weight_decays)
    assert predictor.selected["head"] in names
    assert predictor.predict(test).shape == (200, 4)
    if name == "ep":  # BatchNorm by the statistics of all images that were fitted on
        z = predictor.logits((tokens(160, 0) + tokens(40, 1)).tokens.batch(np.arange(200)), bare=True)
        assert torch.allclose(predictor.buffers["mean"], z.mean(1), atol=1e-4)
        assert torch.allclose(predictor.buffers["var"], z.var(1, correction=0), atol=1e-4)
    if name in ("capi", "ep"):
        assert classification(predictor.predict(test), test.labels, 4)["top1"] > 50


def test_published_numbers_of_heads():
    grids = {"vjepa2": 20, "capi": 30}
    for name, count in grids.items():
        config = getattr(attentive, name)()
        assert len(config.lrs) * len(config.weight_decays) == count
    assert len(linear.dinov2().heads.lrs) * 2 * 2 == 52


def test_dinov2_reads_the_mean_of_the_last_layer_alone(parts):
    """eval/linear.py, create_linear_input: CLS of 1 or L layers, then the last one's mean: D, 2 D, L D, (L + 1) D."""
    x = parts[0]
    keys = linear.dinov2().keys(x)
    cls, mean = x.pooled["cls"], x.pooled["mean"]
    depth, d = cls.shape[1:]
    assert sorted(x[key].shape[1] for key in keys) == sorted([d, 2 * d, depth * d, (depth + 1) * d])
    assert torch.equal(x["last4", "cls_mean"], torch.cat([*cls.unbind(1), mean[:, -1]], 1))
    assert torch.equal(x["last", "cls_mean"], x["last", "both"])


def test_vjepa2_decays_biases_too():
    assert attentive.vjepa2().decay_all and not any(f().decay_all for f in (attentive.capi, attentive.aim))
    for decay_all, bias in ((True, 0.9), (False, 1.0)):
        values = {"bias": torch.ones(1, 3), "weight": torch.ones(1, 3, 3)}
        adam = linear_heads.StackedAdamW(values, torch.tensor([[1.0, 0.1]]), 0.999, 0.0, decay_all)
        adam.step([torch.zeros(1, 3), torch.zeros(1, 3, 3)], 1.0)
        assert values["bias"].allclose(torch.tensor(bias)) and values["weight"].allclose(torch.tensor(0.9))


def test_attention_with_folded_maps_equals_attention_on_every_token():
    torch.manual_seed(0)
    head = Head("vjepa", 16, 2, 1, 4)
    nn.init.normal_(head.gain), nn.init.normal_(head.shift)
    x = torch.randn(3, 7, 16)
    y = F.layer_norm(x, (16,), head.gain, head.shift)
    q, k, v = (
        m(z).view(-1, z.shape[-2], 2, 8).transpose(1, 2) for m, z in ((head.q, head.query), (head.k, y), (head.v, y))
    )
    z = F.scaled_dot_product_attention(q.expand(3, -1, -1, -1), k, v).transpose(1, 2).reshape(3, 16) + head.query
    assert torch.allclose(head(x), head.classify(z + head.mlp(z)), atol=1e-5)


def test_efficient_probing_equals_its_formula():
    torch.manual_seed(0)
    head = Head("ep", 16, 1, 4, 5)
    x = torch.randn(3, 7, 16)
    slices = []
    for i, query in enumerate(head.query):
        a = (x @ query / 4.0).softmax(1)
        slices.append((a[..., None] * head.v(x)[..., 4 * i : 4 * i + 4]).sum(1))
    z = F.batch_norm(torch.cat(slices, 1), None, None, training=True, eps=1e-6)
    assert torch.allclose(head(x), head.classify(z), atol=1e-4)


def test_stacked_heads_equal_torch_adamw():
    x, config = tokens(64, 0), replace(attentive.AttentiveConfig(), lrs=(1e-3, 1e-2), weight_decays=(0.05,), clip=0.0)
    config = replace(config, epochs=2, batch_size=64)
    probes = attentive.Probes(config, x, 0)
    for i, lr in enumerate(config.lrs):
        alone = attentive.Probes(replace(config, lrs=(lr,)), x, 0)
        assert all(torch.allclose(probes.parameters[k][i], v[0], atol=1e-5) for k, v in alone.parameters.items())


@pytest.mark.parametrize("name", ["mae", "dino", "dinov2", "ijepa"])
def test_online_linear_probes_run_and_keep_their_grid(parts, name):
    probe = load(f"linear:{name}", ["epochs=2"])
    assert probe.input == "images"
    predictor = probe.fit(parts[0], parts[1], 0)
    assert predictor.predict(parts[2]).shape == (60, 3)
    assert len(list(predictor.candidates(parts[2]))) == {"mae": 1, "dino": 1, "dinov2": 52, "ijepa": 12}[name]
    again = load(f"linear:{name}", ["epochs=2"]).fit(parts[0], parts[1], 0)
    assert torch.equal(again.predict(parts[2]), predictor.predict(parts[2]))


def test_a_probe_of_cls_refuses_an_encoder_without_one():
    with pytest.raises(UserError, match="reads"):
        linear.Linear(replace(linear.dino(), augment=False)).fit(part(40, cls=False), part(20, cls=False), 0)


def test_layer_decay_has_depth_plus_one_scales_below_the_head():
    """The sheet: d^(depth + 1 - i), i = 0 for the embeddings (B: 0.65^13), the last block 0.65^1, head 1."""
    encoder = references.untrained(vit("vit_tiny_patch8", pos_embed="learned"), 16, 0)
    model = Classifier(encoder, 0.1, "mean", 3)
    groups = param_groups(model, 12, 0.65, 0.05)
    scales = {g["layer"]: g["lr_scale"] for g in groups}
    assert scales == pytest.approx({i: 0.65 ** (13 - i) for i in range(14)} | {13: 1.0})
    decayed = {id(p) for g in groups for p in g["params"] if g["weight_decay"]}
    for name, p in model.named_parameters():
        assert (id(p) in decayed) == (p.requires_grad and p.ndim > 1 and not name.endswith(("pos_embed", "cls_token")))
    assert [
        layer_of(n, 12) for n in ("net.cls_token", "net.blocks.0.x", "net.blocks.11.x", "head.bias", "net.norm.bias")
    ] == [*(0, 1, 12, 13, 13)]


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_finetuning_has_its_own_drop_path_not_that_of_pretraining(rate: float) -> None:
    encoder = references.untrained(vit("vit_tiny_patch8", drop_path=0.6), 16, 0)
    assert any(getattr(m, "rate", 0) for m in encoder.model.modules()), "pretraining had one"
    blocks = Classifier(encoder, rate, "mean", 3).blocks
    found = [path for block in blocks for path in (block.drop_path1, block.drop_path2)]
    assert [path.drop_prob for path in found] == pytest.approx([rate * i / 11 for i in range(12) for _ in range(2)])


def test_fine_tuning_without_drop_path_is_another_version() -> None:
    versions = {name: load(name).version for name in ("finetune", "finetune:predictor", "lowshot", "lowshot:finetune")}
    assert versions == {"finetune": 2, "finetune:predictor": 2, "lowshot": 3, "lowshot:finetune": 4}
    assert load("finetune", ["drop_path=0"]).version == 3


def test_finetuning_learns_colours_and_follows_its_seed(parts):
    config = FinetuneConfig(epochs=4, batch_size=32, blr=5e-3, mixup=0.1, cutmix=0.0, erase=0.1, randaugment="")
    predictor = Finetune(config).fit(parts[0], parts[1], 0)
    before = [p.clone() for p in parts[0].encoder.model.parameters()]
    scores = predictor.predict(parts[2])
    assert classification(scores, parts[2].labels, 3)["top1"] > 60
    assert torch.equal(Finetune(config).fit(parts[0], parts[1], 0).predict(parts[2]), scores)
    assert all(torch.equal(a, b) for a, b in zip(before, parts[0].encoder.model.parameters(), strict=True))


def test_finetuning_with_every_augmentation_runs(parts):
    config = replace(finetune.mae(), epochs=1, warmup_epochs=0, batch_size=64)
    scores = Finetune(config).fit(parts[0], parts[1], 0).predict(parts[2])
    assert torch.isfinite(scores).all()


def test_randaugment_never_fails_on_any_strength():
    change = finetune.randaugment("rand-m10-n16-mstd0.5-inc1", 16, (0.5, 0.5, 0.5))
    image = Image.fromarray(coloured(1, 0).store[0].transpose(1, 2, 0))
    for _ in range(50):
        assert change(image).size == (16, 16)


def test_finetuning_refuses_pixels(parts):
    pixels = replace(parts[0], encoder=references.pixels(None))
    with pytest.raises(UserError, match="cannot be fine-tuned"):
        Finetune(FinetuneConfig()).fit(pixels, pixels, 0)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_change_images_more_when_severe_and_repeat(name):
    smooth = F.interpolate(torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(0)), 32, mode="bicubic")
    images = (smooth.clamp(0, 1) * 255).to(torch.uint8)
    change = [float((corrupt(images, name, s, 0).float() - images.float()).abs().mean()) for s in (1, 5)]
    assert corrupt(images, name, 3, 0).dtype == torch.uint8
    assert change[0] > 0
    assert name == "glass_blur" or change[0] < change[1]
    assert torch.equal(corrupt(images, name, 3, 1), corrupt(images, name, 3, 1))


def test_robustness_uses_the_clean_head_unchanged(parts):
    config = RobustConfig(("contrast", "brightness"), 2, draws=4, linear=linear.LinearConfig(strengths=5))
    probe = Robust(config)
    predictor = probe.fit(parts[0], parts[1], 0)
    output = predictor.predict(parts[2])
    metrics = probe.score(output, parts[2].labels, 3)
    assert output.shape == (1 + 4, 60)
    assert torch.equal(output[0], predictor.head.predict(parts[2]).argmax(1))
    errors = 100 * (output[1:] != parts[2].labels).double().mean(1)
    assert metrics["error"] == pytest.approx(float(errors.mean()))
    assert metrics["relative_error"] == pytest.approx(metrics["error"] - 100 + metrics["clean_top1"])


def test_an_image_is_seen_under_some_corruptions_and_only_these_count(parts):
    seen = robust.drawn(999, 75, 3)
    assert (seen.sum(0) == 3).all()
    assert set(seen.sum(1).tolist()) == {39, 40}
    corruptions, severities = torch.arange(75) % 15, torch.arange(75) // 15  # as rows are numbered
    assert all(len(set(corruptions[s].tolist())) == len(set(severities[s].tolist())) == 3 for s in seen.T)
    assert robust.drawn(4, 4, 4).all()

    one = RobustConfig(("contrast", "brightness"), 2, draws=1, linear=linear.LinearConfig(strengths=5))
    output = (probe := Robust(one)).fit(parts[0], parts[1], 0).predict(parts[2])
    assert ((output[1:] >= 0).sum(0) == 1).all()
    metrics, labels = probe.score(output, parts[2].labels, 3), parts[2].labels
    answers = output[1:].amax(0)  # the one answer of each image
    assert metrics["error"] == pytest.approx(float(100 * (answers != labels).double().mean()))
    assert set(probe.score(output[:, :1], labels[:1], 3)) == {  # one image: what it was not seen under has no number
        "error", "clean_top1", "relative_error", "error@contrast", "error@severity1",
    }  # fmt: skip
    rows = (output[1:3] >= 0).any(0)
    assert metrics["error@contrast"] == pytest.approx(float(100 * (answers != labels)[rows].double().mean()))
    rows = (output[[1, 3]] >= 0).any(0)
    assert metrics["error@severity1"] == pytest.approx(float(100 * (answers != labels)[rows].double().mean()))


def test_fewer_images_than_corruptions_leave_some_without_a_number(parts):
    one = RobustConfig(draws=1, linear=linear.LinearConfig(strengths=5))
    predictor, few = Robust(one).fit(parts[0], parts[1], 0), parts[2]
    nobody = torch.zeros(len(few), dtype=torch.bool)
    assert predictor.classify(few, "contrast", 1, nobody).shape == (0,)


def test_finetuning_without_mixing_is_plain_cross_entropy(parts):
    config = FinetuneConfig(epochs=3, batch_size=32, blr=5e-3, mixup=0.0, cutmix=0.0)
    scores = Finetune(config).fit(parts[0], parts[1], 0).predict(parts[2])
    assert classification(scores, parts[2].labels, 3)["top1"] > 50


def test_lowshot_by_finetuning_trains_on_its_few_images_only(parts):
    tuning = FinetuneConfig(2, 8, 5e-3, warmup_epochs=0, **lowshot.TUNING)
    one = lowshot.LowShot(lowshot.LowShotConfig("finetune", 0.0, (), (10.0,), 2, tuning))
    assert (one.input, one.headline, load("lowshot:finetune").headline) == ("images", "percent10", "percent1")
    predictor = one.fit(parts[0], parts[1], 0)
    assert predictor.selected == {"percent10": 18}
    output = predictor.predict(parts[2])
    assert output.shape == (2, 1, 60)
    assert set(one.score(output, parts[2].labels, 3)) == {"percent10", "percent10_std"}
    with pytest.raises(UserError, match="no effect"):
        load("lowshot", ["finetune.epochs=3"])


def test_capis_rates_follow_the_batch():
    config = replace(attentive.capi(), epochs=1, batch_size=32, lrs=(1e-3,), weight_decays=(0.05,))
    scaled = attentive.Probes(config, tokens(64, 0), 0)
    plain = attentive.Probes(replace(config, lr_per_256=False, lrs=(1e-3 / 8,)), tokens(64, 0), 0)
    assert all(torch.equal(scaled.parameters[k], plain.parameters[k]) for k in plain.parameters)


@pytest.mark.parametrize(("name", "setting", "sentence"), [
    ("attentive", "queries=4", "queries=4 has no effect with head=vjepa"),
    ("attentive:ep", "num_heads=2", "num_heads=2 has no effect with head=ep"),
    ("linear", "crop_scale=0.5,1", "no effect with augment=false"),
    ("linear:mae", "strengths=3", "no effect with logistic=false"),
    ("linear", "epochs=3", "no effect with logistic=true"),
    ("linear:dino", "layers=last,lst4", "mean 'last4'"),
    ("robust", "draws=76", "under 1 to 75"),
    ("robust", "linear.crop_scale=0.5,1", "no effect with augment=false"),
    ("finetune", "pooling=max", "not a choice"),
    ("finetune", "epochs=2", "fewer warmup_epochs"),
    ("lowshot:finetune", "penalty=1", "penalty=1 must be above 0, but 0 with solver=finetune"),
    ("labelfree", "lidar_images=0 lidar_views=3", "lidar_views=3 has no effect with lidar_images=0"),
    ("clustering", "restarts=0", r"clustering\.restarts=0 must be at least 1\."),
])  # fmt: skip
def test_no_setting_of_a_protocol_is_silently_ignored(name, setting, sentence):
    with pytest.raises(UserError, match=sentence):
        load(name, setting.split())


def test_a_probe_with_one_candidate_is_fitted_once_on_both_parts(parts, monkeypatch):
    fitted = []
    monkeypatch.setattr(linear, "train", lambda groups, *rest: fitted.append(len(groups)))
    found = load("linear:dino", ["epochs=2"]).fit(parts[0], parts[1], 0)
    assert fitted == [1] and found.selected == {"head": "last4/cls/lr=0.000703125/wd=0", "candidates": 1}


def test_heads_train_where_the_encoder_is_whatever_device_holds_the_features():
    """On a machine without a GPU: tensors that know their device and hold no numbers. A mix of devices is an error."""
    with FakeTensorMode():
        gpu = torch.device("cuda")
        for config in (linear_heads.HeadsConfig(), linear.mae().heads, linear.dino().heads):
            group = linear_heads.Group(("last", "mean"), 16, 4, config, torch.Generator(), gpu)
            group.standardize(torch.randn(40, 16))
            group.step(torch.randn(40, 16), torch.zeros(40, dtype=torch.int64), 0.5)
            assert group.weight.device.type == "cuda" and group.logits(torch.randn(5, 16)).device.type == "cpu"
