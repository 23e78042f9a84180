"""ImageNet's official 1 % and 10 %: lists told by their sha256, matched to the files of a training split.

google-research/simclr, imagenet_subsets (arXiv 2002.05709): 12,811 and 128,116 file names of the training split, the
first inside the second, neither quite balanced over classes. They are read as they are; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssl_bench.errors import UserError

HOME = "github.com/google-research/simclr, folder imagenet_subsets"
OFFICIAL = {  # percent -> file, sha256
    1.0: ("1percent.txt", "71e82a48ba78252683ae334c4d019ebd5c6e855b9599c1389fbe83eb9549cf17"),
    10.0: ("10percent.txt", "6d09de11e7bdaf5b1f3b1f249b6183695f97310cdd20f0c03e7235b6b9392091"),
}
# n01440764_10026.JPEG is n01440764_10026_n01440764.JPEG in the hub's ILSVRC/imagenet-1k, and .jpg in many tar shards.
ENDING = re.compile(r"(_n\d{8})?\.\w+$")


def read(folder: str, percent: float) -> list[str]:
    """The names of an official list in `folder`, as they stand there. `UserError` for any other file."""
    name, digest = OFFICIAL[percent]
    path = Path(folder).expanduser().absolute() / name
    if not path.is_file():
        raise UserError(f"There is no {path}: put {name} of {HOME}, there, or name its folder with lists=FOLDER.")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise UserError(
            f"{path} is not the official list (sha256 {found[:12]}..., the official one has {digest[:12]}...): "
            f"other images give other numbers. Get {name} of {HOME}."
        )
    return content.decode().split()


def rows(files: np.ndarray | None, names: Sequence[str]) -> Tensor:
    """Where the named images stand among `files` (bytes [N]): int64, in the order of `names`, each exactly once."""
    if files is None:
        raise UserError("An official list needs the file names of the images, which this data set's source has not.")
    wanted = {_image(name): name for name in names}
    place: dict[str, int] = {}
    twice: dict[str, None] = {}
    for i, file in enumerate(files.tolist()):
        image = _image(file.decode(errors="replace"))
        if image in wanted:
            twice |= {wanted[image]: None} if image in place else {}
            place[image] = i
    missing = [name for image, name in wanted.items() if image not in place]
    for lacking, what in ((missing, "not"), (list(twice), "more than once")):
        if lacking:
            shown = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3:,} more" if len(lacking) > 3 else "")
            like = files[0].decode(errors="replace")
            raise UserError(
                f"{len(lacking):,} of the list's {len(names):,} images are {what} in the training split: {shown}. "
                f"Its {len(files):,} files are named like {like}; the official lists are of ImageNet-1k."
            )
    return torch.tensor([place[image] for image in wanted])


def _image(file: str) -> str:
    """A file's name without what differs between copies of ImageNet."""
    return ENDING.sub("", file)
