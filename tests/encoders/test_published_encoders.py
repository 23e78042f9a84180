"""Checkpoints built in each official layout from random weights; broken ones refused by a sentence."""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ssl_bench.config.schema import DataConfig
from ssl_bench.encoders import published, resolve
from ssl_bench.encoders.networks import CapiBlock, CapiViT
from ssl_bench.errors import UserError
from ssl_bench.evaluation import evaluate

DIM, DEPTH, PATCH, SIZE = 64, 3, 8, 32
IMAGES = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def vit(**changes) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(SIZE, PATCH, num_classes=0, embed_dim=DIM, depth=DEPTH, num_heads=2, **changes)
    for p in model.parameters():
        nn.init.normal_(p, std=0.1)
    return model.eval()


def save(tmp_path, content, name="model.pth"):
    torch.save(content, tmp_path / name)
    return f"file:{tmp_path / name}"


def prefixed(state, prefix):
    return {prefix + k: v for k, v in state.items()}


def layouts(state):
    """family -> (file content, settings)"""
    head = {"head.mlp.0.weight": torch.zeros(3, DIM)}
    return {
        "mae": {"model": state | {"mask_token": torch.zeros(1, 1, DIM), "decoder_embed.weight": torch.zeros(2, DIM)}},
        "dino": {"student": prefixed(state, "module.backbone."), "teacher": prefixed(state | head, "backbone.")},
        "dino-plain": state,
        "ibot": {"state_dict": state | {"masked_embed": torch.zeros(1, DIM)}},
        "mocov3": {
            "state_dict": prefixed(state | {"head.0.weight": torch.zeros(2, DIM)}, "module.base_encoder.")
            | prefixed(state, "module.momentum_encoder.") | {"module.predictor.0.weight": torch.zeros(2, 2)},
        },
    }  # fmt: skip


@pytest.mark.parametrize("family", ["mae", "dino", "dino-plain", "ibot", "mocov3"])
def test_layouts_with_a_class_token_give_the_models_own_tokens(family, tmp_path):
    model = vit()
    encoder = resolve.resolve(save(tmp_path, layouts(model.state_dict())[family]) + ",heads=2", tmp_path)
    found = encoder.encode(IMAGES, want_tokens=True)
    x = encoder.prepare(IMAGES)
    assert x.shape == (2, 3, SIZE, SIZE)
    expected = model.forward_features(x)
    assert torch.allclose(found["cls"][:, -1], expected[:, 0], atol=1e-4)
    assert torch.allclose(found["tokens"], expected[:, 1:], atol=1e-4)
    assert encoder.pooling == "cls"
    assert "dropped" in encoder.entry["source"] or family == "dino-plain"


@pytest.mark.parametrize("key", ["encoder", "target_encoder"])
def test_ijepa_reads_the_network_that_is_asked_for(key, tmp_path):
    model = vit(class_token=False, global_pool="avg", fc_norm=False)
    state, zero = model.state_dict(), {k: torch.zeros_like(v) for k, v in model.state_dict().items()}
    other = {"encoder": "target_encoder", "target_encoder": "encoder"}[key]
    content = {key: prefixed(state, "module."), other: prefixed(zero, "module."), "opt": {}, "epoch": 1}
    settings = ",heads=2" + (",key=encoder" if key == "encoder" else "")  # target_encoder is the default
    encoder = resolve.resolve(save(tmp_path, content, "in1k.pth.tar") + settings, tmp_path)
    assert encoder.entry["evaluated"] == key
    assert encoder.pooling == "mean"
    assert torch.allclose(
        encoder.encode(IMAGES)["mean"][:, -1], model.forward_features(encoder.prepare(IMAGES)).mean(1), atol=1e-4
    )


