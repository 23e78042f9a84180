"""A run as a plain timm model, with a card that says what it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_bench.config.schema import size_text

USE = """```python
import timm
import torch
from PIL import Image

model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
image = transform(Image.open("photo.jpg").convert("{mode}")).unsqueeze(0)
with torch.inference_mode():
    features = model(image)  # [1, {dim}]: {pooled}
    tokens = model.forward_features(image)  # [1, {tokens}, {dim}], after the final norm
```"""

Facts = Sequence[tuple[str, str]]  # label, sentence
Scores = Sequence[tuple[str, str, str]]  # protocol and metric, this run's number, the number over all seeds or ""

POOLED = {"cls": "the CLS token", "mean": "the mean of the patch tokens"}


def export(run: Any, to: Path, cost: Facts, scores: Scores, licence: str = "") -> float:
    """Write the folder and read it back with timm: the largest absolute difference of its outputs on noise.

    `cost` and `scores` are what the card says of the run's training and of its evaluations.

    `UserError` where the folder holds something already, or where the run has no encoder.
    """
    from safetensors.torch import save

    from ssl_bench.encoders.from_run import from_run
    from ssl_bench.errors import UserError
    from ssl_bench.files import write_atomic
    from ssl_bench.models.vit import timm_args

    encoder = from_run(run)
    if to.exists() and any(to.iterdir()):
        raise UserError(f"{to} is not empty: name a new folder, so that nothing in it is overwritten.")
    vit = encoder.model
    args = timm_args(vit, encoder.pooling)
    weights = {k: v.detach().contiguous() for k, v in vit.state_dict().items()}
    write_atomic(to / "model.safetensors", save(weights, metadata={"format": "pt"}))
    write_atomic(to / "config.json", json.dumps(_config(encoder, args), indent=2) + "\n")
    write_atomic(to / "README.md", card(encoder, run, to, cost, scores, licence))
    return _check(encoder, to)


def _config(encoder: Any, args: dict[str, Any]) -> dict[str, Any]:
    """What timm builds from: a named architecture whose every setting is overruled by `model_args`."""
    size = [args["in_chans"], *args["img_size"]]
    return {
        "architecture": "vit_base_patch16_224",
        "num_classes": 0,
        "num_features": args["embed_dim"],
        "global_pool": args["global_pool"],
        "model_args": {k: v for k, v in args.items() if k != "num_classes"},
        "pretrained_cfg": {
            "tag": encoder.run, "input_size": size, "fixed_input_size": True, "interpolation": encoder.interpolation,
            "crop_pct": 1.0, "crop_mode": "center", "mean": list(encoder.mean), "std": list(encoder.std),
            "num_classes": 0, "pool_size": None, "first_conv": "patch_embed.proj", "classifier": "head",
        },
    }  # fmt: skip


def _check(encoder: Any, to: Path) -> float:
    """Load what was written as a stranger would, and compare tokens and pooled features."""
    import timm
    import torch

    from ssl_bench.errors import UserError

    theirs: Any = timm.create_model(f"local-dir:{to}", pretrained=True).eval()
    images = torch.randn(4, *theirs.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens = encoder.model(images)
        pairs = [
            (theirs.forward_features(images), tokens),
            (theirs(images), encoder.model.pool(tokens, encoder.pooling)),
        ]
    worst = max(float((a - b).abs().max()) for a, b in pairs)
    if not worst < 1e-3:
        raise UserError(f"timm's outputs differ from the run's by {worst:.2g}: do not use {to}, and report this.")
    return worst


def card(encoder: Any, run: Any, to: Path, cost: Facts, scores: Scores, licence: str = "") -> str:
    """README.md of the folder: what it is, what it was trained on and for how long, what it scores, how to use it."""
    vit = encoder.model
    spdx, said = _licence(encoder.pretrain_data["name"], licence)
    head = ["---", "library_name: timm", "pipeline_tag: image-feature-extraction", f"license: {spdx}", "tags:"]
    head += ["- self-supervised", f"- {encoder.method}", "- ssl-bench", "---", f"# {run.name}", ""]
    if encoder.collapse["flag"]:
        head += [f"> **This run COLLAPSED: {encoder.collapse['reason']}.** Its features are of little use.", ""]
    facts = [*_facts(encoder, run), *cost, ("licence", said)]
    table = ["| | |", "|---|---|", *(f"| {name} | {_cell(text)} |" for name, text in facts)]
    use = USE.format(
        folder=to, mode={1: "L", 3: "RGB", 4: "RGBA"}[vit.patch_embed.proj.in_channels], dim=vit.config.embed_dim,
        pooled=POOLED[encoder.pooling], tokens=vit.num_prefix + vit.num_patches,
    )  # fmt: skip
    numbers = _numbers_table(scores)
    settings = json.dumps(encoder.config, indent=1)
    return "\n".join([
        *head, *table, "", "## Numbers", "", *numbers, "", "## Use", "", use, "",
        "## Every setting of the training", "", "```json", settings, "```", "",
    ])  # fmt: skip


def _facts(encoder: Any, run: Any) -> list[tuple[str, str]]:
    """What the network is and where it came from."""
    import inspect

    from ssl_bench import find
    from ssl_bench.training.method import Method

    config, code, vit = run.config(), run.read_json("provenance.json")["code"], encoder.model
    module, c = find.module("methods", config.method), vit.config
    cls, count = find.defined(module, Method), sum(p.numel() for p in vit.parameters())
    shape = f"{c.embed_dim} wide, {c.depth} blocks, patches of {c.patch_size} px, {count:,} parameters"
    colours = f"mean {_list(encoder.mean)}, std {_list(encoder.std)}"
    data = encoder.pretrain_data
    return [
        ("method", f"{(inspect.getdoc(module) or config.method).splitlines()[0]} ({cls.family})"),
        ("paper", cls.paper),
        ("network", f"ViT, {shape}: {encoder.evaluated}"),
        ("input", f"{size_text(encoder.image_size)} px, {vit.patch_embed.proj.in_channels} channels, {colours}"),
        ("pooling", POOLED[encoder.pooling]),
        ("data", f"{data['name']}, fingerprint {data['fingerprint']}"),
        ("recipe", f"{config.recipe or 'custom'}, seed {config.seed}, identity {encoder.identity}"),
        ("code", f"{code['commit']}{' with local changes' if code['dirty'] else ''}"),
        ("collapse", encoder.collapse["reason"] or "none seen"),
    ]


def _numbers_table(scores: Scores) -> list[str]:
    if not scores:
        return ["This run has not been evaluated (`ssl-bench eval RUN --protocol linear`)."]
    rows = [f"| {_cell(name)} | {mine} | {seeds or '–'} |" for name, mine, seeds in scores]
    legend = (
        "One run: [95 % interval over the test images]. All seeds: the row of `ssl-bench report`, "
        "mean ± half of the 95 % interval over seeds and test images (number of seeds). "
        "Hyperparameters of the probes were chosen on held-out training images, never on the test images."
    )
    return ["| protocol | this run | all seeds of this recipe |", "|---|---|---|", *rows, "", legend]


def _licence(data: str, given: str) -> tuple[str, str]:
    """The card's SPDX field and a sentence."""
    if given:
        return given, f"{given}, chosen by whoever exported this"
    if data == "clothing48":
        return "cc0-1.0", "the images are CC0 1.0: nothing limits the use of these weights"
    return "unknown", "not stated: the terms of the images decide (`--licence` sets it)"


def _list(values: tuple[float, ...]) -> str:
    return " ".join(f"{v:.4g}" for v in values)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
