"""Our V-JEPA step beside the same step in plain PyTorch and timm blocks, on the same views, in turn, in one run.

python -m tests.benchmarks.clips [STEPS]: milliseconds of CPU time per step, clips per second, and the ratio.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from methods.vjepa import small_optim
from ssl_bench.data.clips import Clips
from ssl_bench.models.positions import sincos
from ssl_bench.parallel import devices
from ssl_bench.rng import Rng
from ssl_bench.training import train
from ssl_bench.training.method import DataInfo, configured
from ssl_bench.training.optimizer import make_optimizer

BATCH = 32


class Plain(nn.Module):
    """Encoder or predictor: a linear map of what comes in, fixed positions, blocks, LayerNorm, perhaps a way out."""

    def __init__(self, first: nn.Module, dim: int, depth: int, heads: int, grid: tuple[int, ...], out: int = 0) -> None:
        super().__init__()
        self.first, self.norm = first, nn.LayerNorm(dim, 1e-6)
        self.blocks = nn.Sequential(*[Block(dim, heads, qkv_bias=True) for _ in range(depth)])
        for block in self.blocks:
            block.attn.fused_attn = False  # as ours on a CPU
        self.register_buffer("places", sincos(dim, grid))
        self.mask_token, self.out = nn.Parameter(torch.zeros(dim)), nn.Linear(dim, out) if out else nn.Identity()


def taken(tokens: Tensor, index: Tensor) -> Tensor:
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def plain_step(views: dict[str, Tensor], precision: str) -> Callable[[], None]:
    """V-JEPA's step with the shapes of the recipe `quick`: 8 frames of 32 px, tubelets of 2 x 4 x 4, width 64."""
    grid, clips = (4, 8, 8), views["clips"].transpose(1, 2).contiguous()
    student = Plain(nn.Conv3d(3, 64, (2, 4, 4), (2, 4, 4)), 64, 4, 2, grid)
    predictor, teacher = Plain(nn.Linear(64, 64), 64, 2, 2, grid, 64), copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.AdamW([*student.parameters(), *predictor.parameters()], lr=1e-3)

    def tokens(net: Plain) -> Tensor:
        return net.first(clips).flatten(2).transpose(1, 2) + net.places

    def loss(i: int, target: Tensor) -> Tensor:
        keep, asked = views[f"context_{i}"], views[f"targets_{i}"]
        context = student.norm(student.blocks(taken(tokens(student), keep)))
        known = predictor.first(context) + predictor.places[keep]
        x = predictor.blocks(torch.cat([known, (predictor.mask_token + predictor.places[asked]).to(known.dtype)], 1))
        predicted = predictor.out(predictor.norm(x[:, keep.shape[1] :]))
        return F.l1_loss(predicted.float(), taken(target, asked))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            with torch.no_grad():
                target = F.layer_norm(teacher.norm(teacher.blocks(tokens(teacher))).float(), (64,))
            total = (loss(0, target) + loss(1, target)) / 2
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                mine.lerp_(theirs, 0.02)

    return step


def main(steps: int) -> None:
    torch.set_num_threads(1)
    config = configured("vjepa", "quick", [f"budget.batch_size={BATCH}"])
    assert config.optim == small_optim()
    info = DataInfo(Clips(8, 32, 32), 10)
    method = train.build(config, info, torch.device("cpu"))
    views = method.views(torch.from_numpy(info.item.noise(BATCH)), Rng(0, BATCH), 0.5)
    optimizer = make_optimizer(method, config)

    def ours() -> None:
        with devices.autocast(config, torch.device("cpu")):
            loss = method(views, 0.5)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(0.5)

    rows = {"ours": ours, "plain": plain_step(views, config.precision)}
    found: dict[str, list[float]] = {name: [] for name in rows}
    for i in range(steps + 2):
        for name, step in rows.items():
            start = time.process_time()
            step()
            found[name] += [time.process_time() - start] * (i > 1)
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    for name, seconds in medians.items():
        print(f"{name}: {1000 * seconds:.0f} ms of CPU a step, {BATCH / seconds:.0f} clips/s")
    print(f"ours / plain: {medians['plain'] / medians['ours']:.2f} x as many clips per second ({config.precision})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