def test_dinov2_with_registers_and_block_chunks(tmp_path):
    model = vit(init_values=1e-5, reg_tokens=4)
    model.pos_embed.data[:, 1:5] = 0  # DINOv2's registers have no position; timm's layout here has one
    state = {k: v for k, v in model.state_dict().items() if k != "reg_token"}
    state["register_tokens"] = model.reg_token.data
    state["pos_embed"] = torch.cat([model.pos_embed.data[:, :1], model.pos_embed.data[:, 5:]], 1)
    state["mask_token"] = torch.zeros(1, DIM)
    state = {k.replace("blocks.", "blocks.0.") if k.startswith("blocks.") else k: v for k, v in state.items()}
    encoder = resolve.resolve(save(tmp_path, state) + ",heads=2", tmp_path)
    expected = model.forward_features(encoder.prepare(IMAGES))
    found = encoder.encode(IMAGES, want_tokens=True)
    assert torch.allclose(found["cls"][:, -1], expected[:, 0], atol=1e-4)
    assert torch.allclose(found["tokens"], expected[:, 5:], atol=1e-4)


def test_data2vec_is_post_norm(tmp_path):
    d2v = "modality_encoders.IMAGE."
    model = vit()
    state = {k: v for k, v in model.state_dict().items() if k.startswith("blocks.")}
    g = torch.Generator().manual_seed(1)
    extra = {
        f"{d2v}extra_tokens": torch.randn(1, 1, DIM, generator=g), f"{d2v}local_encoder.proj.bias": torch.zeros(DIM),
        f"{d2v}fixed_positional_encoder.positions": torch.randn(1, 16, DIM, generator=g),
        f"{d2v}local_encoder.proj.weight": torch.randn(DIM, 3, PATCH, PATCH, generator=g),
        f"{d2v}context_encoder.norm.weight": torch.ones(DIM), f"{d2v}context_encoder.norm.bias": torch.zeros(DIM),
        f"{d2v}decoder.proj.weight": torch.zeros(2, 2),
    }  # fmt: skip
    encoder = resolve.resolve(save(tmp_path, {"model": state | extra}) + ",heads=2", tmp_path)
    x = F.conv2d(encoder.prepare(IMAGES), extra[f"{d2v}local_encoder.proj.weight"], stride=PATCH).flatten(2).mT
    x = x + extra[f"{d2v}fixed_positional_encoder.positions"]
    x = F.layer_norm(torch.cat([extra[f"{d2v}extra_tokens"].expand(2, -1, -1), x], 1), (DIM,), eps=1e-6)
    for block in model.blocks:
        x = block.norm1(x + block.attn(x))
        x = block.norm2(x + block.mlp(x))
    found = encoder.encode(IMAGES, want_tokens=True)
    assert torch.allclose(found["tokens"], x[:, 1:], atol=1e-4)
    assert torch.allclose(found["cls"][:, -1], x[:, 0], atol=1e-4)


def capi():
    """A random network and its weights under the official names."""
    torch.manual_seed(0)
    model = CapiViT(DIM, DEPTH, 2, PATCH, 16)
    for p in model.parameters():
        nn.init.normal_(p, std=0.2)
    names = {"norm1": "residual1.norm", "norm2": "residual2.norm", "freqs": "residual1.fn.rope.freqs"}
    names |= {k: f"residual1.fn.{k}_proj" for k in "qkv"} | {"proj": "residual1.fn.proj"}
    names |= {k: f"residual2.fn.{k}" for k in ("fc1", "fc2")}
    state = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if parts[0] == "blocks":
            key = ".".join(["encoder.blocks", parts[1], names[parts[2]], *parts[3:]])
        elif parts[0] == "predictor":
            key = ".".join(["decoder.blocks.0", names[parts[1]], *parts[2:]])
        state["backbone." + key] = value
    state["backbone.decoder.blocks.1.residual1.norm.weight"] = torch.zeros(1)
    return model, state


