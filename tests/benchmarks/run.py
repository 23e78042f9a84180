"""Timings beside other libraries: `make bench`, or python tests/benchmarks/run.py with some of the parts below.

What is compared runs alternately in one process; lowest, median and highest of all rounds are printed, with the
machine's matrix product beside them. With one thread the clock counts CPU time, so that other people's load falls out.
A library that is not installed (lightly, stable-pretraining) is left out with a sentence.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import click
import numpy as np
import peers
import torch
from torch.utils.flop_counter import FlopCounterMode

from ssl_bench import find
from ssl_bench.config.overrides import resolve
from ssl_bench.config.schema import Config
from ssl_bench.parallel import devices
from ssl_bench.training import measure
from ssl_bench.training.speed import trainer
from ssl_bench.views.augment import AugmentConfig
from ssl_bench.views.crops import COLOUR

CPU = torch.device("cpu")
NATIVE = devices.multiplies_bf16(CPU)  # where it does not, our runs compute in fp32, and peers' bf16 takes minutes
DECODER, HEAD, PROJECTOR, PREDICTOR = (512, 1, 16), (512, 64, 2048), (512, 128), (192, 6)
SETTINGS: dict[str, dict[str, int]] = {
    "mae": dict(zip(("decoder_dim", "decoder_depth", "decoder_heads"), DECODER, strict=True)),
    "dino": dict(zip(("head_hidden", "head_bottleneck", "prototypes"), HEAD, strict=True))
    | {"local_crops": peers.LOCALS, "local_size": peers.LOCAL, "global_size": peers.SIZE},
    "simclr": {"hidden": PROJECTOR[0], "out": PROJECTOR[1], "crop_size": peers.SIZE},
    "ijepa": {"predictor_dim": PREDICTOR[0], "predictor_depth": PREDICTOR[1], "predictor_heads": 3},
}
METHODS = ("mae", "dino", "simclr", "ijepa")
TARGETS = {  # ratios asked for: step against fp32 and bf16, views, end to end
    "mae": (2.2, 1.8, 5, 2), "dino": (2.3, 1.9, 4, 2), "simclr": (2.3, 1.8, 2, 2.4), "ijepa": (2.1, 1.5, 6, None),
}  # fmt: skip


def config(method: str, backbone: str, batch: int, precision: str) -> Config:
    """Our method with the peers' views, heads, backbone and batch."""
    settings = [f"backbone={backbone}", f"precision={precision}", f"budget.batch_size={batch}", "data.image_size=32"]
    settings += [f"objective.{key}={value}" for key, value in SETTINGS[method].items()]
    made = resolve(find.recipe(method, "small")(), settings)
    blurred = replace(COLOUR, crop_scale=(0.4, 1.0), interpolation="bilinear", blur_p=1.0)
    views: dict[str, dict[str, AugmentConfig]] = {
        "dino": {
            "global_1": blurred,
            "global_2": replace(blurred, blur_p=0.1, solarize_p=0.2),
            "local": replace(blurred, crop_scale=(0.05, 0.4), blur_p=0.5),
        },
        "simclr": dict.fromkeys(
            ("view_1", "view_2"), replace(blurred, crop_scale=(0.08, 1.0), brightness=0.8, contrast=0.8,
                                          saturation=0.8, hue=0.2, blur_p=0.5)
        ),
        "mae": {"augment": AugmentConfig(crop_scale=(0.2, 1.0), interpolation="bicubic")},
        "ijepa": {"augment": AugmentConfig(crop_scale=(0.2, 1.0), interpolation="bicubic")},
    }  # fmt: skip
    return replace(made, objective=replace(made.objective, **views[method])).check()


def fixed(method: str, backbone: str, batch: int, precision: str) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Our loop's step on views made once, and these views."""
    t = trainer(config(method, backbone, batch, precision), CPU)
    images, _, rng = t.batch(0)
    with torch.no_grad():
        views = t.method.views(images, rng, 0.5)
    t.method.views = lambda *_: dict(views)  # type: ignore[method-assign]
    return t.train_step, views


