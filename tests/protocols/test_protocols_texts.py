"""Protocols on texts: what is counted as right, ranks of Codes, and a run from its first step to its records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny

from protocols.retrieve import RetrieveConfig
from ssl_bench.config.schema import BudgetConfig, DataConfig
from ssl_bench.data.dataset import open_data
from ssl_bench.encoders.from_run import from_run
from ssl_bench.errors import UserError
from ssl_bench.evaluation.evaluate import evaluate_all
from ssl_bench.evaluation.protocol import expand
from ssl_bench.evaluation.text_scorers import Found, Written
from ssl_bench.evaluation.validate import figures
from ssl_bench.models.texts import END
from ssl_bench.training.pretrain import pretrain

CODES = ["x+3", "x+3", "x+3", "y*z", "y*z", "x-y"]
SAID = ["x+3|", "3+x|", "x+3+", "y*z*|", "y", "x-y|z"]  # | is the end


def tokens(text: str, length: int) -> list[int]:
    ids = [END if c == "|" else ord(c) for c in text]
    return ids + [0] * (length - len(ids))


def test_exact_prefix_and_semantic_matches_are_told_apart():
    truth = torch.tensor([tokens(code, 5) for code in CODES], dtype=torch.float32)
    output = torch.tensor([tokens(said, 6) for said in SAID])
    scorer = Written("expressions")
    exact, prefix = scorer.right(output, truth)
    assert exact.tolist() == [True, False, False, False, False, True]
    assert prefix.tolist() == [True, False, True, True, False, True]
    assert scorer.bits(output, None, truth).tolist() == exact.tolist()
    found = scorer(output, truth, 3)
    assert found == pytest.approx({
        "exact": 100 * 2 / 6, "prefix": 100 * 4 / 6, "ended": 100 * 4 / 6, "semantic": 100 * 3 / 6,
    })  # fmt: skip
    assert "semantic" not in Written()(output, truth, 3)
    with pytest.raises(UserError, match="an end may be needed"):
        scorer(output[:, :5], truth, 3)


def test_a_code_that_fills_its_places_needs_its_end():
    truth = torch.tensor([tokens("x+3", 3)], dtype=torch.float32)
    for said, right in (("x+3|", 100.0), ("x+3+", 0.0)):
        assert Written("expressions")(torch.tensor([tokens(said, 4)]), truth, 3)["exact"] == right


def test_ranks_of_the_true_code_against_a_plain_loop():
    truth = torch.tensor([tokens(code, 5) for code in CODES], dtype=torch.float32)
    names = sorted(set(CODES))
    similar = torch.tensor([[1, 9, 2], [5, 5, 1], [9, 1, 5], [1, 2, 3], [2, 3, 3], [1, 1, 1]]) / 10
    ranks = []
    for row, code in zip(similar.tolist(), CODES, strict=True):
        own = row[names.index(code)]
        ties = sum(v == own for v in row) - 1
        ranks.append(1 + sum(v > own for v in row) + ties / 2)
    found = Found((1, 2))(similar, truth, 3)
    assert found["r@1"] == pytest.approx(100 * np.mean([r == 1 for r in ranks]))
    assert found["r@2"] == pytest.approx(100 * np.mean([r <= 2 for r in ranks]))
    assert found["mrr"] == pytest.approx(100 * np.mean([1 / r for r in ranks]))
    assert found["chance"] == pytest.approx(100 / 3)
    assert Found().bits(similar, None, truth).tolist() == [r == 1 for r in ranks]
    with pytest.raises(UserError, match="is needed"):
        Found()(similar[:, :2], truth, 3)


@pytest.mark.parametrize(("settings", "why"), [
    ({"ks": (5,)}, "1 among them"), ({"readouts": ("las",)}, "Did you mean 'last'"), ({"readouts": ()}, "empty"),
])  # fmt: skip
def test_settings_that_say_nothing_are_refused(settings, why):
    with pytest.raises(UserError, match=why):
        RetrieveConfig(**settings).check()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned forty short pairs by heart, and knows next to nothing of others."""
    folder = tmp_path_factory.mktemp("texts")
    config = tiny("llmjepa", "", precision="fp32", budget=BudgetConfig(batch_size=24, steps=30))
    pretrain(replace(config, data=DataConfig("expressions:120", image_size=14, val_fraction=0.2)), folder)
    return folder


