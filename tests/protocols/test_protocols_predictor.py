"""What is asked of a predictor that a run has kept: its fine-tuning on the frozen encoder, and `mrr`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from built import TINY
from conftest import tiny

from methods import iwm
from protocols.mrr import MRR, MRRConfig, always_jittered
from ssl_bench.config.schema import to_dict
from ssl_bench.data.dataset import Split
from ssl_bench.data.images import square
from ssl_bench.encoders.encoder import Encoder
from ssl_bench.encoders.from_run import from_run
from ssl_bench.errors import UserError
from ssl_bench.evaluation import features
from ssl_bench.evaluation.evaluate import evaluate_all
from ssl_bench.evaluation.protocol import Features, expand, load
from ssl_bench.evaluation.scorers import Ranks, classification, ranks
from ssl_bench.evaluation.tuned import PredictorClassifier
from ssl_bench.models.kept import ActionPredictor
from ssl_bench.models.vit import ViT
from ssl_bench.training import run_folder
from ssl_bench.training.pretrain import pretrain

NONE = torch.empty(0)
SIZE = 36


def encoder(**objective: object) -> Encoder:
    """An untrained encoder with an untrained predictor, as a run of iwm would leave them."""
    torch.manual_seed(0)
    model = ViT(TINY, square(SIZE))
    settings = to_dict(replace(iwm.quick().objective, **objective))
    facts = {"dim": 16, "depth": 2, "heads": 2, "out": 32, "actions": 7, "objective": settings}
    kept = ActionPredictor.of(model, facts)
    return Encoder("iwm", model, "mean", False, TINY.depth, SIZE, (0.5,) * 3, (0.25,) * 3, "none", "made", kept=kept)


def coloured(n: int, seed: int) -> Split:
    """Images whose class is their colour."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = rng.integers(0, 120, (n, 3, SIZE, SIZE), dtype=np.uint8)
    images[np.arange(n), labels] += 120
    return Split(images, np.arange(n), torch.from_numpy(labels))


@pytest.fixture
def parts(tmp_path: Path) -> list[Features]:
    made = encoder()
    return [features.extract(made, coloured(n, s), str(s), "colour", 3, tmp_path) for s, n in enumerate((90, 30, 45))]


def test_ranks_and_their_mean_golden():
    distances = torch.tensor([[1.0, 2, 3, 4], [3, 2, 1, 4], [2, 2, 2, 2], [1, 1, 5, 0]])
    assert ranks(distances).tolist() == [1, 3, 2.5, 2.5]  # equal ones share their mean rank
    found = Ranks()(distances, NONE, 0)
    assert found["mrr"] == pytest.approx(100 * (1 + 1 / 3 + 1 / 2.5 + 1 / 2.5) / 4)
    assert found["first"] == 25 and found["chance"] == pytest.approx(100 * (25 / 12) / 4)


def test_mrr_of_a_predictor_that_ignores_its_actions_is_that_of_ties(parts: list[Features]):
    for p in parts[0].encoder.predictor.action.parameters():
        p.data.zero_()
    output = MRR(MRRConfig(candidates=8)).fit(parts[0], parts[1], 0).predict(parts[2])
    assert output.shape == (45, 8)
    assert Ranks()(output, NONE, 0)["mrr"] == pytest.approx(100 * 2 / 9)


