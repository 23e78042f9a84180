"""ThinkJEPA's two paths: known values, gates at zero, nobody else's past, nothing of the future."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny
from sines import sines
from torch.utils.flop_counter import FlopCounterMode

from ssl_bench import find
from ssl_bench.config.schema import ViTConfig
from ssl_bench.data.clips import Clips
from ssl_bench.data.dataset import open_data
from ssl_bench.encoders.from_run import from_run
from ssl_bench.errors import UserError
from ssl_bench.models.predictor import Predictor
from ssl_bench.models.thinker import Cells, Guidance, Thinker, ThinkerConfig, tokens
from ssl_bench.models.vit import ViT, explicit_attention
from ssl_bench.training.pretrain import pretrain
from ssl_bench.training.train import Trainer


def weigh(module: torch.nn.Module, seeds: dict[str, int]) -> None:
    """Weights .2 * Z(seed) by name; other weights of norms 1, other vectors 0."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in seeds:
                parameter.copy_(0.2 * sines(seeds[name], *parameter.shape))
            elif parameter.ndim == 1 and "gates" not in name:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)


@pytest.fixture
def published() -> tuple[Predictor, Guidance]:
    """Golden case 15: the released predictor, whose positions take 3 x 3 tokens for a frame."""
    config = ViTConfig(embed_dim=24, depth=1, num_heads=2, patch_size=1, tubelet=1, class_token=False,
                       pos_embed="rope_tiled")  # fmt: skip
    predictor = Predictor(ViT(config, Clips(2, 3, 3)), 24, 2, 2, mask_tokens=2)
    weigh(predictor, {
        "embed.weight": 201, "mask_token": 203, "head.weight": 231,
        "blocks.0.attn.qkv.weight": 207, "blocks.0.attn.proj.weight": 209, "blocks.0.mlp.fc1.weight": 213,
        "blocks.0.mlp.fc2.weight": 215, "blocks.1.attn.qkv.weight": 219, "blocks.1.attn.proj.weight": 221,
        "blocks.1.mlp.fc1.weight": 225, "blocks.1.mlp.fc2.weight": 227,
    })  # fmt: skip
    guidance = Guidance(16, 24, 2, 32)
    weigh(guidance, {"old.weight": 233, "new.weight": 234, "mlps.0.1.weight": 237, "mlps.0.3.weight": 239,
                     "mlps.1.1.weight": 243, "mlps.1.3.weight": 245})  # fmt: skip
    with torch.no_grad():
        predictor.mask_token[1] = 0.2 * sines(204, 1, 24)
        guidance.gates.fill_(0.5)
    return predictor.eval(), guidance


def predicted(predictor: Predictor, guidance: Guidance | None) -> torch.Tensor:
    keep, asked = torch.arange(6).expand(2, -1), torch.arange(6, 12).expand(2, 1, -1)
    old, new = sines(93, 2, 5, 16), sines(94, 2, 3, 16)
    layers = ([x[None].expand(2, -1, -1) for x in part] for part in (old, new))
    guides = guidance(*layers) if guidance else None
    with torch.no_grad():
        return predictor(sines(91, 2, 6, 24), keep, asked, which=1, guides=guides)[:, 0]


def test_the_guided_predictor_is_the_released_one(published):
    """Golden case 15, executed there."""
    found = predicted(*published)
    assert float(found.sum()) == pytest.approx(-25.802164, abs=1e-4)
    assert float(found.abs().sum()) == pytest.approx(124.046646, abs=1e-4)
    assert found[1, 5, :4].tolist() == pytest.approx([-0.655727, 0.515628, 0.551400, -0.425374], abs=1e-5)


def test_gates_at_zero_change_nothing(published):
    predictor, guidance = published
    plain = predicted(predictor, None)
    assert float(plain.abs().sum()) == pytest.approx(154.156769, abs=1e-4)
    with torch.no_grad():
        guidance.gates.zero_()
    assert torch.equal(predicted(predictor, guidance), plain)


CLIPS = Clips(40, 24, 24)
SMALL = ViTConfig(embed_dim=32, depth=1, num_heads=2, patch_size=12, tubelet=1, class_token=False)


def made(gate: float = 0.5, **settings: object) -> tuple[ViT, Thinker, torch.Tensor]:
    """An encoder, both paths with open gates, and three clips [3, 40, 3, 24, 24]."""
    torch.manual_seed(0)
    vit = ViT(SMALL, CLIPS).eval()
    thinker = Thinker(vit, replace(ThinkerConfig(dim=16), **settings)).eval()
    if thinker.config.past != "none":
        torch.nn.init.constant_(thinker.guidance.gates, gate)
    return vit, thinker, torch.rand(3, *CLIPS.shape)


@torch.no_grad()
def foreseen(vit: ViT, thinker: Thinker, clips: torch.Tensor, pasts: torch.Tensor | None = None) -> torch.Tensor:
    past = None if thinker.config.past == "none" else tokens(vit, clips if pasts is None else pasts, thinker.past)
    return thinker(tokens(vit, clips, thinker.keep), past)


def test_cells_are_those_of_the_paper_on_a_smaller_clip():
    cells = Cells.of(ThinkerConfig(), 40)
    assert (cells.recent, cells.slow, cells.future) == (range(24, 32), range(0, 32, 4), range(32, 40))
    assert Cells.of(ThinkerConfig(), 2) == Cells(range(0, 1), range(0, 1, 4), range(1, 2))
    with pytest.raises(UserError, match=r"set data\.frames higher"):
        Cells.of(ThinkerConfig(), 1)


