"""The one error a user meets: a sentence that says what is wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Wrong input. `cli.py` prints the sentence without a traceback and exits with code 2."""


class NonFinite(UserError):
    """A step that cannot be used; `facts` go to status.json."""

    def __init__(self, sentence: str, **facts: Any) -> None:
        super().__init__(sentence)
        self.facts = facts


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint such as `Did you mean 'ijepa'?`, or the list of valid names where none is close."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"Did you mean '{close[0]}'?" if close else f"Valid: {', '.join(names)}."


def printable(text: str) -> str:
    """What may be sent to a terminal: names out of files may hold escape sequences, or bytes that are no text."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def first_line(error: BaseException) -> str:
    """Kind and first line of another library's error, for a sentence of ours."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