def peer(method: str, backbone: str, views: dict[str, Any], precision: str, explicit: bool) -> peers.Step:
    shape = config(method, backbone, 8, "fp32").backbone
    extra: tuple[Any, ...] = {
        "mae": (DECODER,), "dino": (HEAD,), "simclr": PROJECTOR, "ijepa": PREDICTOR
    }[method]  # fmt: skip
    parts, loss, after = getattr(peers, method)(shape, views, *extra)
    return peers.Step(parts, loss, after, precision, explicit)


def counted(step: Callable[[], object]) -> float:
    """FLOPs of a step as torch counts them; it is blind to fused attention on the CPU."""
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def show(name: str, low: float, middle: float, high: float, unit: str, note: str = "") -> None:
    click.echo(f"  {name:<34} {middle:>9,.1f} {unit} ({low:,.1f} to {high:,.1f}) {note}")


def against(name: str, ours: measure.Timing, theirs: measure.Timing, target: float | None) -> None:
    low, middle, high = measure.ratio(theirs, ours)
    wanted = "" if target is None else f", asked {target}: {'met' if middle >= target else 'NOT met'}"
    click.echo(f"  {'-> times ' + name:<34} {middle:>9.2f} x ({low:.2f} to {high:.2f}){wanted}")


def steps(method: str, backbone: str, batch: int, rounds: int) -> None:
    """The step alone."""
    name = "stable-pretraining" if method == "ijepa" else "lightly"
    ours, views = fixed(method, backbone, batch, "bf16")
    cases: dict[str, measure.Action] = {"ours fp32": fixed(method, backbone, batch, "fp32")[0]}
    if NATIVE:
        cases = {"ours bf16": ours, **cases}
    try:
        for label in ("fp32", "bf16", "bf16 explicit") if NATIVE else ("fp32", "fp32 explicit"):
            precision, _, explicit = label.partition(" ")
            cases[f"{name} {label}"] = peer(method, backbone, views, precision, bool(explicit))
    except ImportError as error:
        click.echo(f"  {name} is not installed ({error}): only ours is timed.")
    kind = "bf16" if NATIVE else "fp32"
    product, flops = measure.gemm(batch * 64, 192, 768, torch.bfloat16 if NATIVE else torch.float32, CPU)
    cases[f"matrix product {kind}"] = product
    timing = measure.alternate(cases, rounds)
    click.echo(f"step of {method}, {backbone}, 32 px, batch {batch}")
    if f"{name} {kind} explicit" in cases:
        mine, others = (counted(cases[label]) / batch / 1e9 for label in ("ours fp32", f"{name} {kind} explicit"))
        note = ": stable-pretraining predicts all blocks of an image in one sequence" if method == "ijepa" else ""
        click.echo(f"  GFLOP per image: ours {mine:.2f}, {name} {others:.2f} ({mine / others:.2f} x){note}")
    for label, t in timing.items():
        work, unit = (flops / 1e9, "GFLOP/s") if label.startswith("matrix") else (batch, "images/s")
        show(label, *t.rates(work), unit)
    targets = {"fp32": TARGETS[method][0], "bf16": TARGETS[method][1]}
    targets |= {"bf16 explicit": 1.1} if method == "simclr" else {}
    for label in (case.removeprefix(f"{name} ") for case in timing if case.startswith(name)):
        against(f"{name} {label}", timing[f"ours {kind}"], timing[f"{name} {label}"], targets.get(label))


