"""`dense`: exact values of mIoU, patches and their pixels, and the protocol end to end on known masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from protocols.dense import DenseConfig, Vote
from results import records
from ssl_bench.cli.main import cli
from ssl_bench.config.schema import DataConfig
from ssl_bench.data import factors
from ssl_bench.data.dataset import open_data, open_test, open_truth
from ssl_bench.data.images import Item, square
from ssl_bench.data.pixels import Unreadable
from ssl_bench.errors import UserError
from ssl_bench.evaluation import protocol
from ssl_bench.evaluation.dense import Grid, most_frequent, sample
from ssl_bench.evaluation.features import Held
from ssl_bench.evaluation.protocol import Features, Rows
from ssl_bench.evaluation.scorers import VOID, Segmentation, miou, overlaps

SET = DataConfig("factors:60", image_size=32, val_fraction=0.2)


def drawn(seed: int = 0, count: int = 12, side: int = 8, classes: int = 3) -> torch.Tensor:
    return torch.randint(classes, (count, side, side), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def score(output: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    return Segmentation(200)(output, truth, 0)


def test_what_is_perfect_is_100() -> None:
    truth = drawn()
    assert score(truth, truth) == {"miou": 100.0, "miou_low": 100.0, "miou_high": 100.0, "pixel_accuracy": 100.0}


def test_all_background_is_what_a_hand_computes() -> None:
    truth = torch.zeros(1, 4, 4, dtype=torch.uint8)
    truth[0, :2, :2] = 1  # 4 of 16
    truth[0, 3, 3] = 2
    found = score(torch.zeros_like(truth), truth)
    assert found["miou"] == pytest.approx(100 * (11 / 16) / 3)  # IoU 11 of 16, 0 and 0
    assert found["pixel_accuracy"] == pytest.approx(100 * 11 / 16)


def test_a_class_that_does_not_occur_counts_only_where_it_is_wrongly_named() -> None:
    truth = torch.zeros(1, 2, 2, dtype=torch.uint8)
    output = truth.clone()
    output[0, 0, 0] = 5
    assert score(output, truth)["miou"] == 75.0


def test_void_pixels_change_nothing() -> None:
    truth, output = drawn(0), drawn(1)
    wide = torch.cat([truth, torch.full_like(truth, VOID)], 2)
    assert score(torch.cat([output, drawn(2)], 2), wide) == score(output, truth)
    with pytest.raises(UserError, match="void"):
        score(output, torch.full_like(truth, VOID))


def test_the_interval_holds_the_value_and_shrinks_with_images() -> None:
    few, many = (score(drawn(1, n), drawn(0, n)) for n in (10, 160))
    for found in (few, many):
        assert found["miou_low"] < found["miou"] < found["miou_high"]
    assert many["miou_high"] - many["miou_low"] < 0.5 * (few["miou_high"] - few["miou_low"])


def test_overlaps_are_counts_of_a_plain_loop() -> None:
    truth, output = drawn(0, 3), drawn(1, 3)
    truth[1, 2] = VOID
    found = overlaps(output, truth, 3)
    for i in range(3):
        for c in range(3):
            known = truth[i] != VOID
            both = ((truth[i] == c) & (output[i] == c)).sum()
            assert found[i, :, c].tolist() == [both, (truth[i] == c).sum(), ((output[i] == c) & known).sum()]
    assert miou(found.sum(0)) == pytest.approx(
        100 * np.mean([float(f[0] / (f[1] + f[2] - f[0])) for f in found.sum(0).T])
    )


def test_maps_are_cut_and_joined() -> None:
    grid, maps = Grid(2, 3, 4, 5), torch.arange(2 * 8 * 15).reshape(2, 8, 15)
    cut = grid.cut(maps)
    assert cut.shape == (2, 6, 4, 5) and torch.equal(cut[1, 4], maps[1, 4:, 5:10])
    assert torch.equal(grid.join(cut), maps)


def test_a_patch_has_the_class_of_most_of_its_pixels() -> None:
    pixels = torch.tensor([[[0, 1], [1, 2]], [[2, 1], [1, 2]], [[VOID, VOID], [VOID, 2]], [[VOID] * 2] * 2])
    assert most_frequent(pixels, 3).tolist() == [1, 1, 2, -1]


def part(tokens: torch.Tensor, masks: torch.Tensor) -> Features:
    rows = Rows.of(Held(tokens))
    return Features(
        torch.zeros(len(tokens), dtype=torch.int64), 2, "mean", {"mean": tokens.mean(1, keepdim=True)}, rows, rows,
        masks=masks,
    )  # fmt: skip


def test_knn_is_a_plain_loop() -> None:
    tokens, masks = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0)), drawn(3, 6)
    masks[0, :4, :4] = VOID
    x = part(tokens, masks)
    grid = Grid.of(x)
    bank, pixels = sample(x, grid, 1000, 0)
    assert len(bank) == 6 * 4 - 1  # the patch that is all void is none
    asked = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    found = Vote(bank, pixels, 3).maps(5)(asked)
    for i, query in enumerate(asked):
        sims = torch.stack([torch.cosine_similarity(query, other, dim=0) for other in bank])
        near = sims.topk(5).indices
        for r in range(4):
            for c in range(4):
                votes = [int((pixels[near, r, c] == k).sum()) for k in range(3)]
                assert int(found[i, r, c]) == votes.index(max(votes))


@pytest.mark.parametrize("head", ["logistic", "knn"])
def test_tokens_that_tell_the_class_give_it_back(head: str) -> None:
    """Each patch is of one class, its token says which: also mirrored, together with its mask."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(3, (40, 4), generator=generator)
    tokens = torch.eye(3)[kinds] + 0.05 * torch.randn(40, 4, 3, generator=generator)
    masks = Grid(2, 2, 4, 4).join(kinds[..., None, None].expand(-1, -1, 4, 4)).to(torch.uint8)
    one = protocol.load("dense:knn" if head == "knn" else "dense")
    x = part(tokens, masks)
    rows = torch.arange(40)
    found = one.fit(x.take(rows[:20]), x.take(rows[20:30]), 0).predict(x.take(rows[30:]).bare())
    assert score(found, masks[30:])["miou"] == 100.0
    mirrored = part(tokens[:, [1, 0, 3, 2]], masks.flip(2))
    again = one.fit(mirrored.take(rows[:20]), mirrored.take(rows[20:30]), 0).predict(mirrored.take(rows[30:]).bare())
    assert torch.equal(again, found.flip(2))


