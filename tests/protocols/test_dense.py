"""Protocol `dense` on cases whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from protocols import dense
from protocols.dense import Dense, DenseConfig
from ssl_bench.config.schema import DataConfig
from ssl_bench.data.dataset import Split
from ssl_bench.data.masks import VOID
from ssl_bench.errors import UserError
from ssl_bench.evaluation import map_scorers, matches
from ssl_bench.evaluation.evaluate import evaluate
from ssl_bench.evaluation.features import Held
from ssl_bench.evaluation.patch_maps import PatchMap, voted
from ssl_bench.evaluation.protocol import Features, Rows

GRID, SIDE, CLASSES = 4, 16, 3
SCORE = map_scorers.Segmentation(draws=50)


def scenes(n: int, seed: int = 0, noise: float = 0.3) -> Features:
    """Images of blocks of 4 x 4 pixels of one class each, but for a stripe; tokens that tell the class, with noise."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(CLASSES, (n, GRID, GRID), generator=generator)
    masks = blocks.repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)
    masks[:, :, 3] = 0
    centres = torch.randn(CLASSES, 8, generator=torch.Generator().manual_seed(99))
    tokens = centres[blocks.flatten(1)] + noise * torch.randn(n, GRID**2, 8, generator=generator)
    images = Rows.of(Split(np.zeros((n, 3, SIDE, SIDE), np.uint8), np.arange(n), torch.empty(0, dtype=torch.int64)))
    pooled = {"mean": tokens.mean(1, keepdim=True)}
    return Features(
        torch.zeros(n, dtype=torch.int64), 1, "mean", pooled, images, Rows.of(Held(tokens)), masks=masks,
        mask_classes=("a", "b", "c"), grid=(GRID, GRID),
    )  # fmt: skip


def mirrored(x: Features) -> Features:
    """Every image, its tokens and its mask from right to left."""
    assert x.tokens is not None and x.masks is not None
    tokens = x.tokens.batch(np.arange(len(x))).unflatten(1, (GRID, GRID)).flip(2).flatten(1, 2)
    return replace(x, tokens=Rows.of(Held(tokens)), masks=x.masks.flip(2))


def answer(config: DenseConfig, train: Features, val: Features, test: Features) -> torch.Tensor:
    return Dense(config).fit(train, val, 0).predict(test.bare())


def test_a_perfect_answer_is_100_and_all_background_what_a_hand_counts():
    truth = torch.zeros(2, 4, 4, dtype=torch.uint8)
    truth[0, :2], truth[1, 0, 0] = 1, 2
    assert SCORE(truth, truth, 3)["miou"] == SCORE(truth, truth, 3)["pixels"] == 100
    assert SCORE(truth, truth, 9)["miou"] == 100  # classes that do not occur count nowhere
    found = SCORE(torch.zeros_like(truth), truth, 3)
    assert found["miou"] == pytest.approx(100 * (23 / 32 + 0 + 0) / 3)
    assert found["pixels"] == pytest.approx(100 * 23 / 32)
    # an answer of a class that never occurs counts as a class with nothing right
    wrong = torch.where(truth == 2, 3, truth)
    assert SCORE(wrong, truth, 5)["miou"] == pytest.approx(100 * (1 + 1 + 0 + 0) / 4)
    assert map_scorers.Segmentation().per_image(torch.zeros_like(truth), truth) == [25.0, round(100 * 15 / 32, 2)]


def test_void_pixels_change_nothing():
    generator = torch.Generator().manual_seed(0)
    truth, output = (torch.randint(3, (6, 8, 8), generator=generator).to(torch.uint8) for _ in range(2))
    truth[:, :3] = VOID
    found = SCORE(output, truth, 3)
    assert found == SCORE(torch.where(truth == VOID, 2, output), truth, 3)
    assert found["miou"] == pytest.approx(SCORE(output[:, 3:], truth[:, 3:], 3)["miou"])
    void = torch.full((1, 8, 8), VOID, dtype=torch.uint8)
    assert SCORE(torch.cat([output, output[:1]]), torch.cat([truth, void]), 3)["miou"] == found["miou"]
    assert map_scorers.Segmentation().per_image(output[:1], void) == [None]
    with pytest.raises(UserError, match="void"):
        SCORE(output[:1], void, 3)


def test_void_in_training_masks_is_no_label_and_no_vote():
    train, val, test = scenes(20), scenes(6, 1), scenes(6, 2)
    assert train.masks is not None
    hidden = train.masks.clone()
    hidden[:, ::2] = VOID
    for config in (DenseConfig(), dense.knn()):
        before, after = (answer(config, replace(train, masks=m), val, test) for m in (train.masks, hidden))
        assert torch.equal(before[:, 1::2], after[:, 1::2])
    with pytest.raises(UserError, match="void"):
        answer(DenseConfig(), replace(train, masks=torch.full_like(train.masks, VOID)), val, test)