def test_a_run_is_evaluated_in_every_way_that_texts_have(root: Path):
    run = next(p for p in root.iterdir() if (p / "encoder.json").exists())
    data = DataConfig("expressions:120", image_size=14, val_fraction=0.2)
    names = ["generate", "retrieve", "knn", "linear"]
    found = {r.protocol: r for r in evaluate_all(str(run), names, data, root)}
    assert found["generate"].metrics.keys() >= {"exact", "prefix", "ended", "semantic"}
    for name, headline in (("generate", "exact"), ("retrieve", "r@1")):
        bits = found[name].bits()
        assert len(bits) == 30 and 100 * bits.mean() == pytest.approx(found[name].metrics[headline])
    assert found["retrieve"].metrics["chance"] == pytest.approx(100 / 30)
    assert found["retrieve"].metrics["r@10"] >= found["retrieve"].metrics["r@1"]
    assert found["retrieve"].selected["readout"] in RetrieveConfig().readouts
    assert all(r.compute["eval"]["scorer"] == "harness" for r in found.values())


def test_raw_input_and_an_untrained_network_have_rows_too(root: Path):
    run = next(p for p in root.iterdir() if (p / "encoder.json").exists())
    data = DataConfig("expressions:120", image_size=14, val_fraction=0.2)
    for source in ("counts", "pixels", f"random:{run.name}"):
        made = {r.protocol: r for r in evaluate_all(source, ["generate", "retrieve"], data, root)}
        assert made["generate"].metrics["exact"] == 0
        assert 0 <= made["retrieve"].metrics["r@1"] < 50


def test_what_needs_random_views_is_left_out_or_refused(root: Path):
    """A view made as for clouds of points would be a number that means nothing."""
    run = next(p for p in root.iterdir() if (p / "encoder.json").exists())
    data = DataConfig("expressions:120", image_size=14, val_fraction=0.2)
    (found,) = evaluate_all(str(run), ["labelfree"], data, root)
    assert "lidar" not in found.metrics and found.metrics["rankme"] > 1
    for name, why in (("finetune", "finetune needs images or .*pairs of texts"), ("robust", "leave 'robust' out")):
        with pytest.raises(UserError, match=why):
            list(evaluate_all(str(run), [name], data, root))


def test_the_validation_part_is_judged_the_same_way(root: Path):
    from ssl_bench.training.run_folder import find_run

    run = next(p for p in root.iterdir() if (p / "encoder.json").exists())
    found = figures(find_run(root, run.name), ["generate", "retrieve"], root)
    assert set(found) == {"generate", "retrieve"} and 0 <= found["retrieve"]["value"] <= 100


def test_the_mean_leaves_padding_out_and_code_unread(root: Path):
    run = next(p for p in root.iterdir() if (p / "encoder.json").exists())
    from ssl_bench.training.run_folder import find_run

    encoder = from_run(find_run(root, run.name))
    data = open_data(DataConfig("expressions:120", image_size=14, val_fraction=0.2))
    pairs = data.train.batch(slice(0, 8))
    found = encoder.encode(pairs, 1, want_tokens=True)
    for tokens_, mean, pair in zip(found["tokens"], found["mean"][:, -1], pairs, strict=True):
        n = int((pair[0] != 0).sum())
        assert (tokens_[n:] == 0).all() and (tokens_[:n] != 0).any(1).all()
        torch.testing.assert_close(mean, tokens_[:n].mean(0))
    pairs[:, 1] = 0
    assert torch.equal(encoder.encode(pairs, 1)["mean"], found["mean"])


def test_protocols_of_texts_are_no_part_of_all_and_refuse_other_sets(photos: Path, tmp_path: Path):
    assert not {"generate", "retrieve"} & set(expand(["all"]))
    for name in ("generate", "retrieve"):
        with pytest.raises(UserError, match=f"{name} needs pairs of texts"):
            list(evaluate_all("pixels", [name], DataConfig(f"folder:{photos}", 24), tmp_path))
    with pytest.raises(UserError, match="factors probes known factors"):
        list(evaluate_all("pixels", ["factors"], DataConfig("expressions:120", 14), tmp_path))
