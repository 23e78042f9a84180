"""Training checkpoints with several networks: which one is evaluated, what is said of the others, what is refused."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from ssl_bench.encoders import resolve
from ssl_bench.encoders.encoder import Encoder, sha256
from ssl_bench.errors import UserError

State = dict[str, torch.Tensor]


def weights(seed: int) -> State:
    torch.manual_seed(seed)
    return VisionTransformer(16, 8, num_classes=0, embed_dim=64, depth=2, num_heads=1).state_dict()


STUDENT, TEACHER = weights(0), weights(1)
RESNET = {"conv1.weight": torch.zeros(8, 3, 7, 7), "layer1.0.conv1.weight": torch.zeros(8, 8, 1, 1)}
HEAD = {"head.0.weight": torch.zeros(3, 64)}


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def opened(folder: Path, content: Any, settings: str = "") -> Encoder:
    torch.save(content, folder / "a.pth")
    return resolve.resolve(f"file:{folder / 'a.pth'}{settings}", folder)


def is_network(encoder: Encoder, state: State) -> bool:
    found = encoder.model.state_dict()
    return all(torch.equal(found[name], value) for name, value in state.items() if name in found and value.ndim > 1)


LIGHTNING: dict[str, Any] = {"pytorch-lightning_version": "2.4.0", "epoch": 9, "callbacks": {}}
TAKEN: dict[str, tuple[Any, str]] = {  # the teacher or average in every layout, and what the others are called
    "dinov2": ({"model": under("student.backbone.", STUDENT) | under("teacher.backbone.", TEACHER)
                | under("teacher.dino_", HEAD)}, "model.student.backbone"),
    "dino": ({"student": under("module.backbone.", STUDENT), "teacher": under("backbone.", TEACHER | HEAD)},
             "student.backbone"),
    "timm": ({"state_dict": under("module.", STUDENT), "state_dict_ema": under("module.", TEACHER)}, "state_dict"),
    "deit": ({"model": STUDENT, "model_ema": TEACHER, "args": argparse.Namespace(lr=1), "optimizer": {
              "exp_avg": STUDENT}}, "model"),
    "lightly": ({"state_dict": under("student_backbone.", STUDENT) | under("teacher_backbone.", TEACHER)
                 | under("student_", HEAD), **LIGHTNING}, "state_dict.student_backbone"),
    "side by side": ({**STUDENT, **under("ema.", TEACHER)}, "weights"),
    "deeper": ({"checkpoint": {"model": STUDENT, "ema": TEACHER}}, "checkpoint.model"),
    "one part": ({"model_state_dict": TEACHER}, ""),
    "one unknown part": ({"anything": TEACHER, "epoch": 3}, ""),
    "compiled": ({"model": under("_orig_mod.module.", TEACHER)}, ""),
    "lightning": ({"state_dict": under("model.backbone.", TEACHER) | under("projector.", HEAD), **LIGHTNING}, ""),
    "clip": ({"state_dict": under("module.visual.trunk.", TEACHER) | {"module.logit_scale": torch.ones(())}}, ""),
}  # fmt: skip


@pytest.mark.parametrize("layout", TAKEN)
def test_the_network_that_is_evaluated_by_custom(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, other = TAKEN[layout]
    encoder = opened(tmp_path, content)
    assert is_network(encoder, TEACHER) and not is_network(encoder, STUDENT)
    said = " ".join(capsys.readouterr().out.split())
    if not other:
        assert "key=" not in said
        return
    assert f"was taken; the file also has {other} (key={other})" in said and f"also has {other})" in encoder.source
    assert encoder.config["source"] == encoder.source
    assert is_network(opened(tmp_path, content, f",key={other}"), STUDENT)


def test_what_lies_beside_the_network_is_said(tmp_path: Path) -> None:
    assert "was taken; the file also has logit_scale)" in opened(tmp_path, TAKEN["clip"][0]).source
    assert "was taken; the file also has projector)" in opened(tmp_path, TAKEN["lightning"][0]).source
    dino = {"teacher": under("module.backbone.", TEACHER) | under("module.", HEAD)}
    assert opened(tmp_path, dino).source == "file:a.pth (dino, teacher; dropped: head)"


def test_a_key_may_be_short(tmp_path: Path) -> None:
    content = TAKEN["dinov2"][0]
    for key in ("student", "student.backbone", "model.student"):
        assert is_network(opened(tmp_path, content, f",key={key}"), STUDENT)
    with pytest.raises(UserError, match=r"has no network 'studnet'\. Did you mean 'student'\?"):
        opened(tmp_path, content, ",key=studnet")
    with pytest.raises(UserError, match=r"2 networks called 'model'\. .* Say which with key="):
        opened(tmp_path, content, ",key=model")


def test_the_papers_that_evaluate_the_trained_network(tmp_path: Path) -> None:
    moco = under("module.base_encoder.", STUDENT) | under("module.momentum_encoder.", TEACHER)
    encoder = opened(tmp_path, {"state_dict": moco})
    assert is_network(encoder, STUDENT) and "also has state_dict.momentum_encoder" in encoder.source
    assert is_network(opened(tmp_path, {"state_dict": moco}, ",key=momentum_encoder"), TEACHER)
    assert is_network(opened(tmp_path, {"model": {**STUDENT, "_ema": TEACHER}}), STUDENT)


UNDECIDED = {
    "encoder_q, state_dict.encoder_k": under("module.encoder_q.", STUDENT) | under("module.encoder_k.", TEACHER),
    "backbone, state_dict.momentum_backbone": under("backbone.", STUDENT) | under("momentum_backbone.", TEACHER),
    "ema_a, state_dict.ema_b": under("ema_a.", STUDENT) | under("ema_b.", TEACHER),
}


@pytest.mark.parametrize("names", UNDECIDED)
def test_where_nothing_decides_the_networks_are_named(names: str, tmp_path: Path) -> None:
    first, second = names.split(", state_dict.")
    with pytest.raises(UserError, match=f"holds 2 networks: state_dict.{names}. Say which with key="):
        opened(tmp_path, {"state_dict": UNDECIDED[names]})
    assert is_network(opened(tmp_path, {"state_dict": UNDECIDED[names]}, f",key={first}"), STUDENT)
    assert is_network(opened(tmp_path, {"state_dict": UNDECIDED[names]}, f",key={second}"), TEACHER)


def test_what_is_no_vit_is_named(tmp_path: Path) -> None:
    content = {"state_dict": under("module.encoder_q.", RESNET) | under("module.encoder_k.", RESNET)}
    with pytest.raises(UserError, match=r"It has .* \(state_dict\.encoder_q, state_dict\.encoder_k: ResNets"):
        opened(tmp_path, content)
    for empty in ({}, {"epoch": 3, "model": {}}):
        with pytest.raises(UserError, match="holds no weights"):
            opened(tmp_path, empty)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, tmp_path: Path) -> None:
    broken = {name: tensor.clone() for name, tensor in TEACHER.items()}
    for name in ("blocks.1.mlp.fc2.weight", "norm.weight"):
        broken[name].view(-1)[3] = value
    with pytest.raises(UserError, match=r"not finite \(NaN or infinity in 'blocks\.1\.mlp\.fc2\.weight'\)"):
        opened(tmp_path, {"model": broken})
    assert is_network(opened(tmp_path, {"model": broken, "teacher": TEACHER}), TEACHER)


def test_the_note_on_other_networks_is_no_part_of_the_identity(tmp_path: Path) -> None:
    """Results of DINO's full checkpoints stay those of the same encoder."""
    alone = opened(tmp_path, {"teacher": under("backbone.", TEACHER)})
    both = opened(tmp_path, {"teacher": under("backbone.", TEACHER), "student": under("backbone.", STUDENT)})
    assert both.identity == alone.identity and both.weights_sha256 == sha256(alone.model)


def test_a_path_may_look_like_settings(tmp_path: Path) -> None:
    folder = tmp_path / "lr=0.1,wd=0.05"
    folder.mkdir()
    assert is_network(opened(folder, {"model": TEACHER}, ",pooling=mean"), TEACHER)
    with pytest.raises(UserError, match="Did you mean 'pooling'"):
        opened(folder, {"model": TEACHER}, ",poling=mean")
