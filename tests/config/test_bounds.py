"""Numbers of an objective that cannot be: one sentence that names the setting, before anything runs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass

import pytest
import torch
from conftest import tiny

from ssl_bench import find
from ssl_bench.config.bounds import refuse_negative, zeros
from ssl_bench.config.overrides import resolve
from ssl_bench.config.schema import BudgetConfig, Config
from ssl_bench.data.dataset import open_data
from ssl_bench.errors import UserError
from ssl_bench.training.train import Trainer, rehearse
from ssl_bench.views.crops import enlarged


@dataclass(frozen=True)
class Inner:
    weight: float = 1.0


@dataclass(frozen=True)
class Objective:
    inner: Inner = Inner()
    heads: int = 4
    shift: float = -1.0  # may be negative, as its default is


def numbers(method: str) -> list[str]:
    objective = tiny(method, "").objective
    found = [f for f in fields(objective) if not is_dataclass(getattr(objective, f.name))]
    return [f.name for f in found if type(getattr(objective, f.name)) in (int, float)]


@pytest.mark.parametrize("method", find.names("methods"))
def test_no_number_of_an_objective_may_be_negative(method: str) -> None:
    """`predictor_depth=-1` counted fewer FLOPs than were spent, `momentum=-1` was another objective."""
    for name in numbers(method):
        with pytest.raises(UserError):
            resolve(tiny(method, ""), [f"objective.{name}=-1"])


@pytest.mark.parametrize("method", find.names("methods"))
def test_a_number_of_zero_is_taken_or_refused_in_one_sentence(method: str) -> None:
    for name in numbers(method):
        with suppress(UserError):
            rehearse(resolve(tiny(method, ""), [f"objective.{name}=0"]))


def test_what_is_negative_is_named_also_within_a_group() -> None:
    refuse_negative("objective.", Objective())
    refuse_negative("objective.", Objective(shift=-2.0))
    with pytest.raises(UserError, match=r"objective\.inner\.weight=-0\.5 must be at least 0\."):
        Config("mae", Objective(Inner(-0.5)), budget=BudgetConfig(steps=1)).check()


def test_a_zero_that_cannot_be_divided_by_is_named() -> None:
    assert zeros(Objective(), Objective()) == "" and zeros(Objective(heads=0), Objective()) == "objective.heads=0"
    assert zeros(Objective(heads=0), Objective(heads=0)) == ""
    with pytest.raises(UserError, match=r"objective\.decoder_heads=0 must be at least 1"):
        resolve(tiny("mae", ""), ["objective.decoder_heads=0"])
    with pytest.raises(UserError, match=r"'simmim' cannot be trained with objective\.mask_size=0"):
        rehearse(resolve(tiny("simmim", ""), ["objective.mask_size=0"]))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("method", "number"),
    [("byol", "hidden"), ("vjepa", "short_blocks"), ("dino", "student_temperature")],
)
def test_a_zero_that_only_the_first_step_tells_is_named(method: str, number: str) -> None:
    config = resolve(tiny(method, "clothing48"), [f"objective.{number}=0"])
    rehearse(config)
    trainer = Trainer(config, open_data(config.data), torch.device("cpu"))
    with pytest.raises(UserError, match=rf"'{method}' cannot be trained with objective\.{number}=0"):
        trainer.train_step()


def test_a_step_that_may_be_skipped_is_blamed_on_nothing() -> None:
    config = resolve(tiny("dino", "clothing48"), ["objective.student_temperature=0", "run.nan_skips=1"])
    trainer = Trainer(config, open_data(config.data), torch.device("cpu"))
    with pytest.raises(FloatingPointError):
        trainer.train_step()


def test_a_failure_that_no_zero_explains_stays_what_it_is() -> None:
    config = tiny("mae", "clothing48")
    trainer = Trainer(config, open_data(config.data), torch.device("cpu"))
    trainer.method.forward = lambda views, at: 1 / 0  # type: ignore[method-assign, assignment, misc]
    with pytest.raises(ZeroDivisionError):
        trainer.train_step()


def test_a_warm_up_of_zero_starts_at_the_end() -> None:
    config = resolve(tiny("dino", "clothing48"), ["objective.temperature_warmup=0"])
    trainer = Trainer(config, open_data(config.data), torch.device("cpu"))
    assert trainer.train_step()["loss"].isfinite()
    assert trainer.method.teacher_temperature(0.01) == config.objective.teacher_temperature_end


def test_crops_of_no_pixels_are_refused() -> None:
    with pytest.raises(UserError, match=r"objective\.crop_size=0 must be a multiple of backbone\.patch_size=6"):
        rehearse(resolve(tiny("simclr", ""), ["objective.crop_size=0"]))


def test_views_larger_than_the_images_are_told() -> None:
    """SimCLR's quick recipe cuts 48 px also from the 32 px of CIFAR-10: 2.2 times fewer images for the same FLOPs."""
    config = resolve(find.recipe("simclr", "quick")(), ["data.image_size=32", "backbone=mini_patch4"])
    assert ["objective.crop_size=32" in told and "2.2 times" in told for told in enlarged(config, "image")] == [True]
    assert not enlarged(config, "points")  # a crop of those is a number of points
    assert not any(enlarged(find.recipe(m, "quick")(), "image") for m in find.names("methods"))


def test_masks_that_become_impossible_on_the_way_are_refused_at_the_start() -> None:
    with pytest.raises(UserError, match="A block's scale must be positive"):
        rehearse(resolve(tiny("ajepa", ""), ["objective.hard_scale=0,0"]))
    with pytest.raises(UserError, match=r"'ijepa' cannot be trained on .*official sampler"):
        rehearse(resolve(find.recipe("ijepa", "quick")(), ["objective.masking=official"]))
