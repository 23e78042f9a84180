"""From items to tokens, a tokenizer for each kind: patches of images, tubelets of clips, groups of points, words.

Shapes: B items, T frames, C channels, N patches, n kept patches, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.config.schema import ViTConfig
from ssl_bench.data.items import Kind
from ssl_bench.data.points import EACH
from ssl_bench.errors import UserError
from ssl_bench.models import texts
from ssl_bench.models.groups import PointNet, neighbours


def patchify(images: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] -> [B, N, C*p*p], channels first inside a patch (the order of a conv weight)."""
    b, c, h, w = images.shape
    grid = images.reshape(b, c, h // patch, patch, w // patch, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // patch) * (w // patch), c * patch * patch)


def tubelets(clips: Tensor, tubelet: int, patch: int) -> Tensor:
    """[B, T, C, H, W] -> [B, N, C*t*p*p]: tokens in the order time, row, column; numbers as in a conv weight."""
    b, t, c, h, w = clips.shape
    grid = clips.reshape(b, t // tubelet, tubelet, c, h // patch, patch, w // patch, patch)
    return grid.permute(0, 1, 4, 6, 3, 2, 5, 7).reshape(b, -1, c * tubelet * patch * patch)


class PatchEmbed(nn.Module):
    """A linear map of each patch. The weight has conv shape [D, C, p, p], as in timm."""

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj: nn.Conv2d | nn.Conv3d = self.conv(channels, dim)
        nn.init.xavier_uniform_(self.proj.weight.view(dim, -1))
        nn.init.zeros_(self.proj.bias)  # type: ignore[arg-type]

    def conv(self, channels: int, dim: int) -> nn.Conv2d | nn.Conv3d:
        """What holds the weights."""
        return nn.Conv2d(channels, dim, self.patch, stride=self.patch)

    @property
    def token_flops(self) -> float:
        """Forward FLOPs for one token, 2 per multiply-add."""
        return 2.0 * self.proj.weight.numel()

    @property
    def numbers(self) -> int:
        """That a token sees."""
        return self.proj.weight[0].numel()

    def centres(self, clouds: Tensor) -> Tensor:
        """Where groups of points lie; patches lie on a grid instead."""
        raise UserError("Patches have no centres: this network takes clouds of points.")

    def tokens(self, size: int, grid: tuple[int, ...]) -> int:
        """Tokens of a crop of `size` pixels per side, of all frames, where `grid` is that of whole items."""
        return math.prod(grid[:-2]) * (size // self.patch) ** 2

    def grid(self, images: Tensor) -> tuple[int, ...]:
        """Patches down and across images [B, C, H, W] of any size."""
        return (images.shape[-2] // self.patch, images.shape[-1] // self.patch)

    def attention(self, images: Tensor) -> Tensor | None:
        """What is added to attention scores, [B, 1, N, N], where not every token sees every other."""
        return None

    def patches(self, images: Tensor) -> Tensor:
        """What each token sees: [B, N, C*p*p]."""
        return patchify(images, self.patch)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, n, D]; patches that are not kept are dropped before the projection."""
        patches = self.patches(images)
        if keep is not None:
            patches = gather(patches, keep)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class TubeletEmbed(PatchEmbed):
    """A linear map of each block of `tubelet` frames x p x p pixels. The weight is that of V-JEPA's and VideoMAE's

    convolution, [D, C, t, p, p].
    """

    def __init__(self, channels: int, dim: int, patch: int, tubelet: int) -> None:
        self.tubelet = tubelet
        super().__init__(channels, dim, patch)

    def conv(self, channels: int, dim: int) -> nn.Conv3d:
        size = (self.tubelet, self.patch, self.patch)
        return nn.Conv3d(channels, dim, size, stride=size)

    def grid(self, clips: Tensor) -> tuple[int, ...]:
        """Tubelets in time, patches down and across clips [B, T, C, H, W]."""
        return (clips.shape[1] // self.tubelet, *super().grid(clips))

    def patches(self, clips: Tensor) -> Tensor:
        return tubelets(clips, self.tubelet, self.patch)


class GroupEmbed(PatchEmbed):
    """Groups of `size` neighbours around the first points, each one token. Groups that are not kept cost nothing."""

    def __init__(self, dim: int, size: int) -> None:
        nn.Module.__init__(self)
        self.patch = size
        self.net = PointNet(dim, max(16, dim // 3))  # 128, 256, 512, 512 at the published width of 384

    @property
    def token_flops(self) -> float:
        return self.patch * self.net.flops()

    @property
    def numbers(self) -> int:
        return 3 * self.patch

    def grid(self, clouds: Tensor) -> tuple[int, ...]:
        """Groups of clouds [B, P, 3] of any number of points."""
        return (EACH * clouds.shape[1] // self.patch,)

    def tokens(self, size: int, grid: tuple[int, ...]) -> int:
        return EACH * size // self.patch

    def centres(self, clouds: Tensor) -> Tensor:
        """[B, G, 3]."""
        return clouds[:, : self.grid(clouds)[0]]

    def patches(self, clouds: Tensor) -> Tensor:
        """The points of each group relative to its centre: [B, G, k * 3]."""
        return neighbours(clouds, self.centres(clouds), self.patch).flatten(2)

    def forward(self, clouds: Tensor, keep: Tensor | None = None) -> Tensor:
        """[B, P, 3] -> [B, n, D]."""
        centres = self.centres(clouds) if keep is None else gather(self.centres(clouds), keep)
        return self.net(neighbours(clouds, centres, self.patch))


class TextEmbed(PatchEmbed):
    """A vector for each token of a dictionary: its row of `table` times sqrt(D). Padding is seen by none.

    The table tells what comes next, too (texts.logits): its rows have length 1 at first, on average.
    """

    def __init__(self, dim: int, causal: bool) -> None:
        nn.Module.__init__(self)
        self.patch, self.causal = 1, causal
        self.table = nn.Parameter(torch.randn(texts.ROWS, dim) * dim**-0.5)

    @property
    def token_flops(self) -> float:
        return 0.0

    @property
    def numbers(self) -> int:
        return 1

    def grid(self, pairs: Tensor) -> tuple[int, ...]:
        """Tokens of Text, of pairs [B, 2, L]."""
        return (pairs.shape[-1],)

    def tokens(self, size: int, grid: tuple[int, ...]) -> int:
        return size

    def attention(self, pairs: Tensor) -> Tensor:
        there = pairs[:, 0] != texts.PAD
        return texts.attention(there.long() - 1, self.causal)

    def patches(self, pairs: Tensor) -> Tensor:
        return pairs[:, 0, :, None]

    def look_up(self, ids: Tensor) -> Tensor:
        """Tokens [..., N] -> [..., N, D]."""
        return self.table[ids] * self.table.shape[1] ** 0.5

    def forward(self, pairs: Tensor, keep: Tensor | None = None) -> Tensor:
        ids = pairs[:, 0].long()
        return self.look_up(ids if keep is None else ids.gather(1, keep))


def gather(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, n] of tokens [B, N, D] -> [B, n, D]."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def _image(item: Kind, config: ViTConfig) -> PatchEmbed:
    if config.tubelet != ViTConfig.tubelet:
        raise UserError(f"backbone.tubelet joins frames and has no effect on {item.noun}: leave it out.")
    return PatchEmbed(item.channels, config.embed_dim, config.patch_size)


def _clip(item: Kind, config: ViTConfig) -> PatchEmbed:
    return TubeletEmbed(item.channels, config.embed_dim, config.patch_size, config.tubelet)


def _points(item: Kind, config: ViTConfig) -> PatchEmbed:
    return GroupEmbed(config.embed_dim, config.patch_size)


def _text(item: Kind, config: ViTConfig) -> PatchEmbed:
    if config.class_token or config.reg_tokens:
        raise UserError("Texts are read without CLS and registers: set backbone.class_token=false and reg_tokens=0.")
    return TextEmbed(config.embed_dim, config.causal)


TOKENIZERS: dict[str, Callable[[Kind, ViTConfig], PatchEmbed]] = {  # by kind of item
    "image": _image, "clip": _clip, "points": _points, "text": _text,
    "sound": _image,  # patches of its spectrogram
    "trajectory": _image,  # frame by frame
    "captioned": _image,
}  # fmt: skip


def tokenizer(item: Kind, config: ViTConfig) -> PatchEmbed:
    """The first layer for items of this kind; `UserError` where the positions are not for its tokens."""
    if (item.name == "points") != (config.pos_embed == "centres"):
        raise UserError(
            f"backbone.pos_embed={config.pos_embed} is not for {item.noun}: centres is for clouds of points, the "
            "others are for grids of patches."
        )
    if config.causal and item.name != "text":
        raise UserError(f"backbone.causal is for texts and has no effect on {item.noun}: leave it out.")
    return TOKENIZERS[item.name](item, config)
