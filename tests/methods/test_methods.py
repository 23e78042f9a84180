"""Held against every method in methods/ and every kind of item that it takes, found by listing the folder."""

from __future__ import annotations

import json
import typing
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from conftest import kinds_of, recipes_by_kind, tiny
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from methods.audiojepa import AudioJEPA
from methods.ijepa import IJEPA
from methods.vjepa import VJEPA
from methods.vjepa21 import PARTS, VJEPA21
from ssl_bench import find
from ssl_bench.config.from_file import from_dict
from ssl_bench.config.overrides import resolve
from ssl_bench.config.schema import BudgetConfig, identity, to_dict
from ssl_bench.data.dataset import open_data
from ssl_bench.errors import UserError
from ssl_bench.parallel.devices import processor
from ssl_bench.training import checkpoint
from ssl_bench.training.method import Method
from ssl_bench.training.run_folder import objective_type
from ssl_bench.training.train import Trainer, rehearse
from ssl_bench.views.masks3d import Masks

METHODS = find.names("methods")
EACH = [(method, kind) for method in METHODS for kind in kinds_of(method)]
LOSSES = Path(__file__).parents[1] / "golden_losses.json"


def trainer(method: str, photos: Path, kind: str = "", choice: str = "", **changes: Any) -> Trainer:
    config = resolve(tiny(method, f"folder:{photos}", kind=kind, **changes), [choice] if choice else [])
    return Trainer(config, open_data(config.data), torch.device("cpu"))


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_that_is_taken_has_a_recipe(method: str) -> None:
    """And none is for a kind that the method refuses."""
    assert recipes_by_kind(method).keys() == set(kinds_of(method))


@pytest.mark.parametrize(("method", "kind"), EACH)
def test_every_trained_parameter_gets_a_gradient_and_no_teacher_does(method: str, kind: str, photos: Path) -> None:
    t = trainer(method, photos, kind)
    t.train_step()  # opens gates that begin at zero
    images, labels, rng = t.batch(0)
    with torch.no_grad():
        views = t.method.views(images, rng, 0.5)
    if t.method.uses_labels:
        views["labels"] = labels
    t.method(views, 0.5)["loss"].backward()
    trained = {id(p) for group in t.optimizer.param_groups for p in group["params"]}
    for name, parameter in t.method.named_parameters():
        if parameter.requires_grad:
            assert id(parameter) in trained, f"{name} asks for a gradient but no optimizer group holds it"
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, f"{name} gets no gradient"
        else:
            assert parameter.grad is None, f"{name} is frozen and got a gradient"


def poisoned(t: Trainer, at: int) -> Trainer:
    """The same trainer; what the method looks at in step `at` is not a number."""

    def poison(module: torch.nn.Module, inputs: Any) -> Any:
        views = {k: v * torch.nan if v.is_floating_point() else v for k, v in inputs[0].items()}
        return (views, *inputs[1:]) if t.step == at else None

    t.method.register_forward_pre_hook(poison)
    return t


def advance(t: Trainer, steps: int) -> None:
    for _ in range(steps):
        try:
            t.train_step()
        except FloatingPointError:
            t.skip()


@pytest.mark.parametrize(("method", "kind"), EACH)
def test_restart_is_exact_also_right_after_a_skipped_step(method: str, kind: str, photos: Path, tmp_path: Path) -> None:
    def start() -> Trainer:
        return poisoned(trainer(method, photos, kind, run=replace(tiny(method, "").run, nan_skips=1)), at=2)

    whole, first, second = start(), start(), start()
    advance(whole, 6)
    advance(first, 3)
    checkpoint.save(tmp_path, first.state())
    state, _ = checkpoint.load(tmp_path)
    assert state is not None
    second.restore(state)
    advance(second, 3)
    assert whole.skipped == second.skipped == [3]
    for (name, a), b in zip(whole.method.state_dict().items(), second.method.state_dict().values(), strict=True):
        assert torch.isfinite(a).all(), f"{name} kept a trace of the skipped step"
        assert torch.equal(a, b), f"{name} differs after a restart"


@pytest.mark.parametrize("method", METHODS)
def test_recipes_round_trip_and_check(method: str) -> None:
    module = find.module("methods", method)
    recipes = find.recipes(module)
    published = find.defined(find.module("methods", method), Method).paper != "unpublished"
    assert {"small", "quick", *(["paper"] if published else [])} <= recipes.keys()
    for recipe in recipes.values():
        config = recipe().check()
        again = from_dict(type(config), json.loads(json.dumps(to_dict(config))), objective_type(module))
        assert again == config and identity(again) == identity(config)
        assert config.method == method


def choices(method: str) -> list[str]:
    """Every choice and switch of a method's objective but its default, as overrides that its small recipe takes."""
    config, out = tiny(method, ""), []
    hints = typing.get_type_hints(type(config.objective))
    for name, value in vars(config.objective).items():
        others = typing.get_args(hints[name]) if typing.get_origin(hints[name]) is Literal else ()
        for other in (str(not value),) if isinstance(value, bool) else [o for o in others if o != value]:
            with suppress(UserError):  # what does not go with the recipe's other settings
                changed = resolve(config, [text := f"objective.{name}={other}"])
                rehearse(changed)
                out.append(text)
    return out


@pytest.mark.parametrize(("method", "kind"), EACH)
def test_flops_agree_with_torch(method: str, kind: str, photos: Path) -> None:
    same_flops(method, kind, "", photos)


