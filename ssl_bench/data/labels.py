"""What may be a label, and what a row of a table becomes."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ssl_bench.data.images import Item, Unreadable
from ssl_bench.errors import UserError, printable

LABEL = ("label", "labels", "cls", "fine_label", "class", "target")  # a column of any of these names
# What is written, as text, where there is no label.
MISSING = {"nan", "none", "null", "n/a", "na", "<na>", "nat", "missing", "unlabeled", "unlabelled"}


def as_text(value: Any) -> str | None:
    """A table's cell; None: nothing. 1, 1.0 and "1.0" are one value: pandas writes whole numbers so beside a gap."""
    if value is None or value != value:
        return None
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text.partition(".")[0] if re.fullmatch(r"-?\d+\.0+", text) else text


def tidy(name: str) -> str:
    """A class name in Unicode's composed form (NFC), without blanks around it: one name however it was typed."""
    if any("\ud800" <= c <= "\udfff" for c in name):  # bytes that Python could not read as text
        raise UserError(f"The class name '{printable(name)}' is no UTF-8: rename it (convmv -f latin1 -t utf8).")
    return unicodedata.normalize("NFC", name).strip()


def class_name(value: Any, names: Sequence[str] = ()) -> str:
    """The class of a label: a name, or a number that counts `names` (five digits where there are none).

    `Unreadable` for what is no class: nothing, NaN, a word for nothing, a negative number, a fraction, several values.
    """
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        if value < 0 or (names and value >= len(names)):
            raise Unreadable(f"label {value} is none of the {len(names) or 'known'} classes")
        return tidy(names[value]) if names else f"{value:05d}"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise Unreadable(f"label {value} is none of the {len(names) or 'known'} classes")
    if not isinstance(value, str):
        raise Unreadable(f"label {str(value)[:40]} is not one class")
    text = tidy(value)
    if not text or text.lower() in MISSING or re.fullmatch(r"-\d+(\.0+)?", text):
        raise Unreadable(f"label '{text}' is no class")
    return text


def labelled(data: Any, label: Any, names: Sequence[str], place: str, file: str = "") -> Item:
    """An item from a row's image and label; what cannot be right becomes `Unreadable`."""
    if isinstance(data, list) and not all(isinstance(picture, bytes) for picture in data):
        data = Unreadable("a frame of the row has no bytes; paths in a row are not followed")
    if not isinstance(data, (bytes, Path, Image.Image, list, Unreadable)):
        data = Unreadable("the row has no image bytes; paths in a row are not followed")
    try:
        return Item(data, class_name(label, names), place, name=file)
    except Unreadable as why:
        return Item(why, "", place)
