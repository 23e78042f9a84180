"""Writes docs/scale.md: what a run of each method costs at ImageNet's size, from the methods' own `flops()`.

python tests/write_scale.py
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ssl_bench import find
from ssl_bench.config.schema import Config
from ssl_bench.data.images import square
from ssl_bench.errors import UserError
from ssl_bench.training import cost
from ssl_bench.training.method import DataInfo, Method

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scale.md"
BACKBONES = {
    "S/16": "vit_small_patch16", "B/16": "vit_base_patch16", "L/16": "vit_large_patch16", "H/14": "vit_huge_patch14",
}  # fmt: skip
IMAGES, PIXELS = 1_281_167, 224 * 224 * 3  # ImageNet-1k's training images, bytes of one decoded
PEAK, LOW, HIGH = 989e12, 0.25, 0.45  # dense bf16 FLOP/s of an H100 SXM (data sheet); assumed share of it, MFU

HEAD = """# Scale: what one run costs on ImageNet-1k

Written by `python tests/write_scale.py` from every method's own `flops()` and its recipe `paper`; do not edit.

**No GPU was measured.** Hours are FLOPs / (peak x MFU x GPUs), with the data sheet's {peak:.0f} TFLOP/s (H100 SXM,
bf16, dense) and an *assumed* MFU of {low:.0%} to {high:.0%}, and perfect scaling. On one CPU thread the share of the
measured matrix product is 16 to 50 % (`ssl-bench speed METHOD`); run that command on your GPU and scale the hours.

## FLOPs and GPU-hours

GFLOP per image and step (forward, backward, teacher, predictor); EFLOP and GPU-hours for the recipe's epochs.
Each row is 224 px; `-`: the method's published sizes do not fit that backbone.
"""

NOTES = """
## Images per second and what the data path must deliver

Per GPU at the assumed MFU. A decoded 224 px image is {pixels:,} bytes, so 1,000 images/s are {rate:.2f} GB/s from the
store; the methods below ask for at most 1.7 GB/s a GPU.
The whole set decoded is {store:.0f} GB: the memory-mapped uint8 store where local disk or page cache holds it, encoded
shards otherwise. Encoded images bind first: at an assumed 150 JPEG/s per core (full-size photographs, decoded and
resized) the last column is the cores per GPU that decoding needs.

{rates}
## Memory and sharding

Weights, gradients and AdamW's two moments are 16 bytes per trained parameter, and 4 per frozen one (a teacher);
activations come on top (0.04, 0.09, 0.15 GB per 224 px image for S, B, L without checkpointing, measured on a CPU).

{memory}
All of them fit one 80 GB GPU with some images: plain data parallelism is the right choice up to H, sharding (FSDP) buys
batch size, not feasibility, and pays with collectives of 3 instead of 2 times the parameters per step.

## Collectives

A ring all-reduce moves 2 (W - 1) / W times the gradients' bytes per GPU and step. The last column says at which batch
per GPU this takes as long as the arithmetic, at an assumed 50 GB/s per GPU (a 400 Gb/s network) and {high:.0%} MFU:
below it the network binds unless it is hidden behind the backward pass. Inside one machine (NVLink) it never binds.

{network}
{counted}"""


@dataclass
class Row:
    """One method on one backbone."""

    config: Config
    flops: float  # per image
    trained: int  # parameters
    frozen: int

    @property
    def total(self) -> float:
        return self.flops * self.images

    @property
    def images(self) -> float:
        budget = self.config.budget
        return cost.steps(budget, IMAGES, self.flops) * budget.batch_size


def of_images() -> list[str]:
    methods = {name: find.defined(find.module("methods", name), Method) for name in find.names("methods")}
    return [name for name, method in methods.items() if "image" in method.kinds]


def row(name: str, backbone: str) -> Row | None:
    """Built without memory on the meta device; None where the paper's crops do not fit the patches."""
    module = find.module("methods", name)
    made = find.defined(module, Method)
    config: Config = module.paper(backbone)
    try:
        if backbone.endswith("14") and hasattr(config.objective, "local_size"):
            config = replace(config, objective=replace(config.objective, local_size=98))
        with torch.device("meta"):
            method: Method = made(config, DataInfo(square(224), 1000))
    except UserError:
        return None
    method.mean = torch.zeros(3, 1, 1)  # on the CPU: masks are drawn where it lies
    sizes = [(p.numel(), p.requires_grad) for p in method.parameters()]
    return Row(config, method.flops(), sum(n for n, t in sizes if t), sum(n for n, t in sizes if not t))