def test_the_interval_holds_the_value_and_shrinks_with_images():
    def spread(n: int) -> float:
        truth = scenes(n).masks
        assert truth is not None
        noise = torch.rand(truth.shape, generator=torch.Generator().manual_seed(1)) < 0.3
        found = map_scorers.Segmentation()(torch.where(noise, 0, truth), truth, CLASSES)
        assert found["miou_low"] < found["miou"] < found["miou_high"]
        return found["miou_high"] - found["miou_low"]

    assert spread(160) < 0.6 * spread(20)


@pytest.mark.parametrize("config", [DenseConfig(), dense.knn(), replace(dense.linear(), steps=60)])
def test_images_and_masks_flipped_together_change_nothing(config):
    parts = scenes(24), scenes(8, 1), scenes(8, 2)
    plain = answer(config, *parts)
    assert torch.equal(answer(config, *map(mirrored, parts)).flip(2), plain)
    assert plain.dtype == torch.uint8 and len(plain.unique()) == CLASSES


def test_knn_equals_a_plain_loop():
    train, val, test = scenes(12, noise=1.5), scenes(4, 1, 1.5), scenes(5, 2, 1.5)
    assert train.tokens and val.tokens and test.tokens and train.masks is not None and val.masks is not None
    for metric, k in (("cosine", 3), ("l2", 5)):
        config = replace(dense.knn(), metrics=(metric,), ks=(k,))
        bank = torch.cat([x.tokens.batch(np.arange(len(x))) for x in (train, val)])  # type: ignore[union-attr]
        masks = torch.cat([train.masks, val.masks])
        flat = bank.flatten(0, 1)
        mean, std = flat.mean(0), flat.std(0, correction=0)
        flat, queries = (flat - mean) / std, (test.tokens.batch(np.arange(5)) - mean) / std
        expected = torch.zeros(5, SIDE, SIDE, dtype=torch.uint8)
        for n in range(5):
            for y in range(SIDE):
                for x in range(SIDE):
                    query = queries[n, y // 4 * GRID + x // 4]
                    near = F.cosine_similarity(flat, query[None]) if metric == "cosine" else -(flat - query).norm(dim=1)
                    votes = []
                    for row in near.argsort(descending=True)[:k].tolist():
                        image, patch = divmod(row, GRID**2)
                        votes.append(int(masks[image, patch // GRID * 4 + y % 4, patch % GRID * 4 + x % 4]))
                    most = max(votes.count(v) for v in votes)
                    expected[n, y, x] = next(v for v in votes if votes.count(v) == most)
        assert torch.equal(answer(config, train, val, test), expected)


def test_votes_of_equal_number_go_to_the_nearest_and_void_is_none():
    labels = torch.tensor([[2, VOID, 1], [1, VOID, 1], [1, VOID, VOID], [2, VOID, 0]], dtype=torch.uint8)[None]
    assert voted(labels, 3).tolist() == [[2, 0, 1]]


def test_settings_are_chosen_on_the_validation_part():
    train, val = scenes(20), scenes(6, 1)
    found = Dense(DenseConfig()).fit(train, val, 0)
    assert found.selected["candidates"] == 8 and found.selected["head"].startswith("C=")
    assert found.selected["val_miou"] > 60
    assert Dense(dense.knn()).fit(train, val, 0).selected["head"].startswith(("cosine/k=", "l2/k="))


def test_patches_and_pixels_of_a_centre_crop():
    where = PatchMap((12, 8), (2, 2), (0.5, 1.0))
    assert where.patches[:, 0].tolist() == [0] * 6 + [2] * 6 and where.patches[0].tolist() == [0] * 4 + [1] * 4
    assert where.inside.all(1).tolist() == [False] * 3 + [True] * 6 + [False] * 3
    masks = torch.zeros(1, 12, 8, dtype=torch.uint8)
    masks[:, :3], masks[:, 3:5, :4] = 2, 1
    assert where.labels(masks, 3).tolist() == [[1, 0, 0, 0]]  # the rows that are cut away count nowhere


def test_labels_of_patches_places_and_bilinear_maps():
    where = PatchMap((SIDE, SIDE), (GRID, GRID))
    masks = scenes(3).masks
    assert masks is not None
    for n, t in ((0, 0), (1, 7), (2, 15)):
        patch = masks[n, t // 4 * 4 : t // 4 * 4 + 4, t % 4 * 4 : t % 4 * 4 + 4]
        assert where.labels(masks, 3)[n, t] == patch.flatten().mode().values
        assert torch.equal(where.at_places(masks)[n, t], patch.flatten())
    assert torch.equal(where.at_places(masks)[:, where.patches, where.offsets], masks)
    values = torch.randn(2, GRID**2, 5, generator=torch.Generator().manual_seed(0))
    maps = values.transpose(1, 2).unflatten(2, (GRID, GRID))
    expected = F.interpolate(maps, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    assert torch.allclose(where.upsampled(values), expected, atol=1e-5)


def test_what_has_no_effect_or_no_masks_is_refused():
    with pytest.raises(UserError, match="no effect"):
        Dense(DenseConfig(ks=(5,)))
    with pytest.raises(UserError, match="cosine"):
        Dense(replace(dense.knn(), metrics=("l1",)))
    x = scenes(4)
    with pytest.raises(UserError, match="masks"):
        Dense(DenseConfig()).fit(replace(x, masks=None), x, 0)
    with pytest.raises(UserError, match="raw_patch"):
        Dense(DenseConfig(raw_patch=5)).fit(replace(x, grid=()), x, 0)


def test_the_record_of_a_whole_evaluation(tmp_path):
    data = DataConfig("factors:80", image_size=48)
    record = evaluate("pixels", "dense:knn", data, tmp_path)
    assert record.headline == "miou" and record.metrics["miou_low"] < record.value < record.metrics["miou_high"]
    assert record.selected["grid"] == [8, 8] and record.selected["classes"] == 7 and not record.correct
    each = record.data["image_miou"]
    assert len(each) == record.data["num_test"] == 20 and 0 < min(each) <= max(each) <= 100
    assert record.compute["eval"]["scorer"] == "harness"
    with pytest.raises(UserError, match="masks"):
        evaluate("pixels", "dense", DataConfig("movingphotos:0:40", image_size=16), tmp_path)


def test_places_of_a_view_are_where_its_pixels_come_from():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    images = torch.stack([y * 4, x * 4, 0 * x])[None].repeat(3, 1, 1, 1).round().to(torch.uint8)
    views = matches.Views(torch.tensor([[0.1, 0.3], [0.2, 0.0], [0.0, 0.0]]), torch.tensor([0.6, 0.8, 1.0]),
                          torch.tensor([True, False, False]))  # fmt: skip
    shown, places = views.pictures(images).float(), views.places(matches.centres((64, 64))).view(3, 64, 64, 2)
    inside = slice(2, -2)  # at the very edge the bilinear picture has no further pixel to look at
    for axis in (0, 1):
        expected = 4 * (places[..., axis] * 64 - 0.5)
        assert (shown[:, axis] - expected)[:, inside, inside].abs().max() <= 1
    assert torch.equal(views.pictures(images)[2], images[2])


def test_matches_of_tokens_that_tell_their_place_are_right_and_those_of_constant_ones_are_counted_by_hand():
    views = matches.Views.drawn(5, torch.Generator().manual_seed(0))
    grid, waves = (8, 8), 2 * torch.pi * torch.tensor([[0.25, 0.0], [0.0, 0.25], [0.5, 0.0], [0.0, 0.5]])

    def tokens(places: torch.Tensor) -> torch.Tensor:  # [..., 2] -> [..., 8], nearest where the places are
        angle = places @ waves.T
        return torch.cat([angle.cos(), angle.sin()], -1)

    centres = matches.centres(grid)
    theirs = tokens(centres)[None].expand(5, -1, -1)
    found = matches.errors(tokens(views.places(centres)), theirs, views, grid, (1.0, 1.0))
    assert found[..., 0].max() <= 0.5**0.5 + 1e-4  # half a patch either way: the right patch, always
    masks = torch.zeros(5, 16, 16, dtype=torch.uint8)
    assert map_scorers.Matches(1.0)(found, masks, 2) == {"recall": 100, "recall_by_class": 100}
    same = torch.ones(5, 64, 3)
    found = matches.errors(same, same, views, grid, (1.0, 1.0))  # all go to the first patch
    near = ((views.places(centres) * 8 - 0.5).norm(dim=2) <= 1).double()
    assert map_scorers.Matches(1.0)(found, masks, 2)["recall"] == pytest.approx(100 * float(near.mean()))
    cropped = matches.errors(same, same, views, grid, (0.5, 0.5))
    seen = ((views.places((centres - 0.5) * 0.5 + 0.5) - 0.5).abs() < 0.25).all(2)
    assert torch.equal(cropped[..., 0] >= 0, seen)


def test_recall_by_class_is_that_at_the_true_places():
    masks = torch.tensor([[[0, 0], [1, VOID]]], dtype=torch.uint8)
    output = torch.tensor([[[0.5, 0.1, 0.1], [3.0, 0.1, 0.9], [3.0, 0.9, 0.1], [0.2, 0.9, 0.9], [-1.0, 0.9, 0.1]]])
    assert map_scorers.Matches(1.0)(output, masks, 2) == {"recall": 50.0, "recall_by_class": 25.0}
