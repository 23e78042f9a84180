"""Which tokens are read of an encoder: layers, what stands beside them, the size of the input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from protocols import dense
from protocols.dense import Dense, DenseConfig
from ssl_bench.config.schema import DataConfig, ViTConfig, to_dict
from ssl_bench.data.dataset import Split
from ssl_bench.encoders.encoder import Encoder
from ssl_bench.encoders.references import untrained
from ssl_bench.errors import UserError
from ssl_bench.evaluation.evaluate import evaluate
from ssl_bench.evaluation.patch_tokens import Reading
from ssl_bench.evaluation.protocol import Features, Rows

SIDE, PATCH, WIDTH = 24, 6, 32
TINY = ViTConfig(patch_size=PATCH, embed_dim=WIDTH, depth=5, num_heads=2, reg_tokens=2)
IMAGES = torch.randint(256, (3, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def shown(encoder: Encoder) -> Features:
    store = Split(IMAGES.numpy(), np.arange(len(IMAGES)), torch.empty(0, dtype=torch.int64))
    pooled = {"mean": torch.zeros(len(IMAGES), 1, WIDTH)}
    return Features(
        torch.zeros(len(IMAGES)), 1, "mean", pooled, Rows.of(store), encoder=encoder, grid=encoder.grid
    )  # fmt: skip


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return untrained(TINY, SIDE, 0)


def test_the_usual_reading_is_what_features_hold(encoder: Encoder) -> None:
    x = shown(encoder)
    assert torch.equal(Reading().tokens(x, IMAGES), encoder.encode(IMAGES, 1, want_tokens=True)["tokens"])
    assert Reading(raw_patch=4).usual and not any(r.usual for r in (Reading("last4"), Reading(image_size=24)))
    kept = replace(x, tokens=Rows.of(Split(np.ones((3, 16, 2), np.float32), np.arange(3), torch.empty(0))))
    assert Reading().rows(kept, torch.tensor([0, 2])).shape == (2, 16, 2)  # and never encodes them again


def test_layers_and_what_stands_beside_patches(encoder: Encoder) -> None:
    x, maps = shown(encoder), encoder.model.layers(encoder.prepare(IMAGES), range(1, 5))
    assert torch.equal(Reading("last4").tokens(x, IMAGES), torch.cat([m[:, 3:] for m in maps], 2))
    found = Reading(concat="cls").tokens(x, IMAGES)
    assert torch.equal(found[..., WIDTH:], maps[-1][:, :1].expand(-1, 16, -1))
    found = Reading("last4", "registers").tokens(x, IMAGES)
    assert found.shape == (3, 16, 4 * 3 * WIDTH)
    assert torch.equal(found[1, 5], torch.cat([torch.cat([m[1, 3 + 5], m[1, 1], m[1, 2]]) for m in maps]))


def test_a_larger_input_has_more_patches_with_positions_between_the_trained_ones(encoder: Encoder) -> None:
    x, reading = shown(encoder), Reading(image_size=2 * SIDE)
    found, where = reading.tokens(x, IMAGES), reading.map(x)
    larger = replace(encoder, image_size=2 * SIDE).prepare(IMAGES)
    assert larger.shape[-1] == 48 and torch.equal(found, encoder.model(larger)[:, 3:])
    assert where.grid == (8, 8) and where.size == (SIDE, SIDE) and where.covered == (1.0, 1.0)
    assert torch.equal(Reading(image_size=SIDE).tokens(x, IMAGES), Reading().tokens(x, IMAGES))
    wide = untrained(replace(TINY, pos_embed="learned"), (SIDE, 2 * SIDE), 0)
    grown = replace(
        shown(wide), items=Rows.of(Split(np.zeros((2, 3, SIDE, 2 * SIDE), np.uint8), np.arange(2), torch.empty(0)))
    )
    assert Reading(image_size=36).map(grown).grid == (6, 12)
    cropped = replace(encoder, resize=32)  # of the centre, as the encoder's own transform
    assert Reading(image_size=48).map(shown(cropped)).covered == (0.75, 0.75)


@pytest.mark.parametrize(("reading", "word"), [
    (Reading(image_size=40), "multiple of 6, for example 42"), (Reading("last4"), "has 3 layers"),
    (Reading(concat="cls"), "no CLS"), (Reading(concat="registers"), "reg_tokens"),
])  # fmt: skip
def test_what_an_encoder_has_not_is_told(reading: Reading, word: str) -> None:
    bare = untrained(replace(TINY, depth=3, class_token=False, reg_tokens=0), SIDE, 0)
    with pytest.raises(UserError, match=word):
        reading.tokens(shown(bare), IMAGES)
    with pytest.raises(UserError, match="image_size"):
        Dense(DenseConfig(image_size=-1))


def test_another_network_takes_its_size_by_its_name(encoder: Encoder) -> None:
    x = replace(shown(encoder), encoder=replace(encoder, model=torch.nn.Identity()))
    with pytest.raises(UserError, match="size=448"):
        Reading(image_size=48).tokens(x, IMAGES)


def test_settings_stand_in_the_record_and_the_usual_ones_are_as_in_the_first_records(tmp_path) -> None:
    first = {"batch_size", "head", "images", "ks", "lr", "metrics", "raw_patch", "steps", "strengths", "tol"}
    assert set(to_dict(DenseConfig())) == {*first, "weight_decay"} == set(to_dict(dense.match()))
    assert to_dict(dense.last4())["layers"] == "last4"
    data, source = DataConfig("factors:80", image_size=48), "random:micro_patch6@48"
    usual = evaluate(source, "dense", data, tmp_path)
    larger = evaluate(source, "dense", data, tmp_path, overrides=["image_size=96", "concat=cls"])
    assert usual.selected["grid"] == [8, 8] and larger.selected["grid"] == [16, 16]
    assert larger.protocol_config["image_size"] == 96 and larger.id != usual.id
    again = evaluate(source, "dense", data, tmp_path, overrides=["image_size=48"])
    assert again.metrics == pytest.approx(usual.metrics)
