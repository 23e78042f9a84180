"""Settings of protocols that cannot be: one sentence that names setting, value and what is valid, before any work."""

from __future__ import annotations

import subprocess
import sys
import typing
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from fake_features import part

from protocols.attentive import AttentiveConfig, Probes
from protocols.labelfree import LabelFree, LabelFreeConfig
from ssl_bench import find
from ssl_bench.config.bounds import refuse_impossible
from ssl_bench.config.schema import bounded, to_dict
from ssl_bench.errors import UserError
from ssl_bench.evaluation.features import Held
from ssl_bench.evaluation.protocol import Features, Protocol, Rows, load, variants

REFUSED = [
    ("lowshot", "shots=-5", "lowshot.shots=-5 must be at least 1."),
    ("lowshot", "shots=5,0", "lowshot.shots=5,0 must each be at least 1."),
    ("lowshot", "percents=500", "lowshot.percents=500.0 must be above 0 and at most 100."),
    ("lowshot", "shots= percents=", "lowshot needs shots or percents, and both are empty."),
    ("lowshot", "penalty=0", "penalty=0 must be above 0, but 0 with solver=finetune, which has none."),
    ("lowshot:finetune", "finetune.blr=0", "lowshot.finetune.blr=0.0 must be above 0."),
    ("retrieval", "ks=-3", "retrieval.ks=-3 must be at least 1."),
    ("retrieval", "ks=0", "retrieval.ks=0 must be at least 1."),
    ("retrieval", "ks=", "retrieval.ks is empty: it needs a value, as in retrieval.ks=1,5,10."),
    ("attentive", "epochs=0", "attentive.epochs=0 must be at least 1."),
    ("attentive", "lrs=-1", "attentive.lrs=-1.0 must be above 0."),
    ("attentive:aim", "lrs=", "attentive.lrs is empty: it needs a value, as in attentive.lrs=0.0003,0.001,0.003."),
    ("attentive", "batch_size=0", "attentive.batch_size=0 must be at least 1."),
    ("attentive", "warmup=1", "attentive.warmup=1.0 must be at least 0 and below 1."),
    ("knn", "also=", "knn.also is empty: it needs a value, as in knn.also=1,5,10,20,50,100,200."),
    ("knn", "temperature=0", "knn.temperature=0.0 must be above 0."),
    ("finetune", "randaugment=rand-k9", "randaugment=rand-k9 is none of timm's, such as rand-m9-mstd0.5-inc1."),
    ("labelfree", "images=2", "labelfree.images=2 must be at least 3."),
    ("labelfree", "lidar_views=1", "labelfree.lidar_views=1 must be at least 2."),
    ("labelfree", "lidar_images=1", "lidar_images=1 has no covariance between images: set 2 or more, or 0 for none."),
    ("labelfree", "fit_from=49", "fit_from=49 must be at least 3 below fit_to=50."),
    ("finetune", "blr=-1", "finetune.blr=-1.0 must be above 0."),
    ("finetune", "batch_size=1", "finetune.batch_size=1 must be at least 2."),
    ("finetune", "drop_path=1", "finetune.drop_path=1.0 must be at least 0 and below 1."),
    ("finetune:predictor", "drop_path=1", "finetune.drop_path=1.0 must be at least 0 and below 1."),
    ("finetune", "crop_scale=0.9,0.1", "crop_scale=(0.9, 0.1) must be positive and in order, at most 1."),
    ("linear:mae", "heads.lrs=0.1,0", "linear.heads.lrs=0.1,0.0 must each be above 0."),
    ("linear:mae", "pooling=", "linear.pooling is empty: it needs a value, as in linear.pooling=cls,mean,both."),
    ("robust", "linear.strengths=0", "robust.linear.strengths=0 must be at least 1."),
    ("robust", "linear.svm=0.012", "linear.svm=0.012 reads tokens, which robust has none of: leave it out."),
    ("anticipate", "linear.svm=1", "linear.svm and linear.augment read whole clips, not beginnings: leave them out."),
    ("plan", "fit.lr=0", "plan.fit.lr=0.0 must be above 0."),
]  # fmt: skip
TAKEN = [  # zeros that mean something, and what may be empty
    ("attentive", "clip=0 weight_decays=0"), ("dense", "images=0"), ("dense:linear", "weight_decay=0"),
    ("finetune", "warmup_epochs=0 min_lr=0 smoothing=0 drop_path=0 weight_decay=0 layer_decay=1"),
    ("finetune", "warmup_epochs=0.5"), ("lowshot", "shots="), ("lowshot", "percents=100"), ("foresight", "horizons="),
    ("linear:mae", "heads.momentum=0"),
    ("finetune", "randaugment=rand-m10-n16-mstd0.5-inc1-p0.3"),
    ("labelfree", "lidar_images=0"), ("clustering", "clusters=3"),
]  # fmt: skip


@dataclass(frozen=True)
class Inner:
    weights: tuple[float, ...] = (0.0, 0.1)
    layers: tuple[str, ...] = ("last",)


