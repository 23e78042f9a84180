"""Two gloo processes train exactly like one: gradients, centres, queues and BatchNorm of every method in methods/,

of every kind of item that it takes.

Each case is computed by one process with the whole batch and by two with half of it each, their gradients averaged as
DDP does; a new method is covered by being there. One spawn serves all cases: starting processes costs seconds.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import kinds_of, tiny
from torch import Tensor, nn
from torch.testing import assert_close as close

from ssl_bench import find
from ssl_bench.config.overrides import resolve
from ssl_bench.data.captioned import Captioned
from ssl_bench.data.clips import Clips
from ssl_bench.data.images import square
from ssl_bench.data.points import Points
from ssl_bench.data.sounds import Sounds
from ssl_bench.data.texts import Texts
from ssl_bench.data.trajectories import Trajectories
from ssl_bench.errors import UserError
from ssl_bench.models.assignment import Center, sinkhorn
from ssl_bench.parallel import collectives
from ssl_bench.parallel.collectives import BatchNorm
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method

pytestmark = pytest.mark.slow  # two processes import torch: 10 s on idle cores

METHODS = find.names("methods")
BATCH, SIZE, STEPS, WORLD = 8, 48, 2, 2
ITEMS = {  # of every kind, for its `quick`
    "image": square(SIZE), "clip": Clips(4, SIZE, SIZE), "sound": Sounds(SIZE, SIZE),
    "points": Points(SIZE), "trajectory": Trajectories(17, 5, 2, SIZE, SIZE), "text": Texts(14),
    "captioned": Captioned(SIZE, SIZE),
}  # fmt: skip
OTHERS = {"clip": Clips(8, 24, 24), "sound": Sounds(24, 24), "points": Points(24)}  # of the other kinds, as `tiny` has
State = dict[str, Tensor]


def variants(name: str) -> dict[str, dict[str, Any]]:
    """Settings beside `quick` whose communication differs."""
    return {
        "dino": {"batchnorm": {"head_norm": True}},
        "llmjepa": {"stp": {"span": 0.1}},
        "dinov2": {"sinkhorn": {"assignment": "sinkhorn", "shared_head": False}},
        "swav": {"queue": {"queue_length": 12, "queue_start": 0.0}},
    }.get(name, {})


CASES = [(m, "") for m in METHODS] + [(m, v) for m in METHODS for v in variants(m)]
CASES += [(m, kind) for m in METHODS for kind in kinds_of(m)[1:]]


def rows() -> slice:
    share = BATCH // collectives.world_size()
    return slice(collectives.rank() * share, (collectives.rank() + 1) * share)


def averaged(x: Tensor) -> Tensor:
    if collectives.world_size() > 1:
        x = x.clone()
        dist.all_reduce(x)
        x /= collectives.world_size()
    return x


def train(name: str, variant: str) -> State:
    """Gradients of two plain SGD steps, and the state after them, of one method's `quick` on a two-block ViT.

    Or of its recipe of another kind, which `variant` names.
    """
    module = find.module("methods", name)
    config = resolve(module.quick(), ["backbone=toy", "precision=fp32"])
    if variant in OTHERS:
        config = tiny(name, "", kind=variant, precision="fp32")
    elif variant:
        config = replace(config, objective=replace(config.objective, **variants(name)[variant]))
    torch.manual_seed(0)
    made = find.defined(module, Method)
    item = OTHERS.get(variant, ITEMS[made.kinds[0]])
    stats = [(value,) * item.channels for value in (0.5, 0.25)]
    method: Method = made(config, DataInfo(item, 10, *stats))
    generator, out = torch.Generator().manual_seed(1), {}
    for step in range(STEPS):
        at = (step + 0.5) / STEPS  # the second step sees a moved teacher, centre and queue
        items = torch.randint(0, 256, (BATCH, *item.shape), dtype=torch.uint8, generator=generator)
        if isinstance(item, Texts):  # texts of unequal length
            items *= torch.rand(BATCH, 2, 1, generator=generator) * item.length > torch.arange(item.length)
        if isinstance(item, Trajectories):  # random bytes are no actions
            actions = torch.randn(BATCH, (item.length - 1) * item.every, item.action_dim, generator=generator)
            pairs = zip(item.frames(items).numpy(), actions.numpy(), strict=True)
            items = torch.stack([torch.from_numpy(item.packed(*pair)) for pair in pairs])
        items = items / 255 - 0.5 if item.dtype == "float32" else items.to(getattr(torch, item.dtype))
        items = item.seen(items[rows()])
        with torch.no_grad():
            views = method.views(items, Rng(step, BATCH, rows()), at)
        if method.uses_labels:
            views["labels"] = torch.arange(BATCH)[rows()]
        method(views, at)["loss"].backward()
        for key, parameter in method.named_parameters():
            if parameter.grad is not None:
                parameter.grad.copy_(averaged(parameter.grad))
                out[f"gradient {step} {key}"] = parameter.grad.clone()
        method.before_step(at)
        with torch.no_grad():
            trained = [p for p in method.parameters() if p.grad is not None]
            norm = torch.stack([p.grad.norm() for p in trained]).norm()  # of all: some gradients are rounding only
            for parameter in trained:
                parameter -= 0.1 * parameter.grad / norm
                parameter.grad = None
            method.after_step(at)
    return out | {f"state {key}": value.clone() for key, value in method.state_dict().items()}


def primitives() -> State:
    """gather, total, mean, BatchNorm, Center and Sinkhorn on their own, in float64 where they allow it."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(BATCH, 5, dtype=torch.float64, generator=generator)[rows()].requires_grad_()
    weight = torch.randn(BATCH, 5, dtype=torch.float64, generator=generator)
    norm, center = BatchNorm(5).double(), Center(5, 0.9)
    nn.init.normal_(norm.weight, generator=generator)
    whole = collectives.gather(norm(x))
    loss = (whole * weight).sum() + collectives.mean(x.mean(0)).pow(3).sum() + collectives.total(x.sum(0)).pow(2).sum()
    loss.backward()
    assert x.grad is not None
    logits = weight[rows()].float()
    odd = logits[: len(logits) - collectives.rank()] if collectives.world_size() > 1 else logits[:7]  # 4 + 3 rows
    center(odd, 0.1)
    center.update()
    gathered = x.grad if collectives.world_size() == 1 else collectives.gather(x.grad) / collectives.world_size()
    return {
        "output": whole.detach(), "gradient": gathered.detach(), "weight gradient": averaged(norm.weight.grad),
        "center": center.value, "sinkhorn": collectives.gather(sinkhorn(logits, 0.1)),
    }  # fmt: skip


