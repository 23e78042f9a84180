"""Every kind of encoder that `eval` takes, and the published files that `file:` knows: `ssl-bench list encoders`."""

from __future__ import annotations

SOURCES = (  # how to write it, what it is, the token, licence, size
    ("RUN", "your run: its folder, or the beginning of its name", "its method's", "its images'", "any"),
    ("random:RUN", "the same network untrained; also random:vit_tiny_patch8@48", "mean", "none needed", "any"),
    ("pixels", "the normalised image itself", "all pixels", "none needed", "0"),
    ("timm:NAME", "a ViT of timm, hf-hub:OWNER/NAME too; ,size=224 ,pooling=mean", "CLS, else mean", "its card's", ""),
    ("hf:NAME", "a ViT of transformers (install it); ,size=224 ,pooling=mean", "CLS; I-JEPA: mean", "its card's", ""),
    ("hub:REPO:NAME", "torch.hub: DINO, DINOv2; runs the repository's code", "CLS", "the repository's", ""),
)
# Family as layouts.py tells it from the file's keys, name, a file, token, licence, parameters. Licences are those that
# the official repositories state (README or LICENSE; I-JEPA's: its cards on the hub); DINOv2, fairseq and CAPI name the
# weights too.
FILES = (
    ("ijepa", "I-JEPA", "IN1K-vit.h.14-300e.pth.tar; ,key=encoder", "mean", "CC BY-NC 4.0", "H 631 M, g 1.0 G"),
    ("mae", "MAE", "mae_pretrain_vit_base.pth", "CLS", "CC BY-NC 4.0", "B 86 M, L 303 M, H 631 M"),
    ("dino", "DINO", "dino_deitsmall16_pretrain.pth, or a full checkpoint", "CLS", "Apache-2.0", "S 22 M, B 86 M"),
    ("dino", "iBOT", "a backbone or a full checkpoint", "CLS", "Apache-2.0", "S 22 M, B 86 M, L 303 M"),
    ("mocov3", "MoCo v3", "vit-s-300ep.pth.tar", "CLS", "CC BY-NC 4.0", "S 22 M, B 86 M"),
    ("dinov2", "DINOv2", "dinov2_vits14_pretrain.pth, _reg4_ too", "CLS", "Apache-2.0", "S 22 M, B 87 M, L 304 M"),
    ("data2vec", "data2vec 2.0", "base_imagenet.pt of fairseq", "CLS", "MIT", "B 86 M, L 303 M, H 631 M"),
    ("capi", "CAPI", "capi_vitl14_in1k.pth", "predictor pooling", "Apache-2.0", "L 302 M"),
    ("vjepa", "V-JEPA", "a checkpoint of clips; ,key=target_encoder", "mean", "CC BY-NC 4.0", "L 304 M, H 632 M"),
    ("vjepa2", "V-JEPA 2", "a checkpoint of clips", "mean", "the repository's", "L 304 M, H 632 M, g 1.0 G"),
    ("vjepa21", "V-JEPA 2.1", "a checkpoint of clips or images", "mean", "the repository's", "B, L, g, G"),
    ("videomae", "VideoMAE", "a pretrained checkpoint of clips", "mean", "CC BY-NC 4.0", "S, B 86 M, L 304 M"),
)  # fmt: skip
