"""The encoder that a finished run left: its checksum verified, every value possible, every weight in place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load

from ssl_bench.config.from_file import from_dict
from ssl_bench.config.schema import ViTConfig, identity, to_dict
from ssl_bench.data.items import written
from ssl_bench.encoders.encoder import PICTURES, Encoder, fitted
from ssl_bench.errors import UserError
from ssl_bench.models.answers import AnswerConfig, Answerer
from ssl_bench.models.dynamics import Dynamics, DynamicsConfig
from ssl_bench.models.hierarchy import Hierarchy, UpperConfig
from ssl_bench.models.kept import ActionPredictor, Kept
from ssl_bench.models.policy import Policy, PolicyConfig
from ssl_bench.models.thinker import Thinker, ThinkerConfig
from ssl_bench.models.vit import ViT
from ssl_bench.training import checkpoint, run_folder
from ssl_bench.training.monitor import collapse
from ssl_bench.training.seal import refuse_changed


def from_run(run: run_folder.Run) -> Encoder:
    """The network a finished run left in encoder.safetensors; strict, its checksum verified."""
    config = run.config()
    path = run.folder / "encoder.json"
    if not path.exists():
        state = run.status().get("state", "not started")
        raise UserError(f"Run {run.name} has no encoder yet (state: {state}). Run the same pretrain command again.")
    meta = _meta(run)
    payload = (run.folder / "encoder.safetensors").read_bytes()
    if checkpoint.sha256(payload) != meta["weights_sha256"]:
        raise UserError(f"{run.folder}/encoder.safetensors is damaged: its checksum is not that of encoder.json.")
    shape = (from_dict(ViTConfig, meta["backbone"]), item := written(meta))
    try:
        model = fitted(lambda: ViT(*shape), load(payload), str(run.folder / "encoder.safetensors"))
    except (SafetensorError, ValueError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"The encoder in {run.folder} cannot be read: {str(error)[:200]}.") from error
    known = item.as_kind(PICTURES).name in PICTURES  # by its frames alone
    facts, size = run.read_json("provenance.json"), item.facts["image_size"]
    kept, bad = _kept(run, model, meta.get("kept", "")), str(meta["collapse"] if "collapse" in meta else collapse(run))
    refuse_changed(run, meta)
    return Encoder(
        config.method, model.eval(), meta["pooling"], model.config.class_token, model.config.depth, size,
        tuple(meta["mean"]), tuple(meta["std"]), meta["weights_sha256"], run.name, meta["evaluated"],
        frames=item.facts.get("frames", 0), item=None if known else item,
        kept=kept,
        config=to_dict(config), recipe=config.recipe, identity=identity(config), run=run.name, seed=config.seed,
        pretrain_data=facts.get("data", {"name": config.data.name, "fingerprint": ""}),
        compute=run.compute(), code=_code(facts),
        collapse={"flag": bool(bad), "reason": bad, "rankme": None},
    )  # fmt: skip


def _kept(run: run_folder.Run, vit: ViT, due: str) -> Kept | None:
    """What a run has left beside its encoder; None where it has left nothing. `due`: the file that must be there."""
    makers: dict[str, Callable[[dict[str, Any]], Kept]] = {
        Dynamics.file: _dynamics, ActionPredictor.file: lambda facts: ActionPredictor.of(vit, facts),
        Policy.file: _policy, Answerer.file: _answerer,
        Thinker.file: lambda facts: Thinker(vit, from_dict(ThinkerConfig, facts["config"])),
    }  # fmt: skip
    for file, make in makers.items():
        if (run.folder / f"{file}.json").exists():
            facts, path = run.read_json(f"{file}.json"), run.folder / f"{file}.safetensors"
            if not path.exists():
                raise _gone(path)
            payload = path.read_bytes()
            if checkpoint.sha256(payload) != facts.get("weights_sha256"):
                raise UserError(f"{path} is damaged: its checksum is not that of {file}.json.")
            return fitted(partial(make, facts), load(payload), str(path)).eval()
    if due:
        raise _gone(run.folder / f"{due}.json")
    return None


def _gone(path: Path) -> UserError:
    return UserError(f"{path} is missing, which the run has left beside its encoder: copy it here, or train again.")


def _dynamics(facts: dict[str, Any]) -> Dynamics:
    shape = from_dict(DynamicsConfig, facts["config"]), int(facts["features"]), int(facts["actions"])
    return Hierarchy(*shape, from_dict(UpperConfig, facts["upper"])) if "upper" in facts else Dynamics(*shape)


def _answerer(facts: dict[str, Any]) -> Answerer:
    return Answerer(from_dict(AnswerConfig, facts["config"]), int(facts["dim"]), int(facts["length"]))


def _policy(facts: dict[str, Any]) -> Policy:
    sizes = (int(facts[name]) for name in ("tokens", "dim", "actions"))
    return Policy(from_dict(PolicyConfig, facts["config"]), *sizes)


def _code(facts: dict[str, Any]) -> dict[str, Any]:
    """Commit, dirty flag, hash and modules of a training; `earlier`: hashes of what it was half trained by."""
    found = facts.get("code")
    past = [str(code.get("hash", "")) for code in facts.get("earlier", [])]
    return {**(found if isinstance(found, dict) else {}), **({"earlier": past} if past else {})}


def _meta(run: run_folder.Run) -> dict[str, Any]:
    """encoder.json, which may come from anybody: every value of its type and of a size that is possible."""
    meta = run.read_json("encoder.json")
    kinds = {"backbone": dict, "channels": int, "pooling": str, "evaluated": str}
    wrong = [k for k, kind in {**kinds, "weights_sha256": str}.items() if type(meta.get(k)) is not kind]
    for key in ("mean", "std"):
        if not all(type(v) in (int, float) and abs(v) < 1e6 for v in meta.get(key) or [None]):
            wrong.append(key)
    size = meta.get("image_size")
    sides = size if type(size) is list and len(size) == 2 else [size]
    if not all(type(side) is int and 0 < side <= 4096 for side in sides):
        wrong.append("image_size")
    if not wrong and not 0 < meta["channels"] <= 64:
        wrong = ["channels"]
    if not wrong and "frames" in meta and not (type(meta["frames"]) is int and 0 < meta["frames"] <= 1024):
        wrong = ["frames"]
    depth = 0 if wrong else meta["backbone"].get("depth", 0)
    if not wrong and type(depth) is int and depth > 1000:
        wrong = ["backbone.depth"]
    if wrong:
        raise UserError(f"{run.folder}/encoder.json is damaged: its {', '.join(wrong)} cannot be.")
    return meta
