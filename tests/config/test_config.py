"""Typed settings, nearest-name errors, identity."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from ssl_bench import find
from ssl_bench.config.from_file import from_dict
from ssl_bench.config.overrides import override, resolve
from ssl_bench.config.reasons import explain, field_reasons, recipe_reasons
from ssl_bench.config.schema import Config, DataConfig, identity, to_dict
from ssl_bench.errors import UserError


def quick() -> Config:
    return find.module("methods", "ijepa").quick()


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("optim.lrr=1", r"Unknown setting 'optim.lrr'. Did you mean 'optim.lr'\?"),
        ("lr=1", r"Unknown setting 'lr'. Did you mean 'optim.lr'\?"),
        ("objective.target_scales=1,2", r"Did you mean 'objective.target_scale'\?"),
        ("optim.lr=fast", "optim.lr='fast' must be a number"),
        ("budget.batch_size=1.5", "budget.batch_size='1.5' must be a whole number"),
        ("objective.masking=multi", r"not a choice. Did you mean 'multiblock'\?"),
        ("objective.target_scale=0.1", "needs 2 comma-separated values"),
        ("objective.target_norm=maybe", "must be true or false"),
        ("optim.lr", "write key=value"),
        ("optim=1", "is a group: set one of optim.lr"),
        ("optim.lr.x=1", "has no settings below it"),
        ("method=mae", "chosen by --method"),
        ("budget.steps=-5", "budget.steps=-5 must be positive"),
        ("backbone=vit_smal", r"Unknown backbone 'vit_smal'. Did you mean 'vit_small'\?"),
        ("backbone.patch_size=7", "data.image_size=48 is not divisible by backbone.patch_size=7"),
        ("optim.clip_mode=tensor", "has no effect while optim.clip is 0"),
        ("budget.accumulate=5", "a multiple of accumulate=5"),
    ],
)
def test_wrong_settings_say_what_is_wrong(setting: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        resolve(quick(), [setting])


def test_settings_without_effect_are_refused() -> None:
    for settings in (
        ["objective.masking=random", "objective.targets=2"],
        ["objective.teacher=copy", "objective.momentum=0.9"],
    ):
        with pytest.raises(UserError, match="no effect"):
            resolve(quick(), settings)
    with pytest.raises(UserError, match="set twice"):
        resolve(quick(), ["seed=1", "seed=2"])
    with pytest.raises(UserError, match="exactly one"):
        resolve(quick(), ["budget.steps=3", "budget.epochs=2"])


def test_typed_values() -> None:
    config = resolve(quick(), [
        "optim.lr=1e-4", "objective.target_scale=0.1,0.2", "optim.weight_decay_end=none", "objective.target_norm=no",
        "backbone=vit_small_patch4", "budget.steps=10", "seed=3",
    ])  # fmt: skip
    assert (config.optim.lr, config.optim.weight_decay_end, config.seed) == (1e-4, None, 3)
    assert config.objective.target_scale == (0.1, 0.2) and config.objective.target_norm is False
    assert (config.backbone.embed_dim, config.backbone.patch_size) == (384, 4)
    assert (config.budget.steps, config.budget.flops) == (10, 0)


def leaves(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for f in fields(config):
        value = getattr(config, f.name)
        out += leaves(value, f"{prefix}{f.name}.") if is_dataclass(value) else [(prefix + f.name, value)]
    return out


def test_identity_covers_what_changes_the_result_and_nothing_else() -> None:
    base = quick()
    names = {identity(base)}
    for key, value in leaves(base):
        if key in ("method", "recipe", "method_version") or isinstance(value, (str, tuple)) or value is None:
            continue
        other = "false" if value is True else "true" if value is False else f"{value + 1}"
        changed = identity(override(base, [f"{key}={other}"]))
        if key.startswith("run."):
            assert changed == identity(base), f"{key} must not change the identity"
        else:
            assert changed not in names, f"{key} must change the identity"
            names.add(changed)
    assert identity(replace(base, recipe="other")) == identity(base)


def test_a_methods_version_is_part_of_the_identity_but_for_the_first() -> None:
    base = quick()
    assert "method_version" not in to_dict(base) and identity(replace(base, method_version=1)) == identity(base)
    second = replace(base, method_version=2)
    assert identity(second) != identity(base) and from_dict(Config, to_dict(second), type(base.objective)) == second
    with pytest.raises(UserError, match="is no setting: it is `version` in the method's file"):
        override(base, ["method_version=2"])


def test_every_setting_is_documented() -> None:
    for name in find.names("methods"):
        config = find.module("methods", name).quick()
        undocumented = [key for key, _, reason in explain(config, None) if not reason and key != "method"]
        assert not undocumented, f"{name}: no trailing comment for {undocumented}"


def test_recipe_comments_are_found() -> None:
    module = find.module("methods", "mae")
    assert recipe_reasons(module.paper)["lr"].startswith("blr 1.5e-4")
    assert "hidden" in field_reasons(module.MAEConfig)["mask_ratio"]


@pytest.mark.parametrize(("text", "said"), [
    ("optim.lr=nan", "number"), ("optim.beta1=1.5", "below 1"), ("optim.weight_decay=-1", "at least 0"),
    ("optim.weight_decay_end=-1", "at least 0"), ("budget.epochs=nan", "number"), ("budget.flops=inf", "number"),
    ("backbone.depth=0", "at least 1"), ("backbone.num_heads=0", "at least 1"), ("backbone.drop_path=2", "below 1"),
    ("backbone.patch_size=0", "at least 1"), ("run.log_every=0", "at least 1"), ("run.threads=-2", "at least 0"),
    ("monitor_points=-3", "at least 0"), ("run.bad_limit=-1", "at least 0"), ("backbone=toy_patch0", "Unknown"),
])  # fmt: skip
def test_numbers_outside_their_range_are_refused(text, said):
    with pytest.raises(UserError, match=said):
        resolve(find.recipe("mae", "quick")(), [text])


def numbers(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Every number of a config with its key."""
    found = [(f"{prefix}{f.name}", getattr(config, f.name)) for f in fields(config)]
    inner = [pair for key, value in found if is_dataclass(value) for pair in numbers(value, f"{key}.")]
    return inner + [(key, value) for key, value in found if type(value) in (int, float)]


