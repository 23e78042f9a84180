"""The kind `text`: a pair of texts of one meaning, Text and Code, as uint8 [2, L]; 0 is padding, at the end of each.

A token is a byte of UTF-8. A set with a language of its own (`LANGUAGES`) brings a dictionary: each of its words is one
token, from 128 on, and a word that is not in it must be a single ASCII character. `data.image_size` is L, the most
tokens a text may have; a longer one is unreadable, never cut. No tokenizer library, and no torch.

A file holds one pair: Text is its first line, Code the rest; of parquet the column `pair` has such a text, or a list of
the two. Networks and probes see Text. Code is what a protocol is asked for: the targets hold it, and in the sealed file
each test item has in its place the next of all test Codes in sorted order: what there is to choose from, not which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw

from ssl_bench.config.schema import DataConfig, size_text
from ssl_bench.data import expressions
from ssl_bench.data.images import Item, encoded
from ssl_bench.data.items import Form, Kind
from ssl_bench.data.pixels import Unreadable
from ssl_bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

LANGUAGES: dict[str, Any] = {"expressions": expressions}  # WORDS; same(code, code): whether both mean the same
FIRST = 128  # the token of a dictionary's first word; below are ASCII's


@dataclass(frozen=True)
class Texts(Kind):
    """Pairs of texts of at most `length` tokens each."""

    length: int
    words: tuple[str, ...] = ()  # the dictionary; (): bytes alone
    language: str = ""  # in which Code can be run; "": in none

    name: ClassVar[str] = "text"
    noun: ClassVar[str] = "pairs of texts"
    measured: ClassVar[str] = "tokens of Text x of Code"
    plain: ClassVar[str] = "one token again and again"
    compared: ClassVar[str] = "--methods llmjepa,llmjepa:plain,llmjepa:stp --recipe quick --protocols generate,retrieve"
    suffixes: ClassVar[frozenset[str]] = frozenset({".txt"})
    columns: ClassVar[tuple[str, ...]] = ("pair", "text")
    varied: ClassVar[bool] = False
    worded: ClassVar[bool] = True
    unit: ClassVar[float] = 1.0
    mirrors: ClassVar[bool] = False

    @classmethod
    def asked(cls, config: DataConfig) -> Texts:
        if isinstance(config.image_size, tuple):
            raise UserError(
                f"data.image_size={size_text(config.image_size)} is a height and a width, and the texts of "
                f"'{config.name}' have neither: it is the most tokens of a text, as in data.image_size=16."
            )
        for setting in ("channels", "background"):
            if getattr(config, setting) != getattr(DataConfig, setting):
                raise UserError(f"data.{setting} has no effect on texts: leave it out.")
        language = config.name.partition(":")[0]
        known = LANGUAGES.get(language)
        return cls(config.image_size, known.WORDS, language) if known else cls(config.image_size)

    @classmethod
    def written(cls, facts: dict[str, Any]) -> Texts:
        return cls(facts["image_size"], tuple(facts["words"]), facts["language"])

    @property
    def facts(self) -> dict[str, Any]:
        own = {"words": list(self.words), "language": self.language}
        return {"item": "text", "image_size": self.length, "channels": 1, **own}

    @property
    def shape(self) -> tuple[int, ...]:
        return (2, self.length)

    @property
    def channels(self) -> int:
        return 1

    @property
    def told(self) -> str:
        return f"up to {self.length} {'words and characters' if self.words else 'bytes'}"

    def by_channel(self, stored: np.ndarray) -> np.ndarray:
        return stored.reshape(1, -1)

    def moments(self, sums: np.ndarray, squares: np.ndarray) -> tuple[list[float], list[float]]:
        """A token's number is a name: nothing is taken off, and it is divided by nothing."""
        return [0.0], [1.0]

    def grid(self, patch: int, tubelet: int = 1) -> tuple[int]:
        """Places of the longest row: Text, the token that Code begins with, Code, the one that it ends with."""
        if patch != 1:
            raise UserError(f"backbone.patch_size={patch}, and a token of a text is itself alone: set it to 1.")
        return (2 * self.length + 2,)

    @classmethod
    def cell(cls, value: Any) -> tuple[Any, str]:
        """A text, Text before the first line's end, or a list of Text and Code."""
        if isinstance(value, list):
            if len(value) != 2 or not all(isinstance(part, str) for part in value):
                return Unreadable("not a list of two texts"), ""
            value = "\n".join(value)
        return (value.encode(), "") if isinstance(value, str) else Kind.cell(value)

    def tokens(self, text: str) -> bytes:
        """At most `length` tokens without padding; `Unreadable` says why not."""
        if self.words:
            each = [self._token(word) for word in text.split()]
        else:
            each = list(text.encode())
        if not each:
            raise Unreadable("an empty text")
        if 0 in each:
            raise Unreadable("a text with a zero byte, which is what padding is")
        if len(each) > self.length:
            raise Unreadable(f"{len(each)} tokens, and data.image_size={self.length} allows fewer")
        return bytes(each)

    def _token(self, word: str) -> int:
        if word in self.words:
            return FIRST + self.words.index(word)
        if len(word) == 1 and word.isascii():
            return ord(word)
        raise Unreadable(f"'{word[:20]}' is not in the dictionary")

    def text(self, tokens: np.ndarray) -> str:
        """The inverse of `tokens`, padding left out; what is no UTF-8 is shown as such."""
        there = [int(t) for t in tokens if t]
        if not self.words:
            return bytes(there).decode(errors="replace")
        return " ".join(self.words[t - FIRST] if FIRST <= t < FIRST + len(self.words) else chr(t) for t in there)

    def read(self, item: Item, keep_bytes: bool) -> tuple[np.ndarray, bytes, str, Form]:
        try:
            first, _, rest = encoded(item).decode().partition("\n")
        except UnicodeDecodeError as why:
            raise Unreadable(f"not UTF-8 ({why.reason} at byte {why.start})") from why
        if self.words and not rest.isascii():
            raise Unreadable("Code that is not ASCII")
        plain = replace(self, words=())  # Code is written in characters
        parts = self.tokens(first.strip()), plain.tokens(rest.strip())
        stored = np.zeros(self.shape, np.uint8)
        for row, part in zip(stored, parts, strict=True):
            row[: len(part)] = list(part)
        return stored, stored.tobytes() if keep_bytes else b"", "", ("text", (len(parts[0]), len(parts[1])))

    def decode(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.uint8).reshape(self.shape)

    def described(self, item: Item, stored: np.ndarray) -> Item:
        """With Code as its targets, which alone say what is right on a test item."""
        return replace(item, targets=(stored[1] if stored.size else np.zeros(self.length)).astype(np.float32))

    def sealed(self, pages: Iterator[bytes]) -> Iterator[bytes]:
        """Text of each, and in Code's place the Codes of all in sorted order: no pair is told."""
        whole = np.frombuffer(b"".join(pages), np.uint8).reshape(-1, *self.shape).copy()
        whole[:, 1] = whole[np.lexsort(whole[:, 1].T[::-1]), 1]
        yield from (item.tobytes() for item in whole)

    def pictures(self, stored: np.ndarray) -> np.ndarray:
        """Text above Code, black on white: uint8 [N, 1, 28, W]."""
        plain = replace(self, words=())
        lines = [(self.text(item[0]), plain.text(item[1])) for item in stored]
        width = 6 * max((len(part) for pair in lines for part in pair), default=0) + 4
        out = Image.new("L", (width, 28 * len(lines)), 255)
        draw = ImageDraw.Draw(out)
        for i, pair in enumerate(lines):
            for row, part in enumerate(pair):
                draw.text((2, 28 * i + 13 * row), part.encode("ascii", "replace").decode(), fill=0)
        return np.asarray(out).reshape(len(lines), 1, 28, width)

    def floats(self, stored: Tensor) -> Tensor:
        """[B, 2, L] token numbers."""
        return stored.float()

    def counted(self, x: Tensor) -> Tensor:
        """1 for a token of Text, 0 for padding."""
        return (x[:, 0] != 0).float()