def test_a_clip_is_foreseen_alike_in_any_batch():
    """The first release averaged thoughts over the batch."""
    vit, thinker, clips = made()
    whole = foreseen(vit, thinker, clips)
    for i in range(3):
        assert torch.allclose(whole[i : i + 1], foreseen(vit, thinker, clips[i : i + 1]), atol=1e-5)


def test_the_past_is_read_and_the_future_is_not():
    vit, thinker, clips = made()
    seen = foreseen(vit, thinker, clips)
    later, early = clips.clone(), clips.clone()
    later[:, 32:] = torch.rand_like(later[:, 32:])
    early[:, 4] = 0  # of the slow path alone
    between = clips.clone()
    between[:, 5:8] = 0  # of no path
    assert torch.equal(foreseen(vit, thinker, later), seen)
    assert not torch.allclose(foreseen(vit, thinker, early), seen, atol=1e-4)
    assert torch.equal(foreseen(vit, thinker, between), seen)


def test_no_frame_is_foreseen_by_later_ones():
    """Causal over cells: what is asked of the first cell to come does not depend on how many are asked for."""
    vit, thinker, clips = made()
    whole, four = foreseen(vit, thinker, clips), vit.num_patches // 40
    thinker.asked, thinker.mask = thinker.asked[:, :four], thinker.mask[:, :, : 9 * four, : 9 * four]
    assert torch.allclose(foreseen(vit, thinker, clips), whole[:, :four], atol=1e-5)


def test_closed_gates_are_the_dense_path_alone():
    vit, thinker, clips = made(gate=0.0)
    alone = thinker(tokens(vit, clips, thinker.keep))
    assert torch.equal(foreseen(vit, thinker, clips), alone)
    assert torch.equal(foreseen(vit, thinker, clips, clips.roll(1, 0)), alone)


@pytest.mark.parametrize(("depth", "slow_depth"), [(1, 3), (3, 1), (2, 5)])
def test_every_block_of_the_slow_path_is_read(depth, slow_depth):
    """With one block in the dense path the last of the slow ones guides it."""
    vit, thinker, clips = made(depth=depth, slow_depth=slow_depth)
    thinker(tokens(vit, clips, thinker.keep), tokens(vit, clips, thinker.past)).square().mean().backward()
    assert all(p.grad is not None for p in thinker.parameters() if p.requires_grad)


@pytest.mark.parametrize(("depth", "slow_depth", "thoughts"), [(2, 2, 4), (6, 2, 64), (1, 3, 4)])
def test_flops_are_those_that_torch_counts(depth, slow_depth, thoughts):
    vit, thinker, clips = made(depth=depth, slow_depth=slow_depth, thoughts=thoughts)
    recent, past = tokens(vit, clips, thinker.keep), tokens(vit, clips, thinker.past)
    explicit_attention(thinker, True)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        thinker(recent, past)
    assert thinker.flops() == pytest.approx(counter.get_total_flops() / 3, rel=0.01)


def test_an_encoder_sees_items_as_in_its_own_training(tmp_path):
    """Also in what its new run leaves: by this set's mean and std it would see what it does not know."""
    first = pretrain(tiny("thinkjepa", "", steps=2), tmp_path)
    config = tiny("thinkjepa", "", steps=2)
    config = replace(config, seed=1, objective=replace(config.objective, encoder=str(first.folder)))
    config = replace(config, data=replace(config.data, name="cues:40"))
    method = Trainer(config.check(), open_data(config.data), torch.device("cpu")).method
    known = from_run(first)
    assert method.mean.flatten().tolist() == pytest.approx(known.mean)
    assert method.std.flatten().tolist() == pytest.approx(known.std)
    assert known.mean != pytest.approx(open_data(config.data).mean, abs=0.05)
    second = from_run(pretrain(config, tmp_path))
    assert (second.mean, second.std, second.weights_sha256) == (known.mean, known.std, known.weights_sha256)


def trainer(recipe: str) -> Trainer:
    config = replace(tiny("thinkjepa", "", precision="fp32"), objective=find.recipe("thinkjepa", recipe)().objective)
    return Trainer(config.check(), open_data(config.data), torch.device("cpu"))


def test_the_control_reads_the_past_of_the_clip_before():
    own, other = trainer("quick").method, trainer("other")
    items, _, rng = other.batch(0)
    for method in (own, other.method):
        torch.nn.init.constant_(method.thinker.guidance.gates, 0.5)
    views, t = own.views(items, rng, 0.0), own.thinker
    recent, past, future = (tokens(own.encoder, views["clips"], keep) for keep in (t.keep, t.past, t.asked))
    for method, read in ((own, past), (other.method, past.roll(1, 0))):
        assert torch.equal(method(views, 0.0)["loss"], F.mse_loss(own.thinker(recent, read), future))
    assert not torch.equal(own(views, 0.0)["loss"], other.method(views, 0.0)["loss"])


def test_all_arms_of_a_seed_have_one_encoder_and_about_one_cost():
    arms = {name: trainer(name) for name in ("quick", "other", "alone", "deeper")}
    weights = [t.method.encoder.state_dict() for t in arms.values()]
    assert all(torch.equal(weights[0][k], w[k]) for w in weights[1:] for k in w)
    cost = {name: find.recipe("thinkjepa", name) for name in arms}
    flops = {name: Trainer(c(), open_data(c().data), torch.device("cpu")).flops_per_image for name, c in cost.items()}
    assert flops["quick"] == flops["other"]
    assert flops["alone"] < flops["deeper"]
    assert flops["deeper"] == pytest.approx(flops["quick"], rel=0.15)