def hours(total: float, share: float) -> float:
    return total / (PEAK * share) / 3600


def table(*rows: list[str]) -> str:
    head, *body = (f"| {' | '.join(cells)} |" for cells in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body]) + "\n"


def span(low: float, high: float) -> str:
    return f"{low:.3g} to {high:.3g}"


def page() -> str:
    """The whole page."""
    rows = {name: {label: row(name, size) for label, size in BACKBONES.items()} for name in of_images()}
    parts = [HEAD.format(peak=PEAK / 1e12, low=LOW, high=HIGH)]
    rates, memory, network = [], [], []
    for label in BACKBONES:
        cells = [["method", "epochs", "GFLOP / image", "EFLOP", "hours on 1 GPU", "on 8", "on 64"]]
        for name, sizes in rows.items():
            r = sizes[label]
            if r is None:
                cells.append([name, *["-"] * 6])
                continue
            times = [span(hours(r.total, HIGH) / n, hours(r.total, LOW) / n) for n in (1, 8, 64)]
            cells.append([name, f"{r.images / IMAGES:.3g}", f"{r.flops / 1e9:.4g}", f"{r.total / 1e18:.3g}", *times])
            speed = PEAK / r.flops
            if name in ("mae", "ijepa", "dino", "simclr"):
                cores = span(LOW * speed / 150, HIGH * speed / 150)
                rates.append(
                    [name, label, span(LOW * speed, HIGH * speed), f"{HIGH * speed * PIXELS / 1e9:.2f}", cores]
                )
                held = (16 * r.trained + 4 * r.frozen) / 1e9
                memory.append([name, label, f"{r.trained / 1e6:.0f}", f"{r.frozen / 1e6:.0f}", f"{held:.2f}"])
                moved = 2 * 63 / 64 * 4 * r.trained
                equal = moved / 50e9 * HIGH * PEAK / r.flops
                network.append([name, label, f"{moved / 1e9:.2f}", f"{equal:.0f}"])
        parts.append(f"\n### ViT-{label}\n\n{table(*cells)}")
    notes = NOTES.format(
        pixels=PIXELS, rate=1000 * PIXELS / 1e9, store=IMAGES * PIXELS / 1e9, high=HIGH,
        rates=table(["method", "backbone", "images/s", "GB/s decoded, at most", "cores to decode JPEG"], *rates),
        memory=table(["method", "backbone", "trained, M", "frozen, M", "GB of state"], *memory),
        network=table(["method", "backbone", "GB per GPU and step, 64 GPUs", "batch per GPU"], *network),
        counted=COUNTED,
    )  # fmt: skip
    return "".join(parts) + notes


COUNTED = """What the objectives add was counted in runs of 2 and 4 gloo processes (toy ViT, 16 images in all, fp32,
one step, bytes of the tensors handed to the collectives; the same for both numbers of processes):

| method | gradients | by the objective itself |
|---|---|---|
| mae | 673,968 B = 4 x 168,492 trained parameters | nothing |
| dino | 889,600 B | 1,028 B: sum and count of the teacher's logits, for the centre (256 prototypes) |
| simclr | 562,176 B | 13,312 B in BatchNorm and the gathered embeddings' gradient, 8,192 B all-gathered |

So gradients are all that matters, but SimCLR's gathered embeddings grow with the global batch: 512 bytes per crop,
4 MB at batch 4096.

## Evaluating patch tokens

2,000 training and 500 test images at 224 px, 196 patches each, 192 wide, 7 classes, by
`python tests/benchmarks/dense.py` in one thread of an AMD EPYC (CPU time, for the machine was shared; the tokens were
there, and only dense:match runs the network):

| protocol | CPU s | GB at most |
|---|---|---|
| dense | 49 | 2.97 |
| dense:match | 38 | 2.35 |
| dense:linear | 152 | 2.86 |
| dense:knn (1,000 images in its bank) | 184 | 2.51 |
"""

if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