def pictures(count: int) -> np.ndarray:
    """Smooth random pictures uint8 [N, 32, 32, 3]: PIL's cost does not depend on what they show."""
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def data(method: str, backbone: str, batch: int, rounds: int, workers: int) -> None:
    """From the store to an augmented batch, without a step."""
    size = 256
    t = trainer(config(method, backbone, size, "bf16"), CPU)

    def ours() -> None:
        images, _, rng = t.batch(0)
        with torch.no_grad():
            t.method.views(images, rng, 0.5)
        t.step += 1

    try:
        passes = peers.loader(method, pictures(size), size, workers)
    except ImportError as error:
        click.echo(f"  lightly is not installed ({error}).")
        return
    cases: dict[str, measure.Action] = {"ours": ours, "lightly": lambda: list(passes())}
    timing = measure.alternate(cases, rounds, time.perf_counter if workers else None)
    place = f"{workers} workers, wall clock" if workers else "in process, CPU clock"
    click.echo(f"views of {method}, lightly's loader {place}")
    for label, seconds in timing.items():
        show(label, *seconds.rates(size), "images/s")
    against(f"lightly, {place.partition(',')[0]}", timing["ours"], timing["lightly"], TARGETS[method][2])


def whole(method: str, backbone: str, batch: int, rounds: int) -> None:
    """Views and step together, everything in one process: what all cores have to do for one batch."""
    if method == "ijepa":
        return
    t = trainer(config(method, backbone, batch, "bf16"), CPU)
    try:
        passes, views = peers.loader(method, pictures(8 * batch), batch, 0), fixed(method, backbone, batch, "bf16")[1]
        stream = itertools.chain.from_iterable(passes() for _ in itertools.count())
        made = {p: peer(method, backbone, views, p, False) for p in (("fp32", "bf16") if NATIVE else ("fp32",))}
    except ImportError as error:
        click.echo(f"  lightly is not installed ({error}).")
        return

    def run(precision: str) -> None:
        crops = next(stream)
        views.update(
            {"images": crops[0]} if method == "mae"
            else {"crops": torch.cat(crops)} if method == "simclr"
            else {"global": torch.cat(crops[:2]), "local": torch.cat(crops[2:])}
        )  # fmt: skip
        made[precision]()

    cases: dict[str, measure.Action] = {"ours": t.train_step}
    cases |= {f"lightly {p}": partial(run, p) for p in made}
    timing = measure.alternate(cases, rounds)
    click.echo(f"end to end of {method}, {backbone}, batch {batch}, loader in process")
    for label, seconds in timing.items():
        show(label, *seconds.rates(batch), "images/s")
    for label in cases.keys() - {"ours"}:
        against(label, timing["ours"], timing[label], TARGETS[method][3] if label.endswith("bf16") else None)


@click.command()
@click.argument("parts", nargs=-1)
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--backbone", default="mini_patch4", show_default=True, help="vit_tiny_patch4 has twice the depth.")
@click.option("--batch", default=16, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--workers", default=0, show_default=True, help="Of lightly's loader in `data`; 0: in process.")
@click.option("--threads", default=1, show_default=True)
@click.option("--queries", default=10_000, show_default=True, help="Of the k-NN comparison.")
def main(
    parts: tuple[str, ...], methods: str, backbone: str, batch: int, rounds: int, workers: int, threads: int,
    queries: int,
) -> None:  # fmt: skip
    """Parts: steps, data, whole, evaluation, overhead, checkpoints; all of them, if none is named."""
    import evaluation

    torch.set_num_threads(threads)
    parts = parts or ("steps", "data", "whole", "evaluation", "overhead", "checkpoints")
    for part, method in itertools.product(parts, methods.split(",")):
        if part == "steps":
            steps(method, backbone, batch, rounds)
        elif part == "data":
            data(method, backbone, batch, rounds, workers)
        elif part == "whole":
            whole(method, backbone, batch, rounds)
    if "evaluation" in parts:
        evaluation.knn(queries, rounds)
        evaluation.regressions(rounds)
    if "overhead" in parts:
        evaluation.overhead()
    if "checkpoints" in parts:
        evaluation.checkpoints()


if __name__ == "__main__":
    main()