@torch.no_grad()
def test_capi_pools_by_the_first_block_of_its_predictor(tmp_path):
    model, state = capi()
    source = save(tmp_path, state) + f",size={SIZE}"
    encoder = resolve.resolve(source, tmp_path)
    assert (encoder.pooling, encoder.has_cls, resolve.resolve(source + ",pooling=mean", tmp_path).pooling) == (
        "cls", True, "mean",
    )  # fmt: skip
    assert "cls: predictor pooling; dropped: decoder" in encoder.entry["source"]
    found = encoder.encode(IMAGES, want_tokens=True)
    x = model.patch_embed(encoder.prepare(IMAGES)).flatten(2).transpose(1, 2)
    rows = torch.linspace(0, 1, SIZE // PATCH)
    grid = torch.tensor([[a, b] for a in rows for b in rows])
    edge = torch.tensor([[i / 4, 0.0] for i in range(4)] + [[1, i / 4] for i in range(4)]
                        + [[1 - i / 4, 1] for i in range(4)] + [[0, 1 - i / 4] for i in range(4)])  # fmt: skip
    x = torch.cat([model.registers.expand(2, -1, -1), x], 1)
    for block in model.blocks:
        x = block(x, torch.cat([edge, grid]))
    last = x / (x.square().mean(2, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(found["tokens"], last[:, 16:], atol=1e-4)
    assert torch.allclose(found["mean"][:, -1], last[:, 16:].mean(1), atol=1e-4)
    answers = model.predictor(model.mask_token.expand(2, 16, -1), grid, (last, torch.cat([edge, grid])))
    pooled = (answers / (answers.square().mean(2, keepdim=True) + 1e-5).sqrt()).mean(1)
    assert torch.allclose(found["cls"], pooled[:, None].expand(-1, DEPTH, -1), atol=1e-4)
    del state["backbone.mask_token"]
    with pytest.raises(UserError, match="missing: mask_token"):
        resolve.resolve(save(tmp_path, state), tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("asks", [False, True], ids=["itself", "a context"])
def test_capi_block_equals_a_plain_loop(asks):
    torch.manual_seed(0)
    block = CapiBlock(16, 2)
    nn.init.normal_(block.freqs)
    x, places = torch.randn(1, 5, 16), torch.rand(5, 2)
    y = x[0] / (x[0].square().mean(1, keepdim=True) + 1e-5).sqrt()
    seen, where = (torch.randn(7, 16), torch.rand(7, 2)) if asks else (y, places)
    q, k, v = block.q(y), block.k(seen), block.v(seen)
    out = torch.zeros(5, 16)
    for head in (0, 8):
        turned = []
        for z, at in ((q[:, head : head + 8].clone(), places), (k[:, head : head + 8].clone(), where)):
            for t in range(len(z)):
                angle = at[t] @ block.freqs
                for i in range(4):  # channels i and i + 4 turn together; each has its own learned frequency
                    a, b = z[t, i].clone(), z[t, i + 4].clone()
                    z[t, i] = a * angle[i].cos() - b * angle[i].sin()
                    z[t, i + 4] = b * angle[i + 4].cos() + a * angle[i + 4].sin()
            turned.append(z)
        out[:, head : head + 8] = (turned[0] @ turned[1].T / 8**0.5).softmax(1) @ v[:, head : head + 8]
    z = x[0] + block.proj(out)
    expected = z + block.fc2(F.gelu(block.fc1(z / (z.square().mean(1, keepdim=True) + 1e-5).sqrt())))
    found = block(x, places, (seen[None], where)) if asks else block(x, places)
    assert torch.allclose(found[0], expected, atol=1e-5)


def test_a_torch_hub_folder(tmp_path):
    (tmp_path / "hubconf.py").write_text(
        "import torch\nfrom timm.models.vision_transformer import VisionTransformer\n"
        "class V(VisionTransformer):\n"
        "    def get_intermediate_layers(self, x, n=1):\n"
        "        return [torch.cat([p, t], 1) for t, p in self.forward_intermediates(x, n, return_prefix_tokens=True,"
        " norm=True, output_fmt='NLC', intermediates_only=True)]\n"
        "def tiny():\n    return V(32, 8, num_classes=0, embed_dim=64, depth=3, num_heads=2)\n"
    )
    encoder = resolve.resolve(f"hub:{tmp_path}:tiny,size=32", tmp_path)
    found = encoder.encode(IMAGES, want_tokens=True)
    expected = encoder.model.model.forward_features(encoder.prepare(IMAGES))
    assert torch.allclose(found["tokens"], expected[:, 1:], atol=1e-5)
    assert found["cls"].shape == (2, 3, DIM)


def test_timm_models_bring_their_own_transform():
    encoder = published.from_timm("vit_tiny_patch16_224,size=32", pretrained=False)
    assert (encoder.image_size, encoder.resize, encoder.mean) == (32, 36, (0.5, 0.5, 0.5))
    found = encoder.encode(IMAGES, want_tokens=True)
    expected = encoder.model.model.forward_features(encoder.prepare(IMAGES))
    assert torch.allclose(found["cls"][:, -1], expected[:, 0], atol=1e-4)
    assert found["tokens"].shape == (2, 4, 192)


def test_an_official_checkpoint_is_evaluated_like_any_run(tmp_path):
    source = save(tmp_path, {"model": vit().state_dict()}) + ",heads=2"
    record = evaluate.evaluate(source, "knn", DataConfig(), tmp_path, device="cpu")
    assert record.method == "mae:model"
    assert record.encoder["evaluated"] == "model"
    assert record.value > 12


class Bomb:
    def __reduce__(self):
        return os.system, ("true",)


def test_broken_checkpoints_are_refused_by_name(tmp_path):
    state = vit().state_dict()
    cases = {
        "missing: blocks.1.norm1.weight": {k: v for k, v in state.items() if k != "blocks.1.norm1.weight"},
        "left over: blocks.1.surprise": state | {"blocks.1.surprise": torch.zeros(1)},
        "not a square grid": state | {"pos_embed": torch.zeros(1, 18, DIM)},
        "could run code": {"model": state, "args": Bomb()},
        "not an encoder": {"model": {"conv1.weight": torch.zeros(1)}},
    }
    for i, (sentence, content) in enumerate(cases.items()):
        with pytest.raises(UserError, match=sentence):
            resolve.resolve(save(tmp_path, content, f"{i}.pth") + ",heads=2", tmp_path)
    (tmp_path / "cut.pth").write_bytes((tmp_path / "0.pth").read_bytes()[:1000])
    for source, sentence in (
        (f"file:{tmp_path}/0.pth,patch=16", "patches of 8 x 8"),
        (f"file:{tmp_path}/0.pth,size=30", "does not fit size=30"),
        (f"file:{tmp_path}/0.pth,haeds=2", "mean 'heads'"),
        (f"file:{tmp_path}/cut.pth", "not a readable checkpoint"),
        (f"file:{tmp_path}/none.pth", "no file"),
        ("timm:vit_tny_patch16_224", "mean 'vit_tiny_patch16_224'"),
        ("hub:nothing", "write hub:REPO:NAME"),
    ):
        with pytest.raises(UserError, match=sentence):
            resolve.resolve(source, tmp_path)


@pytest.mark.parametrize("kind", ["ViT", "Dinov2WithRegisters", "ViTMAE", "IJepa"])
def test_transformers_models_give_their_own_tokens(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=DIM, num_hidden_layers=DEPTH, num_attention_heads=2, image_size=SIZE, patch_size=PATCH
    )
    config.mask_ratio = 0.0
    model = getattr(transformers, f"{kind}Model")(config).eval()
    model.save_pretrained(tmp_path)
    encoder = resolve.resolve(f"hf:{tmp_path}", tmp_path)
    order = {"noise": torch.arange(16.0).expand(2, -1)} if kind == "ViTMAE" else {}  # it shuffles the patches by noise
    expected = model(encoder.prepare(IMAGES), **order).last_hidden_state[:, encoder.model.num_prefix :]
    assert torch.allclose(encoder.encode(IMAGES, want_tokens=True)["tokens"], expected, atol=1e-5)