class Knowing(torch.nn.Module):
    """Answers 0, which is its target, plus `sign` times how far the action is from the first that it was asked of."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign, self.true = sign, None

    def target(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(tokens)

    def forward(self, context, keep, targets, actions):
        self.true = actions if self.true is None else self.true
        off = 10 + self.sign * (actions - self.true).norm(dim=1)
        return off[:, None, None, None].expand(*targets.shape, context.shape[-1])


@pytest.mark.parametrize(("sign", "expected"), [(1.0, 100.0), (-1.0, 100 / 8)])
def test_mrr_is_of_the_true_action(parts: list[Features], sign: float, expected: float):
    one = MRR(MRRConfig(candidates=8)).fit(parts[0], parts[1], 0)
    one.kept = Knowing(sign)
    assert Ranks()(one.predict(parts[2]), NONE, 0)["mrr"] == pytest.approx(expected)


def test_mrr_measures_the_distance_to_the_unchanged_image(parts: list[Features]):
    """The first column, made again with what an image goes through one by one; the same numbers every time."""
    one = MRR(MRRConfig(candidates=3)).fit(parts[0], parts[1], 0)
    made = parts[0].encoder
    kept, asked = made.predictor, []
    one.kept = Asked(kept, asked)
    items = parts[2].items.batch(np.arange(4))
    found = one.distances(items, 0)
    context, keep, targets, actions = asked[0]
    tokens = made.model(made.prepare(items))[:, made.model.num_prefix :]
    for i in range(4):
        place = targets[i].flatten()
        each = F.instance_norm(tokens[i : i + 1].mT).mT[0]
        wanted = F.layer_norm(each[place], (32,))
        predicted = kept(context[i : i + 1], keep[i : i + 1], targets[i : i + 1], actions[i : i + 1]).flatten(0, 2)
        assert float(found[i, 0]) == pytest.approx((predicted - wanted).square().mean().item(), rel=1e-4)
        assert not set(keep[i].tolist()) & set(place.tolist())
    assert len(asked) == 3 and torch.equal(one.distances(items, 0), found)


class Asked(torch.nn.Module):
    """Another predictor, and what it is asked."""

    def __init__(self, kept: ActionPredictor, asked: list[tuple[torch.Tensor, ...]]) -> None:
        super().__init__()
        self.kept, self.asked, self.target = kept, asked, kept.target

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.asked.append(inputs)
        return self.kept(*inputs)


def test_every_image_has_an_action_of_its_own():
    look = always_jittered(to_dict(iwm.quick().objective))
    assert look.jitter_p == 1 and look.flip == 0 and look.brightness == iwm.PHOTOMETRIC.brightness


def test_mrr_wants_latent_tokens():
    with pytest.raises(UserError, match="latent tokens"):
        MRR(MRRConfig()).fit(Features(NONE, 3, "mean", {}, None, encoder=encoder(target="pixels")), None, 0)


@pytest.mark.parametrize("name", ["finetune:predictor", "finetune:fresh_predictor"])
def test_fine_tuning_the_predictor_learns_and_leaves_the_encoder(parts: list[Features], name: str):
    one = load(name, ["epochs=4", "warmup_epochs=1", "batch_size=16", "blr=2e-2"])
    made = parts[0].encoder
    before = {k: v.clone() for part in (made.model, made.predictor) for k, v in part.state_dict().items()}
    tuned = one.fit(parts[0], parts[1], 0)
    scores = tuned.predict(parts[2])
    assert classification(scores, parts[2].labels, 3)["top1"] > 60
    after = {k: v for part in (made.model, made.predictor) for k, v in part.state_dict().items()}
    assert all(torch.equal(after[k], v) for k, v in before.items())
    trained = {n for n, p in tuned.model.named_parameters() if p.requires_grad}
    assert all(n.startswith(("net.predictor.", "net.action.", "fc_norm.", "head.")) for n in trained)
    assert torch.equal(one.fit(parts[0], parts[1], 0).predict(parts[2]), scores)


def test_learned_begins_where_pretraining_ended_and_fresh_does_not():
    made = encoder()
    torch.manual_seed(5)
    learned, fresh = (PredictorClassifier(made, 0.0, start, 3) for start in ("learned", "fresh"))
    weight = made.predictor.predictor.embed.weight
    assert torch.equal(learned.net.predictor.embed.weight, weight)
    assert fresh.net.predictor.embed.weight.shape == weight.shape
    assert not torch.equal(fresh.net.predictor.embed.weight, weight)


def test_a_run_of_iwm_keeps_its_predictor(photos: Path, tmp_path: Path):
    run = pretrain(tiny("iwm", f"folder:{photos}", steps=3), tmp_path)
    made = from_run(run)
    assert made.predictor is not None and made.predictor.facts["objective"]["augment"]["jitter_p"] == 0.8
    assert made.entry["predictor_sha256"] != made.entry["weights_sha256"]
    (record,) = evaluate_all(run.name, ["mrr"], run.config().data, tmp_path, overrides=["candidates=4"])
    assert record.headline == "mrr" and record.metrics["chance"] == pytest.approx(100 * (25 / 12) / 4)
    assert record.compute["eval"]["scorer"] == "harness" and not record.correct
    for file in ("predictor.json", "predictor.safetensors"):  # as a run from before it was kept
        (run.folder / file).unlink()
    meta = run.read_json("encoder.json")
    run_folder.write_json(run.folder / "encoder.json", {k: v for k, v in meta.items() if k not in ("kept", "seal")})
    for name in ("mrr", "finetune:predictor"):
        with pytest.raises(UserError, match="'iwm' has no predictor beside its encoder"):
            list(evaluate_all(run.name, [name], run.config().data, tmp_path))


def test_what_few_encoders_have_is_no_part_of_all():
    assert "mrr" not in expand(["all"])
