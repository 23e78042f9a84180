"""The base of the methods that compare two crops of each image by the CLS tokens of one ViT."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ssl_bench.config.schema import Config
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views
from ssl_bench.views.crops import TwoCrops, check_crops, crop_flops, cut


class TwoViews(Method):
    """Base of the methods that compare two crops of each image by the CLS tokens of one ViT."""

    sees, evaluated, pooling = "2 crops", "encoder", "cls"
    kinds: ClassVar[tuple[str, ...]] = ("image", "clip", "sound", "points")
    fewest = 2  # negatives, BatchNorm or a correlation: all need other images
    objective: TwoCrops

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        check_crops(config, "crop_size")
        self.objective = config.objective
        self.encoder = self.make_vit()
        self.encoder.patch_embed.requires_grad_(not self.objective.freeze_patch)

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        o = self.objective
        return {"crops": cut(images, rng, o.crop_size, [o.view_1, o.view_2], self.mean, self.std)}

    @property
    def crop_flops(self) -> float:
        """Forward FLOPs of the encoder for one crop."""
        return crop_flops(self.encoder, self.objective.crop_size)