@pytest.mark.parametrize("method", ["ijepa", "mae", "dino", "simclr", "audiojepa", "supervised", "pldm"])
def test_a_recipes_own_value_typed_is_the_same_run(method: str) -> None:
    """A recipe writes 100 where a typed 100 is 100.0; both are one row of a table."""
    for name, made in find.recipes(find.module("methods", method)).items():
        config, mixed = made(), 0
        for key, value in numbers(config):
            if key not in ("seed", "method_version"):
                mixed += type(value) is int
                assert identity(override(config, [f"{key}={value}"])) == identity(config), (name, key)
        assert mixed
        budget = next(k for k in ("epochs", "steps", "images", "flops", "hours") if getattr(config.budget, k))
        given = getattr(config.budget, budget)
        assert identity(resolve(config, [f"budget.{budget}={given}"])) == identity(config), name
        assert identity(resolve(config, [f"budget.{budget}={2 * given}"])) != identity(config), name


def test_a_folder_is_one_set_with_a_slash_at_its_end_or_without() -> None:
    one = identity(resolve(quick(), ["data.name=folder:/a/b"]))
    assert one == identity(resolve(quick(), ["data.name=folder:/a/b//"])) != identity(quick())
    assert (
        DataConfig("parquet:/a/#group=x/").name == "parquet:/a#group=x/" and DataConfig("folder:/").name == "folder:/"
    )
    assert DataConfig("factors:200").name == "factors:200"
