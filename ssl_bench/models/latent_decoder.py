"""What gives a token at every place from those at the visible ones, where items are encoded without what is hidden.

Patches lie on a grid: data2vec 2.0's convolutions (fairseq, models/modalities/modules.py), in two axes or, of clips, in
three. Groups of points have none: Point2Vec's transformer, which is Point-MAE's decoder. Shapes: B items, N places, n
visible ones, P prefix tokens, D the encoder's width.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.errors import UserError
from ssl_bench.models.pointdecoder import PointDecoder
from ssl_bench.models.vit import ViT
from ssl_bench.rng import Rng


class ConvDecoder(nn.Module):
    """Grouped convolutions of 3 places a side, each with LayerNorm (no affine), GELU and a residual where widths agree;
    Linear.
    """

    def __init__(self, vit: ViT, dim: int, depth: int, groups: int, noise: float) -> None:
        super().__init__()
        width, kind = vit.config.embed_dim, nn.Conv3d if len(vit.grid) == 3 else nn.Conv2d
        self.num_prefix, self.grid, self.noise = vit.num_prefix, vit.grid, noise
        convs = [kind(dim if i else width, dim, 3, padding=1, groups=groups) for i in range(depth)]
        self.convs, self.head = nn.ModuleList(convs), nn.Linear(dim, width)

    def hidden(self, vit: ViT, items: Tensor, rng: Rng) -> Tensor:
        """What stands at hidden places: noise [B, N, D]."""
        return rng.randn(vit.num_patches, self.head.out_features) * self.noise

    def forward(self, tokens: Tensor, keep: Tensor, noise: Tensor) -> Tensor:
        """Tokens [B, P + n, D] at positions keep [B, n], noise [B, N, D] elsewhere -> predictions [B, N, D]."""
        visible = tokens[:, self.num_prefix :]
        x = noise.to(visible.dtype).scatter(1, keep.unsqueeze(-1).expand_as(visible), visible)
        x = x.transpose(1, 2).unflatten(2, self.grid)
        for conv in self.convs:
            y = conv(x).movedim(1, -1)
            y = F.gelu(F.layer_norm(y, y.shape[-1:])).movedim(-1, 1)
            x = x + y if x.shape == y.shape else y
        return self.head(x.flatten(2).transpose(1, 2))

    def flops(self, visible: int) -> float:
        """Forward FLOPs per item, however many tokens are visible."""
        return 2.0 * math.prod(self.grid) * sum(p.numel() for p in self.parameters() if p.ndim > 1)


class LatentPointDecoder(PointDecoder):
    """Predictions [B, G, D] from the visible groups' tokens [B, P + n, D] and mask tokens, at their centres."""

    def __init__(self, vit: ViT, dim: int, depth: int, heads: int) -> None:
        super().__init__(vit, dim, depth, heads, out=vit.config.embed_dim)

    def hidden(self, vit: ViT, items: Tensor, rng: Rng) -> Tensor:
        """What says where hidden groups lie: the centres [B, G, 3] of all."""
        return vit.patch_embed.centres(items)

    def flops(self, visible: int) -> float:
        return super().flops(visible + self.num_prefix)


def latent_decoder(vit: ViT, dim: int, depth: int, groups: int, noise: float) -> ConvDecoder | LatentPointDecoder:
    """The one for this network's places: `depth` convolutions in `groups`, or blocks with so many heads."""
    if vit.places is None:
        if dim % groups or vit.config.embed_dim % groups:
            raise UserError(
                f"objective.decoder_groups={groups} must divide objective.decoder_dim={dim} and backbone.embed_dim="
                f"{vit.config.embed_dim}."
            )
        return ConvDecoder(vit, dim, depth, groups, noise)
    if noise:
        raise UserError(f"objective.noise={noise:g} has no effect on points, which get a mask token: set it to 0.")
    if dim % groups:
        raise UserError(f"objective.decoder_groups={groups} (heads of the blocks) must divide decoder_dim={dim}.")
    return LatentPointDecoder(vit, dim, depth, groups)
