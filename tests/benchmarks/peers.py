"""The same step and the same views by other libraries, through their public pieces, put together as their guides do.

Shapes: images [B, 3, 32, 32]; patches of 4 pixels. A library that is not installed raises ImportError: it is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ssl_bench.config.schema import ViTConfig

SIZE, LOCAL, PATCH, LOCALS = 32, 16, 4, 6
Loss = Callable[[], Tensor]


def vit(c: ViTConfig, **changes: Any) -> VisionTransformer:
    return VisionTransformer(
        img_size=SIZE, patch_size=PATCH, embed_dim=c.embed_dim, depth=c.depth, num_heads=c.num_heads, num_classes=0,
        **changes,
    )  # fmt: skip


class Step:
    """A peer's training step: `precision` is bf16 (autocast) or fp32; `explicit` flips its attention as we do."""

    def __init__(self, parts: nn.Module, loss: Loss, after: Callable[[], object], precision: str, explicit: bool):
        for m in parts.modules():
            if explicit and hasattr(m, "fused_attn"):
                m.fused_attn = False
        self.loss, self.after, self.precision = loss, after, precision
        self.optimizer = torch.optim.AdamW([p for p in parts.parameters() if p.requires_grad], lr=1e-3)

    def __call__(self) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.after()


def mae(c: ViTConfig, views: dict[str, Tensor], decoder: tuple[int, int, int]) -> tuple[nn.Module, Loss, Any]:
    """lightly's MAE."""
    from lightly.models import utils
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM

    width, depth, heads = decoder
    n = (SIZE // PATCH) ** 2
    encoder = MaskedVisionTransformerTIMM(vit(c))
    dec = MAEDecoderTIMM(
        num_patches=n, patch_size=PATCH, embed_dim=c.embed_dim, decoder_embed_dim=width, decoder_depth=depth,
        decoder_num_heads=heads,
    )  # fmt: skip

    def loss() -> Tensor:
        images = views["images"]
        keep, hidden = utils.random_token_mask((len(images), n + 1), mask_ratio=0.75)
        x = dec.embed(encoder.encode(images, idx_keep=keep))
        full = utils.repeat_token(dec.mask_token, (len(images), n + 1))
        full = utils.set_at_index(full, keep, x.type_as(full))
        predicted = dec.predict(utils.get_at_index(dec.decode(full), hidden))
        return F.mse_loss(predicted, utils.get_at_index(utils.patchify(images, PATCH), hidden - 1))

    return nn.ModuleList([encoder, dec]), loss, lambda: None


def simclr(c: ViTConfig, views: dict[str, Tensor], hidden: int, out: int) -> tuple[nn.Module, Loss, Any]:
    """lightly's SimCLR."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import MaskedVisionTransformerTIMM, SimCLRProjectionHead

    encoder, criterion = MaskedVisionTransformerTIMM(vit(c)), NTXentLoss(0.1)
    head = SimCLRProjectionHead(c.embed_dim, hidden, out)

    def loss() -> Tensor:
        first, second = (head(encoder(crop)) for crop in views["crops"].chunk(2))
        return criterion(first, second)

    return nn.ModuleList([encoder, head]), loss, lambda: None


def dino(c: ViTConfig, views: dict[str, Tensor], head: tuple[int, int, int]) -> tuple[nn.Module, Loss, Any]:
    """lightly's DINO, 2 + 6 crops, crop by crop."""
    from lightly.loss import DINOLoss
    from lightly.models.modules import DINOProjectionHead, MaskedVisionTransformerTIMM
    from lightly.models.utils import update_momentum

    def network() -> nn.Module:
        encoder = MaskedVisionTransformerTIMM(vit(c, dynamic_img_size=True))
        return nn.Sequential(encoder, DINOProjectionHead(c.embed_dim, *head))

    student, teacher = network(), network().requires_grad_(False)
    teacher.load_state_dict(student.state_dict())
    criterion = DINOLoss(output_dim=head[2])

    def loss() -> Tensor:
        crops = [*views["global"].chunk(2), *views["local"].chunk(LOCALS)]
        with torch.no_grad():
            targets = [teacher(crop) for crop in crops[:2]]
        return criterion([t.float() for t in targets], [student(crop).float() for crop in crops])

    return student, loss, lambda: update_momentum(student, teacher, m=0.99)


def ijepa(c: ViTConfig, views: dict[str, Tensor], width: int, depth: int) -> tuple[nn.Module, Loss, Any]:
    """stable-pretraining's I-JEPA."""
    from stable_pretraining.methods.ijepa import IJEPA

    model = IJEPA(vit(c), predictor_embed_dim=width, predictor_depth=depth).train()
    return model, lambda: model(views["images"]).loss, model.encoder.update_teacher


class Pictures:
    """A uint8 array as a data set of PIL images, as torchvision's CIFAR does it."""

    def __init__(self, store: Any, transform: Any):
        self.store, self.transform = store, transform

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, i: int) -> Any:
        from PIL import Image

        return self.transform(Image.fromarray(self.store[i]))


def loader(method: str, store: Any, batch: int, workers: int) -> Callable[[], Iterator[Any]]:
    """Passes over lightly's loader with its transform for `method`; `store` is uint8 [N, H, W, 3]."""
    from lightly import transforms as T
    from lightly.data.ijepa_collate import IJEPAMaskCollator
    from lightly.transforms.ijepa_transform import IJEPATransform

    # The collator's defaults, which never fit blocks as large as the paper's, are replaced by the paper's.
    collate = IJEPAMaskCollator(SIZE, PATCH, (0.85, 1.0), (0.15, 0.2), (0.75, 1.5), npred=4)
    transform = {
        "mae": lambda: T.MAETransform(input_size=SIZE),
        "ijepa": lambda: IJEPATransform(input_size=SIZE),
        "simclr": lambda: T.SimCLRTransform(input_size=SIZE),
        "dino": lambda: T.DINOTransform(global_crop_size=SIZE, local_crop_size=LOCAL, n_local_views=LOCALS),
    }[method]()
    made = DataLoader(
        Pictures(store, transform), batch, shuffle=True, drop_last=True, num_workers=workers,
        persistent_workers=workers > 0, collate_fn=collate if method == "ijepa" else None,
    )  # fmt: skip
    return lambda: iter(made)
