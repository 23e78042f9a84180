"""What may be a label, and what a row of a table becomes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ssl_bench.data.images import Item, Unreadable

LABEL = ("label", "labels", "cls", "fine_label", "class", "target")  # a column of any of these names


def labelled(data: Any, label: Any, names: Sequence[str], place: str, file: str = "") -> Item:
    """An item from a row's image and label; what cannot be right becomes `Unreadable`."""
    if not isinstance(data, (bytes, Path, Image.Image)):
        data = Unreadable("the row has no image bytes; paths in a row are not followed")
    if label is None or (isinstance(label, int) and (label < 0 or (names and label >= len(names)))):
        return Item(Unreadable(f"label {label} is none of the {len(names) or 'known'} classes"), "", place)
    text = str(names[label] if names else f"{label:05d}") if isinstance(label, int) else str(label)
    return Item(data, text, place, name=file)