def everything() -> dict[str, Any]:
    """Every case's numbers; an error is kept as its text, so that one method does not hide the others."""
    results: dict[str, Any] = {"primitives": primitives()}
    for name, variant in CASES:
        try:
            results[f"{name} {variant}"] = train(name, variant)
        except UserError as error:  # raised before anything is sent, on both processes
            results[f"{name} {variant}"] = str(error)
    return results


def worker(process: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=process, world_size=WORLD)
    results = everything()
    if process == 0:
        torch.save(results, Path(folder) / "results.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pairs() -> tuple[dict[str, Any], dict[str, Any]]:
    """(one process, two processes)."""
    with tempfile.TemporaryDirectory() as folder:
        context = mp.spawn(worker, (folder,), nprocs=WORLD, join=False)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        alone = everything()
        torch.set_num_threads(threads)
        while not context.join():
            pass
        return alone, torch.load(Path(folder) / "results.pt")


@pytest.mark.parametrize(("name", "variant"), CASES, ids=lambda v: str(v))
def test_two_processes_train_like_one(pairs, name, variant):
    alone, together = (p[f"{name} {variant}"] for p in pairs)
    assert isinstance(alone, dict), alone
    assert alone.keys() == together.keys()
    steps = [f"gradient {step}" for step in range(STEPS)]
    largest = {step: max(float(v.abs().max()) for k, v in alone.items() if k.startswith(step)) for step in steps}
    assert min(largest.values()) > 0
    for key, value in alone.items():
        # gradients that should be zero hold rounding only; a maximum over points may change its place by a last bit
        slack = 10 if variant == "points" else 1
        allowed = slack * (1e-5 + 1e-4 * largest.get(key[:10], 0.0))
        close(together[key], value, rtol=2e-3, atol=allowed, msg=lambda text, key=key: f"{key}: {text}")


def test_primitives(pairs):
    alone, together = (p["primitives"] for p in pairs)
    for key, value in alone.items():
        close(together[key], value, rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


def test_nothing_happens_on_one_process():
    x = torch.randn(4, 3)
    assert (collectives.world_size(), collectives.rank()) == (1, 0)
    assert collectives.gather(x) is collectives.mean(x) is collectives.total(x) is x
