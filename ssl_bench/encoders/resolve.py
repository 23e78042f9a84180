"""A source's name (a run, `random:...`, `pixels`, `timm:...`, `file:...`) -> its encoder."""

from __future__ import annotations

from pathlib import Path

from ssl_bench.data.dataset import Dataset
from ssl_bench.data.items import RAW
from ssl_bench.encoders.encoder import Encoder
from ssl_bench.encoders.from_run import from_run
from ssl_bench.encoders.references import of_random_source, pixels, untrained
from ssl_bench.errors import UserError, nearest
from ssl_bench.training import run_folder


def resolve(source: str | None, root: Path, seed: int = 0, data: Dataset | None = None) -> Encoder:
    """A run's name or folder (None: the newest finished one), `random:vit_tiny_patch8@48`, `pixels`, `timm:...`, ...

    `seed` initialises `random`; `data` gives it and `pixels` their size, mean and std.
    """
    kind, colon, name = (source or "").partition(":")
    if kind == "pixels":  # also pixels:RUN, on the images of that run
        return pixels(data)
    if source in RAW:
        return pixels(data, source)
    if kind == "random" and colon:
        if (Path(root) / name / "config.json").exists():  # the same ViT as that run, untrained
            config = run_folder.Run(Path(root) / name).config()
            return untrained(config.backbone, config.data.image_size, seed, data)
        return untrained(*of_random_source(name, data.item.facts["image_size"] if data else 48), seed, data)
    if colon:
        known = ("random", "timm", "hf", "hub", "file")
        if kind not in known:
            raise UserError(f"Unknown kind of encoder '{kind}:'. {nearest(kind, known)} Or name a run, or pixels.")
        from ssl_bench.encoders.published import resolve as foreign  # imports this module

        return foreign(kind, name)
    return from_run(run_folder.find_run(Path(root), source))
