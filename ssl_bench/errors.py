"""The one error a user meets: a sentence that says what is wrong and what to do. And what a terminal can show of it."""

from __future__ import annotations

import codecs
import difflib
import io
from collections.abc import Iterable
from typing import Any

LISTED = 100  # names that an error lists
SPELLED = {  # what a terminal that lacks a character shows instead
    **dict(zip("–—−±⚠×·→…≤≥", ("-", "-", "-", "+-", "!", "x", "|", "->", "...", "<=", ">="), strict=True)),
    **dict(zip("▁▂▃▄▅▆▇█", "_.,-=+*#", strict=True)),
}


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
    if close:
        return f"Did you mean '{close[0]}'?"
    more = f", and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return f"Valid: {', '.join(names[:LISTED])}{more}."


def printable(text: str) -> str:
    """What may be sent to a terminal: names out of files may hold escape sequences, or bytes that are no text."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _spell(error: UnicodeError) -> tuple[str, int]:
    """The codec error handler "spelled". A letter becomes `?`: without its accent it would be another name."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(SPELLED.get(c, "?") for c in error.object[error.start : error.end]), error.end


codecs.register_error("spelled", _spell)


def spelled(text: str, encoding: str) -> str:
    """The same with other characters where `encoding` lacks one, so that columns can be measured."""
    return text.encode(encoding, "spelled").decode(encoding)


def never_fail(*streams: Any) -> None:
    """Output that is not UTF-8 gets other characters for those it lacks, in place of an error."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="spelled")


def first_line(error: BaseException) -> str:
    """Kind and first line of another library's error, for a sentence of ours."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
