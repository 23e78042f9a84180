"""Protocols on worlds: from a run, an image encoder and raw pixels to records; the same command, the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import tiny

from results import records
from ssl_bench.config.schema import DataConfig
from ssl_bench.data import rollouts
from ssl_bench.data.dataset import open_data
from ssl_bench.data.world import parse
from ssl_bench.encoders.from_run import from_run
from ssl_bench.errors import UserError
from ssl_bench.evaluation import features, latents, protocol, validate
from ssl_bench.evaluation.evaluate import evaluate, evaluate_all
from ssl_bench.evaluation.latents import mlp, ridge
from ssl_bench.evaluation.protocol import Features
from ssl_bench.models.dynamics import Dynamics
from ssl_bench.training.pretrain import pretrain
from ssl_bench.training.run_folder import Run

ROOMS = parse("two_room").world
DATA = DataConfig("two_room:60", image_size=24, val_fraction=0.2)
FEW = [
    "plan.episodes=4", "plan.cem.samples=8", "plan.cem.elites=2", "plan.cem.iterations=1", "fit.steps=4",
    "state.trajectories=20", "epochs=2", "surprise.events=20",
]  # fmt: skip
WORLDS = ["plan", "state", "rollout", "surprise"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return pretrain(tiny("lewm", "", steps=3), tmp_path_factory.mktemp("runs"))


def settings(name: str) -> list[str]:
    own = {"plan": ("plan.", "fit."), "state": ("state.", "epochs"), "rollout": ("epochs", "fit."),
           "surprise": ("surprise.", "fit.")}  # fmt: skip
    return [text for text in FEW if text.startswith(own[name])]


def measured(source: str, root: Path, seed: int = 0) -> dict[str, records.Record]:
    given = [f"{name}.{text.removeprefix(f'{name}.')}" for name in WORLDS for text in settings(name)]
    return {r.protocol: r for r in evaluate_all(source, WORLDS, DATA, root, seed, given)}


def test_a_run_keeps_its_dynamics_and_is_judged_by_them(run: Run):
    encoder = from_run(run)
    assert isinstance(encoder.dynamics, Dynamics) and encoder.frames == 0
    found = measured(run.name, run.folder.parent)
    plan = found["plan"]
    assert plan.selected["dynamics"] == "the run's own" and plan.selected["calls_per_decision"] == 40
    assert {"success", "near", "success_low", "near_at_start"} <= plan.metrics.keys()
    assert plan.metrics["success_oracle"] == plan.metrics["near_oracle"] == 100
    bits = plan.bits()
    assert bits is not None and plan.data["num_test"] == 4 and 100 * bits.mean() == plan.metrics["success"]
    assert {"position", "px", "px_mlp"} <= found["state"].metrics.keys()
    assert {"px5", "px40", "px40_copy", "latent40_still", "px10_seen", "distance"} <= found["rollout"].metrics.keys()
    assert found["rollout"].headline == "px40" and not found["rollout"].higher_is_better
    assert set(found["surprise"].metrics) == {"mean", "teleport", "colour", "wall"}
    assert all(r.compute["eval"]["scorer"] == "harness" for r in found.values())


def test_two_levels_cost_as_many_calls_as_one(tmp_path: Path):
    levels = pretrain(tiny("hjepa", "", steps=3), tmp_path)
    few = ["episodes=4", "cem.samples=8", "cem.elites=2", "cem.iterations=2"]
    two, one = (evaluate(levels.name, name, DATA, tmp_path, overrides=few) for name in ("plan", "plan:flat"))
    assert two.selected["levels"] == 2 and "levels" not in one.selected
    assert two.selected["calls_per_decision"] == one.selected["calls_per_decision"] == 80
    assert two.metrics["success_straight"] == one.metrics["success_straight"]
    with pytest.raises(UserError, match="iterations"):
        evaluate(levels.name, "plan", DATA, tmp_path, overrides=["cem.iterations=1"])
    told = evaluate(levels.name, "rollout", DATA, tmp_path, overrides=["epochs=2", "trajectories=20"])
    assert {"px5", "distance"} <= told.metrics.keys()


def test_planning_by_pixels_is_that_of_the_row_of_pixels(run: Run):
    few = ["episodes=4", "cem.samples=8", "cem.elites=2", "cem.iterations=1", "fit.steps=4"]
    own = evaluate(run.name, "plan:pixels", DATA, run.folder.parent, overrides=few)
    row = evaluate("pixels", "plan:brief", DATA, run.folder.parent, overrides=few)
    assert own.metrics == row.metrics and own.correct == row.correct
    assert own.selected["calls_per_decision"] == row.selected["calls_per_decision"]
    assert own.selected["dynamics"] == "fitted" and own.selected["seconds_far"] > 0
    with pytest.raises(UserError, match=r"fit\.rollout=99 .* need 100 frames, and a trajectory has \d+: set less"):
        evaluate("pixels", "surprise", DATA, run.folder.parent, overrides=["fit.rollout=99"])


def test_a_policy_acts_without_a_search(tmp_path: Path):
    learned = pretrain(tiny("actjepa", "", steps=3), tmp_path)
    few = ["episodes=4", "cem.samples=8", "cem.elites=2", "cem.iterations=1"]
    plan = evaluate(learned.name, "plan", DATA, tmp_path, overrides=few)
    assert plan.selected["policy"] == "the run's own" and plan.selected["calls_per_decision"] == 1
    assert plan.metrics["success_oracle"] == 100 and 0 <= plan.metrics["near"] <= 100
    again = evaluate(learned.name, "plan", DATA, tmp_path, overrides=few)
    assert again.metrics == plan.metrics and again.correct == plan.correct
    with pytest.raises(UserError, match="decides on 5 frames"):
        evaluate(learned.name, "plan", DATA, tmp_path, overrides=[*few, "cem.horizon=7", "cem.executed=6"])
    with pytest.raises(UserError, match="no levels"):
        evaluate(learned.name, "plan:flat", DATA, tmp_path, overrides=few)
    told = evaluate(learned.name, "rollout", DATA, tmp_path, overrides=["epochs=2", "fit.steps=4", "trajectories=20"])
    assert told.selected["dynamics"] == "fitted"


def test_the_same_command_gives_the_same_bits(run: Run):
    first, second = (measured(run.name, run.folder.parent) for _ in range(2))
    for name in WORLDS:
        assert first[name].metrics == second[name].metrics and first[name].correct == second[name].correct


@pytest.mark.parametrize("source", ["random:toy_patch8@24", "pixels"])
def test_who_has_no_dynamics_gets_one_on_frozen_features(source: str, tmp_path: Path):
    found = measured(source, tmp_path)
    assert {r.selected["dynamics"] for n, r in found.items() if n != "state"} == {"fitted"}
    assert found["plan"].metrics["success_true"] == measured(source, tmp_path)["plan"].metrics["success_true"]


def test_protocols_of_one_evaluation_share_the_fitted_dynamics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fits: list[int] = []

    def counted(x: Features, config: latents.FitConfig, seed: int) -> latents.Latents:
        fits.append(seed)
        return fit(x, config, seed)

    fit = latents.fit
    monkeypatch.setattr(latents, "fit", counted)
    together = measured("pixels", tmp_path)
    assert fits == [0]
    again = measured("pixels", tmp_path)  # another evaluation has other trajectories, though they are the same
    assert fits == [0, 0] and together["rollout"].metrics == again["rollout"].metrics
    alone = evaluate("pixels", "rollout", DATA, tmp_path, overrides=settings("rollout"))
    assert alone.metrics == together["rollout"].metrics
    assert measured("pixels", tmp_path, seed=1) and fits == [0, 0, 0, 1]


def test_a_damaged_dynamics_file_is_a_sentence(run: Run, tmp_path: Path):
    path = run.folder / "dynamics.safetensors"
    kept = path.read_bytes()
    try:
        path.write_bytes(kept[:-4] + b"\0\1\2\3")
        with pytest.raises(UserError, match="damaged"):
            from_run(run)
    finally:
        path.write_bytes(kept)


def test_a_protocol_on_worlds_wants_one(photos: Path, tmp_path: Path):
    with pytest.raises(UserError, match="needs trajectories of a world"):
        evaluate("pixels", "plan", DataConfig(f"folder:{photos}", image_size=24), tmp_path)


def test_protocols_of_images_see_the_first_frames(run: Run):
    record = evaluate(run.name, "knn", DATA, run.folder.parent)
    assert record.headline == "top1" and record.data["num_test"] == 15


@pytest.mark.parametrize(("setting", "says"), [
    ("cem.elites=1000", "elites"), ("cem.executed=9", "executed"), ("episodes=1", "episodes"),
    ("fit.dynamics.latent=8", "collapse"), ("levels=2", "learned one level"), ("levels=3", "levels"),
])  # fmt: skip
def test_settings_that_cannot_be_are_a_sentence(setting: str, says: str, tmp_path: Path):
    with pytest.raises(UserError, match=says):
        evaluate("pixels", "plan", DATA, tmp_path, overrides=[setting])


def test_no_setting_is_chosen_by_the_sealed_episodes(run: Run, monkeypatch: pytest.MonkeyPatch):
    asked = []
    inner = rollouts.episodes
    monkeypatch.setattr(rollouts, "episodes", lambda *given: asked.append(given[3]) or inner(*given))
    one = protocol.load("plan", [t.removeprefix("plan.") for t in settings("plan")])
    data, encoder = open_data(DATA), from_run(run)
    train, val = (
        features.of_part(encoder, data, split, name, run.folder.parent)
        for split, name in ((data.train, "train"), (data.val, "val"))
    )
    found, _ = validate.crossed(one, train, val, 0)
    assert {"success", "near"} <= found.keys() and asked and not any(asked)
    own, sealed = (rollouts.episodes(ROOMS, "far", 2, which).start[0, :2] for which in (False, True))
    assert own != pytest.approx(sealed)


def test_a_probe_is_not_carried_away_by_a_pixel_that_training_hardly_lit():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=rng)
    x[:, 5] = 0
    x[0, 5] = 1e-3
    y = x[:, :2] * 3 + 1
    new = torch.randn(50, 6, generator=rng)
    (weight, bias) = ridge(x, y, [1e-6])[0]
    assert (new @ weight + bias - (3 * new[:, :2] + 1)).abs().max() < 0.1
    assert (mlp(x, y, 0, epochs=60)(new) - (3 * new[:, :2] + 1)).abs().mean() < 4  # it was thousands
