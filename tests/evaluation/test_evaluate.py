"""The seal, the cache and the record."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny

from ssl_bench import find
from ssl_bench.config.schema import DataConfig, vit
from ssl_bench.data.dataset import Split, open_data
from ssl_bench.encoders import references, resolve
from ssl_bench.errors import UserError
from ssl_bench.evaluation import answers, evaluate, features, protocol
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol
from ssl_bench.training.pretrain import pretrain


@dataclass(frozen=True)
class _Config:
    pass


class _Cheat(Predictor):
    """Looks for labels everywhere it can reach at prediction, and for the test image among what it was given."""

    def __init__(self, train: Features) -> None:
        super().__init__()
        self.train = train

    def predict(self, x: Features) -> torch.Tensor:
        found = [x.labels] + [getattr(s, "labels", torch.zeros(0)) for s in x.items.sources]
        found += [getattr(s, "labels", torch.zeros(0)) for s in (x.tokens.sources if x.tokens else ())]
        for labels in found:
            if len(labels) == len(x):
                return torch.nn.functional.one_hot(labels, x.num_classes).float()
        same = (x.own[:, None] == self.train.own[None]).all(2)
        guess = torch.where(same.any(1), self.train.labels[same.long().argmax(1)], 0)
        return torch.nn.functional.one_hot(guess, x.num_classes).float()


class _Memoriser(Protocol):
    def fit(self, train: Features, val: Features, seed: int) -> Predictor:
        return _Cheat(train + val)


def coin(n: int, seed: int) -> Split:
    """Noise images whose labels have nothing to do with them: chance is the best anyone can do."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8)
    return Split(images, np.arange(n), torch.from_numpy(rng.integers(0, 4, n)))


@pytest.fixture
def encoder():
    return references.untrained(vit("toy_patch4"), 8, 0)


def parts(encoder, tmp_path, n=(200, 40, 400), tokens=False):
    splits = [coin(size, seed) for seed, size in enumerate(n)]
    hidden = replace(splits[2], labels=splits[2].labels[:0])
    made = [
        features.extract(encoder, s, name, "coin", 4, tmp_path, tokens)
        for s, name in zip((*splits[:2], hidden), ("train", "val", "test"), strict=True)
    ]
    return *made, splits[2].labels


def run(one, train, val, test, labels):
    return answers.score(answers.predict("own", one, train, val, test, 0), labels)


def test_a_protocol_that_memorises_cannot_beat_chance(encoder, tmp_path):
    *x, labels = parts(encoder, tmp_path, tokens=True)
    result = run(_Memoriser(_Config()), *x, labels)
    assert 15 < result["metrics"]["top1"] < 35
    leaked = [x[0], x[1], replace(x[0], labels=x[0].labels[:0])]  # with training images as test images it would win
    assert run(_Memoriser(_Config()), *leaked, x[0].labels)["metrics"]["top1"] == 100


def test_test_features_carry_no_labels_and_labelled_ones_are_refused(encoder, tmp_path):
    train, val, test, labels = parts(encoder, tmp_path)
    assert not len(test.labels)
    assert all(not len(s.labels) for s in test.items.sources)
    with pytest.raises(AssertionError):
        run(_Memoriser(_Config()), train, val, replace(test, labels=labels), labels)


@pytest.mark.parametrize("name", ["knn", "linear"])
def test_noise_gives_chance_and_the_usual_practice_gives_more(encoder, tmp_path, name):
    small = ["strengths=9"] if name == "linear" else []
    result = run(protocol.load(name, small), *parts(encoder, tmp_path))
    optimism = result["optimism"]
    assert optimism["usual"] >= optimism["honest"] == result["metrics"]["top1"]
    assert name == "knn" or optimism["usual"] > optimism["honest"]  # the more candidates, the larger the gap
    assert 15 < optimism["honest"] < 35


def test_features_come_from_the_cache_and_its_key_follows_the_transform(encoder, tmp_path, monkeypatch):
    split = coin(50, 0)
    first = features.extract(encoder, split, "train", "coin", 4, tmp_path, tokens=True)
    keys = {features.cache_key(e, split, "coin/train") for e in (
        encoder, replace(encoder, resize=10), replace(encoder, mean=(0.0, 0.0, 0.0)),
        replace(encoder, interpolation="bilinear"), replace(encoder, weights_sha256="other"),
        replace(encoder, pooling="cls"), replace(encoder, image_size=12),
    )}  # fmt: skip
    assert len(keys) == 7
    assert features.cache_key(encoder, split, "coin/test") not in keys
    monkeypatch.setattr(features, "encode", None)  # no second pass
    again = features.extract(encoder, split, "train", "coin", 4, tmp_path, tokens=True)
    assert torch.equal(first.own, again.own)
    assert torch.equal(first.tokens.batch(np.arange(50)), again.tokens.batch(np.arange(50)))