@dataclass(frozen=True)
class Settings:
    inner: Inner = Inner()
    epochs: int = 3
    rate: float = 0.1
    warmup: float = 0.0
    shift: float = -1.0  # may be negative, as its default is
    clip: float = bounded(1.0, least=0)
    share: float = bounded(0.5, most=1)
    names: tuple[int, ...] = ()
    on: bool = True


def every() -> list[str]:
    found = {name: variants(find.module("protocols", name)) for name in find.names("protocols")}
    return [text for name, own in found.items() for text in (name, *(f"{name}:{variant}" for variant in own))]


def config(name: str) -> Any:
    """The settings of a protocol or variant, unchecked."""
    base, _, variant = name.partition(":")
    module = find.module("protocols", base)
    return (variants(module).get(variant) or typing.get_type_hints(find.defined(module, Protocol))["config"])()


def leaves(settings: Any, prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for f in fields(settings):
        value = getattr(settings, f.name)
        out |= leaves(value, f"{prefix}{f.name}.") if is_dataclass(value) else {f"{prefix}{f.name}": value}
    return out


@pytest.mark.parametrize(("name", "settings", "sentence"), REFUSED)
def test_what_cannot_be_is_one_sentence(name: str, settings: str, sentence: str) -> None:
    """They were numbers in records (`shots-5`, r@-3 of 100 %, a head that nobody trained), or tracebacks."""
    with pytest.raises(UserError) as told:
        load(name, settings.split())
    assert str(told.value) == sentence


@pytest.mark.parametrize(("name", "settings"), TAKEN)
def test_what_means_something_is_taken(name: str, settings: str) -> None:
    load(name, settings.split())


@pytest.mark.parametrize("name", every())
def test_what_is_committed_passes_as_it_is(name: str) -> None:
    usual = config(name)
    refuse_impossible("", usual)
    if name != "lowshot:imagenet":  # reads lists that are not in the repository
        assert to_dict(load(name).config) == to_dict(usual)


@pytest.mark.parametrize("name", find.names("protocols"))
def test_no_number_of_any_protocol_may_be_negative(name: str) -> None:
    """Nor may a tuple that has values have none, but where an own sentence tells what is missing."""
    for key, value in leaves(config(name)).items():
        numbers = [x for x in (value if isinstance(value, tuple) else (value,)) if type(x) in (int, float)]
        if numbers:
            bad = ",".join("-1" for _ in numbers)
            with pytest.raises(UserError, match=rf"^{name}\.{key}=-1.* must .*be (at least|above) "):
                load(name, [f"{key}={bad}"])
        if isinstance(value, tuple) and value and key not in ("shots", "percents"):
            with pytest.raises(UserError, match=rf"{key}.* (is empty|needs)"):
                load(name, [f"{key}="])


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"epochs": 0}, "x.epochs=0 must be at least 1."),
    ({"rate": 0.0}, "x.rate=0.0 must be above 0."),
    ({"rate": float("nan")}, "x.rate=nan must be above 0."),
    ({"warmup": -0.1}, "x.warmup=-0.1 must be at least 0."),
    ({"clip": -1.0}, "x.clip=-1.0 must be at least 0."),
    ({"share": 1.5}, "x.share=1.5 must be above 0 and at most 1."),
    ({"inner": Inner((0.1, -0.1))}, "x.inner.weights=0.1,-0.1 must each be at least 0."),
    ({"inner": Inner(layers=())}, "x.inner.layers is empty: it needs a value, as in x.inner.layers=last."),
])  # fmt: skip
def test_the_default_says_what_is_possible(changes: dict[str, Any], sentence: str) -> None:
    """Of anybody's protocol: the rule knows no names."""
    refuse_impossible("x.", Settings())
    refuse_impossible("x.", Settings(shift=-3.0, clip=0.0, share=1.0, names=(-1,), on=False, rate=1e9))
    with pytest.raises(UserError) as told:
        refuse_impossible("x.", replace(Settings(), **changes))
    assert str(told.value) == sentence


def test_the_command_tells_it_without_a_traceback() -> None:
    asked = [sys.executable, "-m", "ssl_bench", "eval", "pixels", "--protocol", "lowshot", "--set", "shots=-5"]
    done = subprocess.run(asked, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (2, "error: lowshot.shots=-5 must be at least 1.")


def with_tokens(n: int) -> Features:
    return replace(part(n), tokens=Rows.of(Held(torch.randn(n, 4, 16))))


def test_what_only_the_features_tell_is_refused_there() -> None:
    with pytest.raises(UserError, match=r"attentive\.num_heads=3 must divide the 16 dimensions of a token"):
        Probes(AttentiveConfig(num_heads=3, epochs=1), with_tokens(12), 0)
    assert Probes(AttentiveConfig("ep", epochs=1, queries=3), with_tokens(12), 0).names  # takes those that fit
    with pytest.raises(UserError, match="labelfree needs 3 training images or more, and there are 2"):
        LabelFree(LabelFreeConfig()).fit(part(1), part(1), 0)