def test_masks_of_drawn_images_are_where_the_shape_is() -> None:
    values = np.array([1, 0, 0, 0.5, 0.5, 0.25, 0, 0], np.float32)  # an ellipse in the middle, a quarter wide
    mask = factors.mask(values)
    assert set(np.unique(mask)) == {0, 2} and mask[32, 32] == 2 and not mask[:16].any()
    assert (mask > 0).sum() == pytest.approx(np.pi * 16 * 16 * 0.55, rel=0.05)
    image = factors.draw(values, np.random.default_rng(0)).astype(int)
    red = image[..., 0] - image[..., 1] > 60
    assert (red != (mask > 0)).mean() < 0.01


def test_masks_follow_their_images_and_the_tests_are_sealed() -> None:
    data, test = open_data(SET), open_test(SET)
    assert test.masks is None and data.train.masks is not None and data.val.masks is not None
    truth = open_truth(SET)["masks"]
    assert truth.shape == (15, 32, 32) and truth.dtype == torch.uint8
    for split, masks in ((data.train, data.train.masks), (data.val, data.val.masks)):
        assert len(masks) == len(split)
        images = split.batch(np.arange(len(split))).float()
        assert ((masks > 0).flatten(1).any(1)).all()
        for image, mask, label in zip(images, masks, split.labels, strict=True):
            assert set(mask.unique().tolist()) == {0, int(label) + 1}
            bright = image.amax(0)
            assert bright[mask > 0].mean() > bright[mask == 0].mean() + 40


def test_a_mask_of_another_size_makes_an_image_unreadable() -> None:
    kind = square(8)
    item = Item(b"", "a", "here", mask=np.zeros((5, 4), np.uint8))
    assert kind.mask(item, ("RGB", (4, 5))).shape == (8, 8)
    with pytest.raises(Unreadable, match="4 x 5 pixels beside an image of"):
        kind.mask(item, ("RGB", (5, 4)))
    with pytest.raises(Unreadable, match="one class a pixel"):
        kind.mask(replace(item, mask=np.zeros((5, 4, 3), np.uint8)), ("RGB", (4, 5)))


def test_from_the_command_line(tmp_path: Path) -> None:
    for source in ("pixels", "random:toy_patch8"):
        done = CliRunner().invoke(
            cli,
            ["eval", source, "--protocol", "dense", "--protocol", "dense:knn", "--data", SET.name, "--image-size", "32",
             "--root", str(tmp_path)],
        )  # fmt: skip
        assert done.exit_code == 0, done.output
    found = records.read(tmp_path / "records")
    assert len(found) == 4 and all(0 < r.metrics["miou"] < 100 and r.headline == "miou" for r in found)


def test_sets_without_masks_are_refused_in_a_sentence(tmp_path: Path) -> None:
    line = ["eval", "pixels", "--protocol", "dense", "--image-size", "16", "--root", str(tmp_path)]
    done = CliRunner().invoke(cli, line)
    assert "scored by masks, which these images lack" in str(done.exception)


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(UserError, match="has no effect with head=knn"):
        DenseConfig("knn", strengths=(1.0,)).check()
    with pytest.raises(UserError, match="above 0"):
        DenseConfig(patches=0).check()
