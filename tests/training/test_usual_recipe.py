"""Where no recipe is named, it is the method's for the items that are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ssl_bench import find
from ssl_bench.cli import main
from ssl_bench.data import items
from ssl_bench.errors import UserError
from ssl_bench.training.method import Method, configured


@pytest.mark.parametrize(
    ("method", "settings", "recipe"),
    [
        ("simclr", [], "small"),
        ("simclr", ["data.name=clothing48"], "small"),
        ("simclr", ["data.name=movingphotos:0:40"], "clips"),
        ("mae", ["seed=3", "data.name=fsdd30#folds=speaker"], "sound"),
        ("mae", ["data.name=folder:/nowhere#kind=points"], "points"),
        ("vjepa", ["data.name=movingphotos"], "clips"),
        ("mcjepa", ["data.name=movingphotos"], "small"),
        ("lewm", ["data.name=two_room"], "small"),
    ],
)
def test_the_recipe_of_the_items(method: str, settings: list[str], recipe: str) -> None:
    assert configured(method, "", settings).recipe == recipe
    assert configured(method, "quick", settings).recipe == "quick"


@pytest.mark.parametrize("method", find.names("methods"))
def test_every_kind_that_a_method_takes_has_its_recipe(method: str) -> None:
    module = find.module("methods", method)
    for kind in find.defined(module, Method).kinds:
        own = items.of_kind(kind).recipe
        assert own in find.recipes(module) or find.defined(module, Method).kinds == (kind,), (method, kind)


def test_clips_are_compared_without_a_word_of_recipes(tmp_path: Path) -> None:
    methods = "vjepa,videomae,ijepa,dino"
    asked = ("--methods", methods, "--protocols", "attentive,knn,linear", "--seeds", "1", "--dry-run")
    done = CliRunner().invoke(main.cli, ["compare", "--data", "movingphotos:0:40", *asked, "--root", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert all(f"{method} seed" in done.output for method in methods.split(",")), done.output


def test_a_recipe_of_images_says_which_is_meant(tmp_path: Path) -> None:
    for data, own in (("fsdd30", "sound"), ("ldraw16", "points"), ("movingphotos:0:40", "clips")):
        asked = ("--method", "simclr", "--recipe", "small", "--data", data, "--dry-run", "--root", str(tmp_path))
        with pytest.raises(UserError, match=f"--recipe {own} does so"):
            CliRunner().invoke(main.cli, ["pretrain", *asked], catch_exceptions=False)