@pytest.mark.parametrize("method", METHODS)
def test_flops_of_every_choice_agree_with_torch(method: str, photos: Path) -> None:
    for choice in choices(method):
        same_flops(method, kinds_of(method)[0], choice, photos)


def same_flops(method: str, kind: str, choice: str, photos: Path) -> None:
    """Within 2 % of torch's counter: it counts matrix products only, and attention is explicit on the CPU here."""
    backbone = replace(tiny(method, "", kind=kind).backbone, embed_dim=96, depth=3)
    t = trainer(method, photos, kind, precision="fp32", backbone=backbone, choice=choice)
    images, labels, rng = t.batch(0)
    with torch.no_grad():
        views = t.method.views(images, rng, 0.5)
    if t.method.uses_labels:
        views["labels"] = labels
    if isinstance(t.method, (IJEPA, AudioJEPA)):  # its context and target sizes vary: count the ones that are seen here
        t.method.masks = lambda rng, at=0.5: (views["context"], views["targets"])  # type: ignore[method-assign]
    if isinstance(t.method, VJEPA):
        parts = Masks.__dataclass_fields__
        t.method.masks = lambda rng: [Masks(*(views[f"{part}_{i}"] for part in parts)) for i in (0, 1)]  # type: ignore[method-assign]
    if isinstance(t.method, VJEPA21) and kind == "clip":
        t.method.masks = lambda rng: [(views[PARTS[i]], views[PARTS[i + 1]]) for i in (0, 2)]  # type: ignore[method-assign]
    with FlopCounterMode(display=False) as counter:
        t.method(views, 0.5)["loss"].backward()
    counted = counter.get_total_flops() / len(images)
    assert t.method.flops() == pytest.approx(counted, rel=0.02), (
        f"{choice or 'recipe'}: formula {t.method.flops():.4g}, counted {counted:.4g}"
    )


@pytest.mark.parametrize("method", METHODS)
def test_class_attributes_say_what_it_is(method: str) -> None:
    cls = find.defined(find.module("methods", method), Method)
    assert all((cls.family, cls.paper, cls.sees, cls.evaluated)) and cls.pooling in ("cls", "mean")


@pytest.mark.parametrize("method", METHODS)
def test_every_recipe_says_what_leaves_the_paper(method: str) -> None:
    """Also in which views: where there are no local crops, the recipe's line says so, and `sees` names the paper's."""
    module = find.module("methods", method)
    recipes, sees = find.recipes(module), find.defined(module, Method).sees
    said = [name for names in module.DEPARTS for name in names.split(", ")]
    assert sorted(said) == sorted(recipes), "one line for every recipe, and none for others"
    for name, function in recipes.items():
        line, objective = find.departs(method, name), function().objective
        assert line and line.strip(" .") == line
        if (local := getattr(objective, "local_crops", None)) is not None:
            assert ("no local" in line or "no focal" in line) == (local == 0)
            assert local == 0 or f"paper: and {local} " in sees
        assert ("instance norm" in line) == getattr(objective, "instance_norm", False)


def test_a_row_is_named_by_its_objective() -> None:
    for method in ("ijepa", "cjepa", "iwm"):
        recipes = find.recipes(find.module("methods", method))
        for name, function in recipes.items():
            plain = name in ("paper", "quick_paper")
            row = find.row_name(method, to_dict(function().objective))
            assert row == (method if plain else f"{method} + instance norm")
    quick, paper = (find.recipe("ijepa", name)() for name in ("quick", "quick_paper"))
    assert replace(quick, objective=replace(quick.objective, instance_norm=False), recipe="quick_paper") == paper
    assert find.row_name("mae", {"instance_norm": True}) == "mae"
    assert find.departs("random", "quick") == "" == find.departs("no_such.module", "quick")


def ten_losses(method: str, kind: str, photos: Path) -> list[float]:
    """In double precision, where ten steps do not multiply what a processor rounds: weights, views and every draw are
    made in float32 as ever and then widened, and a `float()` in a method keeps what is wide."""
    t = trainer(method, photos, kind, precision="fp32", budget=BudgetConfig(batch_size=12, steps=10))
    t.method.double()
    views, losses = t.method.views, []
    with pytest.MonkeyPatch.context() as patch:

        def wide_views(*args: Any) -> Any:
            made = tree_map(lambda x: x.double() if x.is_floating_point() else x, views(*args))
            patch.setattr(Tensor, "float", Tensor.double)  # from here to the end of the step
            return made

        for _ in range(10):
            patch.setattr(t.method, "views", wide_views)
            losses.append(float(t.train_step()["loss"]))
            patch.undo()
    return losses


def stored_as(method: str, kind: str) -> str:
    """A method's name for the kind of its `quick`; with the kind for the others."""
    return method if kind == kinds_of(method)[0] else f"{method} {kind}"


@pytest.mark.parametrize(("method", "kind"), EACH)
def test_ten_losses_match_the_stored_ones(method: str, kind: str, photos: Path) -> None:
    """To the last bit where they were stored; within 1e-4 on another processor, whose kernels round differently.

    Anew, with the reason in the commit: python tests/store_losses.py
    """
    stored = json.loads(LOSSES.read_text())
    losses, known = ten_losses(method, kind, photos), stored["losses"][stored_as(method, kind)]
    if stored["where"] == where():
        assert losses == known
    else:
        # with scalar kernels a pixel of byol's falls on the other side of the threshold of solarisation: 1.3e-3
        assert losses == pytest.approx(known, rel=2e-3 if (method, kind) == ("byol", "image") else 1e-4)


def where() -> list[str]:
    return [torch.__version__, processor(), torch.backends.cpu.get_cpu_capability()]
