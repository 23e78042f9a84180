"""Pictures of a finished run for its page: what the method looks at, and what its encoder makes of held-out images.

Every picture is a sheet: one column per image, one row per kind. Images come from the validation part of the training
split; the test split stays sealed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from results.page import Picture
from ssl_bench import find
from ssl_bench.data.dataset import Dataset, open_data
from ssl_bench.data.trajectories import Trajectories
from ssl_bench.encoders import encoder as encoder_
from ssl_bench.encoders import from_run
from ssl_bench.evaluation import features
from ssl_bench.experiments import dense_pictures, plans, strips
from ssl_bench.experiments.sheets import colours, looked_at, sheet, visible
from ssl_bench.models.tokenizer import patchify
from ssl_bench.models.vit import ViT
from ssl_bench.rng import Rng
from ssl_bench.training import checkpoint, run_folder, train
from ssl_bench.training.method import DataInfo, Method

BANK, ASKED, NEIGHBOURS = 1000, 200, 5  # images: to find among, to count for, and to show
CENTRE = 100  # training images whose mean token is taken off PCA maps


@torch.no_grad()
def of_run(run: run_folder.Run, count: int = 6) -> list[Picture]:
    """All pictures that this run can give: masks and views, reconstructions, PCA and attention maps, neighbours."""
    config = run.config()
    whole = open_data(config.data, config.run)
    run_folder.same_images(run, whole.name, whole.fingerprint)
    data, rows = whole.pictured(), np.linspace(0, len(whole.val) - 1, count).astype(int)
    images = data.val.batch(rows)
    if data.item.floats(images).ndim < 4:  # a cloud of points: nothing here draws it
        return []
    encoder = from_run.from_run(run)
    out: list[Picture] = []
    method: Method | None = None
    if not isinstance(config.objective, dict):  # a scratch method: its code is run on its author's command alone
        kinds = find.defined(find.module("methods", config.method), Method).kinds
        info = DataInfo(whole.item.as_kind(kinds), len(data.classes), data.mean, data.std)
        method = train.build(config, info, torch.device("cpu")).eval()
        if isinstance(info.item, Trajectories):
            frames = info.item.frames(whole.val.batch(rows)).float() / 255
            told = f"held-out trajectories, every {info.item.every} steps"
            out = [Picture("Trajectories", told, sheet(list(frames[:, :12])))]
            out += plans.of_run(encoder, whole)
    if data.item.name == "clip":
        return strips.of_run(method, encoder, images, data)
    if method:
        out = out or of_views(method, images)
        state = checkpoint.load(run.folder)[0] if hasattr(method, "reconstruct") else None
        if state is not None:
            method.load_state_dict(state["method"])
            out += reconstructions(method, images)
    root = run.folder.parent
    return [
        *out,
        pca_maps(encoder, images, data),
        *dense_pictures.of_run(encoder, data, rows),
        attention_maps(encoder, images, data),
        neighbours(encoder, data, count, root),
    ]


def of_views(method: Method, images: Tensor) -> list[Picture]:
    """The crops and masks that the method draws for these images, whatever it calls them."""
    item = method.info.item
    views = method.views(item.seen(images), Rng(0, len(images)), 0.5)
    rows, names = looked_at(method, views, item.floats(images), "image", _only)
    alt = f"What the method looks at, for {len(images)} images; rows from the top: {', '.join(names)}"
    return [Picture(f"Views and masks: {', '.join(names)}", alt, sheet(rows))] if len(rows) > 1 else []


def _only(images: Tensor, shown: Tensor, vit: ViT) -> Tensor:
    """Grey where a patch is not shown."""
    mask = shown.float().unflatten(1, vit.grid).unsqueeze(1)
    mask = F.interpolate(mask, size=images.shape[-2:], mode="nearest")
    return images * mask + 0.5 * (1 - mask)


def reconstructions(method: Any, images: Tensor) -> list[Picture]:
    """The image, what the encoder saw of it, and the pixels the decoder put in the holes."""
    views = method.views(method.info.item.seen(images), Rng(1, len(images)), 0.5)
    x, keep = views["images"], views["keep"]
    vit, patches = method.encoder, patchify(views["images"], method.encoder.config.patch_size)
    predicted = method.reconstruct(x, keep).float()
    if getattr(method.objective, "norm_pix", False):  # back to pixels with each patch's own mean and deviation
        predicted = predicted * (patches.var(-1, keepdim=True) + 1e-6).sqrt() + patches.mean(-1, keepdim=True)
    seen = torch.zeros(patches.shape[:2], dtype=torch.bool).scatter(1, keep, True)
    filled = torch.where(seen.unsqueeze(-1), patches, predicted)
    rows = [visible(x, method), _only(visible(x, method), seen, vit), visible(_unpatchify(filled, vit, x), method)]
    text = f"Reconstruction of {len(images)} held-out images; rows from the top: image, visible patches, reconstruction"
    return [Picture("Reconstruction: image, visible, filled in", text, sheet(rows))]


def _unpatchify(patches: Tensor, vit: ViT, like: Tensor) -> Tensor:
    """The inverse of `patchify`."""
    p, (h, w) = vit.config.patch_size, vit.grid
    x = patches.reshape(len(patches), h, w, like.shape[1], p, p)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(like.shape)


def pca_maps(encoder: encoder_.Encoder, images: Tensor, data: Dataset) -> Picture:
    """The first three principal components of the patch tokens of all these images together, as colours.

    Tokens carry their position, which would fill all three; its mean over training images is taken off first.
    """

    def tokens_of(x: Tensor) -> Tensor:
        return encoder.encode(x, layers=1, want_tokens=True)["tokens"].float().cpu().nan_to_num()

    bank = np.linspace(0, len(data.train) - 1, min(CENTRE, len(data.train))).astype(int)
    tokens = tokens_of(images) - tokens_of(data.train.batch(bank)).mean(0)
    maps = colours(tokens).unflatten(1, encoder.grid).permute(0, 3, 1, 2)
    text = f"Patch features of {len(images)} held-out images, three principal components as colours, position removed"
    return Picture("PCA of patch features", text, sheet([data.item.floats(images), maps]))


def attention_maps(encoder: encoder_.Encoder, images: Tensor, data: Dataset) -> Picture:
    """Where the last block looks: attention of CLS (or, without one, the mean over patches) to the patches."""
    vit: ViT = encoder.model
    x = vit.embed(encoder.prepare(images))
    for block in list(vit.blocks)[:-1]:
        x = block(x)
    last: Any = vit.blocks[-1]
    a = last.attn
    q, k, _ = a.qkv(last.norm1(x)).unflatten(-1, (3, a.num_heads, -1)).permute(2, 0, 3, 1, 4)
    weights = ((a.q_norm(q) @ a.k_norm(k).transpose(-2, -1)) * a.scale).softmax(-1)  # [B, heads, T, T]
    prefix = vit.num_prefix
    rows = weights[:, :, 0, prefix:] if encoder.has_cls else weights[:, :, prefix:, prefix:].mean(2)
    heads = rows.mean(1)
    heads = (heads - heads.amin(1, keepdim=True)) / (heads.amax(1, keepdim=True) - heads.amin(1, keepdim=True) + 1e-9)
    maps = heads.nan_to_num().reshape(len(images), 1, *vit.grid)
    shown = data.item.floats(images)
    maps = F.interpolate(maps, size=shown.shape[-2:], mode="nearest")
    who = "CLS" if encoder.has_cls else "all patches"
    text = f"Attention of {who} in the last block over {len(images)} held-out images, mean of heads; bright: more"
    return Picture(f"Attention of {who}, last block", text, sheet([shown, maps, shown * maps]))


def neighbours(encoder: encoder_.Encoder, data: Dataset, count: int, root: Path) -> Picture:
    """Held-out images (first row) over their nearest training images by cosine."""
    places = np.linspace(0, len(data.val) - 1, count).astype(int)
    bank = np.linspace(0, len(data.train) - 1, min(BANK, len(data.train))).astype(int)
    more = np.linspace(0, len(data.val) - 1, min(ASKED, len(data.val))).astype(int)
    asked = np.unique(np.concatenate([places, more]))
    queries, keys = (_features(encoder, data, part, rows, root) for part, rows in (("val", asked), ("train", bank)))
    near = (queries @ keys.T).topk(min(NEIGHBOURS, len(bank)), dim=1).indices
    same = data.train.labels[torch.from_numpy(bank)][near] == data.val.labels[asked][:, None]
    share = (
        f"{100 * float(same.float().mean()):.0f} % of the neighbours of {len(asked)} held-out images share the class"
    )
    shown = near[torch.from_numpy(np.searchsorted(asked, places))]
    rows = [data.item.floats(data.val.batch(places))]
    rows += [data.item.floats(data.train.batch(bank[index])) for index in shown.T.numpy()]
    text = f"{count} held-out images, each above its nearest training images; {share}"
    return Picture(f"Nearest neighbours: {share}", text, sheet(rows))


def _features(encoder: encoder_.Encoder, data: Dataset, part: str, rows: np.ndarray, root: Path) -> Tensor:
    """L2-normalised features [N, D] in the encoder's own pooling; those of an evaluation where there was one."""
    split = data.val if part == "val" else data.train
    if found := features.kept(encoder, split, part, data.fingerprint, root):
        z = found[encoder.pooling][torch.from_numpy(rows), -1]
    else:
        chunks = split.batch(rows).split(250)
        z = torch.cat([encoder.encode(chunk, layers=1)[encoder.pooling][:, -1].float().cpu() for chunk in chunks])
    return F.normalize(z.nan_to_num(), dim=-1)