@pytest.mark.parametrize("damage", ["zeros", "cut", "empty"])
def test_a_damaged_cache_is_made_again(encoder, tmp_path, damage):
    """Zeros in its second half were 33 % in place of 78, without a word; a cut file was a traceback, each time."""
    split = coin(50, 0)
    first = features.extract(encoder, split, "train", "coin", 4, tmp_path)
    (path,) = (tmp_path / "features").glob("*.pooled.safetensors")
    whole = path.read_bytes()
    half = whole[: len(whole) // 2]
    path.write_bytes({"zeros": half + bytes(len(whole) - len(half)), "cut": half, "empty": b""}[damage])
    assert features.kept(encoder, split, "train", "coin", tmp_path) is None
    again = features.extract(encoder, split, "train", "coin", 4, tmp_path)
    assert torch.equal(first.own, again.own) and path.read_bytes() == whole
    assert list((tmp_path / "features").iterdir()) == [path]  # nothing left aside


def test_a_full_disk_is_told_in_one_sentence(encoder, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # bytes of any file that is written
    try:
        with pytest.raises(UserError, match="Cannot write"):
            features.extract(encoder, coin(50, 0), "train", "coin", 4, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "features").iterdir())


def test_tokens_that_do_not_fit_are_streamed_with_the_same_values(encoder, tmp_path, monkeypatch):
    split = coin(30, 0)
    held = features.extract(encoder, split, "train", "coin", 4, tmp_path / "a", tokens=True)
    monkeypatch.setattr(features, "memory_limit", lambda: 1000)
    streamed = features.extract(encoder, split, "train", "coin", 4, tmp_path / "b", tokens=True)
    rows = np.array([3, 1, 29])
    assert type(streamed.tokens.sources[0]) is not type(held.tokens.sources[0])
    assert torch.allclose(held.tokens.batch(rows), streamed.tokens.batch(rows), atol=1e-5)
    assert not list((tmp_path / "b").rglob("*tokens*"))


def test_rows_of_two_sources_keep_their_order(encoder, tmp_path):
    train, val, *_ = parts(encoder, tmp_path)
    both = (train + val).take(torch.tensor([205, 3, 239, 3]))
    one_by_one = [val.items.batch(np.array([39])), val.items.batch(np.array([5])), train.items.batch(np.array([3]))]
    assert torch.equal(both.items.batch(np.array([2, 0, 1])), torch.cat(one_by_one))
    assert torch.equal(both.own[0], val.own[5])


def test_last4_and_both_lie_side_by_side(encoder, tmp_path):
    x = parts(encoder, tmp_path)[0]
    assert x.keys == [(a, b) for a in ("last", "last4") for b in ("cls", "mean", "both")]
    assert torch.equal(x["last4", "both"], torch.cat([x.pooled[p].flatten(1) for p in ("cls", "mean")], 1))
    tokens = encoder.model(encoder.prepare(coin(200, 0).batch(np.arange(2))))
    assert torch.allclose(x["last", "mean"][:2], encoder.model.pool(tokens, "mean"), atol=1e-5)
    assert torch.allclose(x["last", "cls"][:2], tokens[:, 0], atol=1e-5)


def test_a_record_of_the_embedded_photographs(tmp_path):
    pytest.importorskip("results.records")
    record = evaluate.evaluate("pixels", "knn", DataConfig(), tmp_path, device="cpu")
    assert record.value > 40  # raw pixels are a strong k-NN row here
    assert record.bits().mean() * 100 == pytest.approx(record.value)
    assert record.data["num_test"] == 999
    assert record.seeds == {"pretrain": None, "probe": 0, "split": 0}
    assert len(list((tmp_path / "records").glob("*.json"))) == 1


def test_untrained_encoders_follow_their_seed(tmp_path):
    data = open_data(DataConfig())
    a, b, c = (resolve.resolve("random:toy_patch8@48", tmp_path, seed, data) for seed in (0, 0, 1))
    assert a.weights_sha256 == b.weights_sha256 != c.weights_sha256
    assert a.identity == b.identity != c.identity
    assert a.config["backbone"]["embed_dim"] == 64
    assert a.mean == data.mean


@pytest.mark.parametrize("name", ["toy_patch8@48", "64x2_patch8@32,class_token=False,pos_embed=learned"])
def test_an_untrained_encoder_is_opened_by_the_name_in_its_records(name, tmp_path):
    first = resolve.resolve(f"random:{name}", tmp_path)
    again = resolve.resolve(first.source, tmp_path)
    assert again.source == first.source and again.weights_sha256 == first.weights_sha256
    assert again.identity == first.identity


@pytest.mark.parametrize(("source", "sentence"), [
    ("random:vit_tny_patch8@48", "Unknown backbone"),
    ("random:vit_tiny_patch7@48", "not divisible"),
    ("random:vit_tiny_patch8@big", "digits"),
    ("random:96x4_patch8@big", "digits"),
    ("random:97x4_patch8@48", "embed_dim=97 must be divisible"),
    ("random:96x4_patch8@48,clas_token=false", "class_token"),
    ("tim:vit", "Did you mean 'timm'"),
    ("nothing-here", "No run"),
])  # fmt: skip
def test_wrong_encoders_are_named(source, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        resolve.resolve(source, tmp_path)


@pytest.mark.parametrize(("name", "sentence"), [("lineer", "mean 'linear'"), ("knn:fewshots", "mean 'fewshot'")])
def test_wrong_protocols_are_named(name, sentence):
    with pytest.raises(UserError, match=sentence):
        protocol.load(name)


def test_all_is_every_frozen_protocol_and_settings_find_theirs():
    names = protocol.expand(["all", "finetune", "knn:fewshot", "knn"])
    few = {"factors", "dense", "plan", "rollout", "state", "surprise", "flow"}  # what they are scored by few sets have
    few |= {"anticipate", "foresight", "mrr"}  # of clips; of encoders with a predictor beside them
    few |= {"generate", "retrieve", "zeroshot"}  # of texts
    assert set(names) == set(find.names("protocols")) - few | {"knn:fewshot"}
    assert names[-2:] == ["finetune", "knn:fewshot"] and "finetune" not in protocol.expand(["all"])
    own = protocol.assign(names, ["knn.k=7", "linear.heads.momentum=0.5"])
    assert (own["knn"], own["knn:fewshot"], own["linear"], own["robust"]) == (
        ["k=7"], ["k=7"], ["heads.momentum=0.5"], [],
    )  # fmt: skip
    assert protocol.assign(["robust"], ["linear.strengths=9"]) == {"robust": ["linear.strengths=9"]}
    assert protocol.assign(["lab.idea", "knn"], ["lab.idea.a.b=1"]) == {"lab.idea": ["a.b=1"], "knn": []}


def test_several_protocols_encode_each_part_once(photos, tmp_path, monkeypatch):
    seen, encode = [], features.encode
    monkeypatch.setattr(
        features, "encode", lambda e, split, tokens: seen.append(len(split)) or encode(e, split, tokens)
    )
    data = DataConfig(f"folder:{photos}", 24, val_fraction=0.2)
    names = ["knn", "retrieval", "attentive", "clustering"]
    settings = ["knn.k=5", "attentive.epochs=1", "attentive.lrs=1e-3"]
    found = list(evaluate.evaluate_all("random:toy_patch8@24", names, data, tmp_path, 0, settings, "cpu"))
    assert [r.protocol for r in found] == names
    assert seen == [96, 24, 36]
    assert (found[0].selected["k"], found[2].protocol_config["epochs"]) == (5, 1)


def test_the_page_s_protocol_is_one_file(photos, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "add-your-protocol.md").read_text(encoding="utf-8")
    example = page.split("```python\n")[1].split("```")[0]
    assert len(example.splitlines()) < 80
    (tmp_path / "scratch_lab").mkdir()
    (tmp_path / "scratch_lab" / "centroid.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    data = DataConfig(f"folder:{photos}", 24, val_fraction=0.2)
    names = ["scratch_lab.centroid", "scratch_lab.centroid:plain"]
    first, plain = evaluate.evaluate_all("pixels", names, data, tmp_path, 0, [f"{names[1]}.shrink=0.2"], "cpu")
    assert (first.protocol, first.variant, plain.variant) == ("scratch_lab.centroid", "", "plain")
    assert (first.protocol_config, plain.protocol_config) == ({"shrink": [0.0, 0.1, 0.3]}, {"shrink": [0.2]})
    assert first.value > 90  # the classes are colours
    assert first.optimism["candidates"] == 3 and first.optimism["usual"] >= first.optimism["honest"]
    assert first.bits().mean() * 100 == pytest.approx(first.value)


def test_the_record_knows_of_labels_and_twins_in_pretraining(photos, tmp_path):
    for method, labels in (("supervised", True), ("simsiam", False)):
        run = pretrain(tiny(method, f"folder:{photos}", steps=1), tmp_path)
        data = evaluate.data_of(run.name, tmp_path)
        record = evaluate.evaluate(run.name, "knn", data, tmp_path, device="cpu")
        assert record.pretrain_data["labels_seen"] is labels
        assert record.data["twins"] == {"pretrain": f"folder:{photos}", "count": 0, "share": 0.0}
    assert evaluate.evaluate("pixels", "knn", data, tmp_path, device="cpu").data["twins"] == {}
