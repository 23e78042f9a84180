"""Splits told by text files, one film or image a line, as UCF101 and HMDB51 come.

UCF101: `folder:PATH#train=trainlist01.txt#test=testlist01.txt`. A line is `class/film.avi`, in the list of train with
the number of the class behind it. HMDB51: `folder:PATH#lists=*_test_split1.txt`, a file for each class, whose name
begins with it; a line is `film.avi 1`: 1 is train, 2 is test, 0 neither.

The lists lie in PATH, anywhere, and are named with or without their folders. Suffixes are not compared, so that films
may also be folders of their frames. What is listed and not there counts as unreadable; what no list names is not used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ssl_bench.data.splits import Choice
from ssl_bench.errors import UserError, nearest, printable

SUFFIX, MARKS = ".txt", {"0": "", "1": "train", "2": "test"}
BYTES = 2**28  # of one list: more is none
Row = tuple[str, list[str]]  # a path, and the folders it lies in below the set, the class first


@dataclass(frozen=True)
class Line:
    """One line of a list."""

    film: str  # path as written, of HMDB51 with its class before it
    role: str  # train, test or "" (neither)
    place: str  # file and number of the line
    label: str = ""  # number of the class, where the line has one


def read(location: Path, paths: Sequence[str], by_hand: Choice) -> list[Line]:
    """Every line of the lists that are named, or [] where none is. `paths`: every file of the set."""
    chosen = {role: names for role, names in by_hand.roles.items() if any(n.endswith(SUFFIX) for n in names)}
    marked = by_hand.given.get("lists", [])
    if marked and by_hand.roles:
        raise UserError("#lists= names lists that tell train and test by 1 and 2: leave #train= and #test= out.")
    if not chosen and not marked:
        return []
    if odd := [n for names in by_hand.roles.values() for n in names if not n.endswith(SUFFIX)]:
        raise UserError(f"#train= and #test= are lists ({SUFFIX}) or folders, not both: '{odd[0]}' is no list.")
    known = {os.path.relpath(p, location): p for p in paths if p.endswith(SUFFIX)}
    wanted = [(role, f"#{role}={name}", name) for role, names in chosen.items() for name in names]
    wanted += [("", f"#lists={name}", name) for name in marked]
    lines: list[Line] = []
    for role, text, pattern in wanted:
        found = sorted(n for n in known if any(fnmatchcase(k, pattern) for k in (n, os.path.basename(n))))
        if not found:
            there = nearest(pattern, {os.path.basename(n) for n in known}) if known else "It has none."
            raise UserError(f"{text}: no such text file in {location}. {there}")
        for name in found:
            lines += _lines(known[name], role)
    _agree(lines)
    return lines


def _lines(path: str, role: str) -> list[Line]:
    """Of one list; without a role its lines have marks, and its name the class."""
    name, found = os.path.basename(path), list[Line]()
    if os.path.getsize(path) > BYTES:
        raise UserError(f"{path} is larger than {BYTES:,} bytes: no list of films.")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text: no list of films.") from error
    own = re.match(r"(.+)_test_split\d+$", Path(path).stem)
    for number, line in enumerate(text.splitlines(), 1):
        if not (words := line.strip().rsplit(maxsplit=1)):
            continue
        place = f"{name}, line {number}"
        film, last = words if len(words) == 2 and words[1].isdigit() else (line.strip(), "")
        film = film.replace("\\", "/").removeprefix("./")
        if film.startswith("/") or ".." in film.split("/"):
            raise UserError(f"{place}: '{printable(film)}' leads out of the set; write a path below it.")
        if role:
            found.append(Line(film, role, place, last))
        elif last not in MARKS:
            raise UserError(f"{place}: '{printable(line.strip())}' needs a 0, 1 or 2 behind the film.")
        else:
            whole = f"{own.group(1)}/{film}" if own and "/" not in film else film
            found.append(Line(whole, MARKS[last], place))
    if not found:
        raise UserError(f"{path} lists nothing.")
    return found


def _agree(lines: Sequence[Line]) -> None:
    """`UserError` where a film is listed twice, or class numbers and class folders do not go together one to one."""
    films: dict[str, Line] = {}
    classes: dict[str, tuple[str, Line]] = {}  # number -> its folder; folder/ -> its number
    for line in lines:
        if (before := films.setdefault(line.film, line)) is not line:
            raise UserError(f"{line.place}: '{printable(line.film)}' was listed before ({before.place}).")
        folder = os.path.dirname(line.film)
        if line.label and folder:
            for key, value in ((line.label, folder), (f"{folder}/", line.label)):
                other, first = classes.setdefault(key, (value, line))
                if other != value:
                    raise UserError(
                        f"{line.place} gives class {line.label} to '{printable(folder)}', against {first.place}: "
                        f"class {first.label} is '{printable(os.path.dirname(first.film))}' there."
                    )


def _stem(film: str) -> str:
    return os.path.splitext(film)[0]


def parts(rows: Sequence[Row], lines: Sequence[Line]) -> tuple[dict[str, list[Row]], dict[str, list[str]], list[str]]:
    """Role -> the rows of its films; role -> what is listed and not there, in words; notes."""
    index: dict[str, list[Row]] = {}  # class/film and film, with and without suffix -> rows
    for path, words in rows:
        name = os.path.basename(path)
        for key in {"/".join([*words[i:], end]) for i in range(len(words) + 1) for end in (name, _stem(name))}:
            index.setdefault(key, []).append((path, words))
    out: dict[str, list[Row]] = {line.role: [] for line in lines if line.role}
    missing: dict[str, list[str]] = {}
    used: dict[str, Line] = {}
    for line in lines:
        found = index.get(line.film) or index.get(_stem(line.film), [])
        if len(found) > 1:
            raise UserError(f"{line.place}: '{printable(line.film)}' is {found[0][0]} or {found[1][0]}: say the class.")
        if not found:
            if line.role:
                missing.setdefault(line.role, []).append(f"'{printable(line.film)}' ({line.place})")
            continue
        if other := used.get(found[0][0]):
            raise UserError(f"{line.place}: {found[0][0]} was listed before ({other.place}).")
        used[found[0][0]] = line
        if line.role:
            out[line.role].append(found[0])
    notes = []
    if left := [path for path, _ in rows if path not in used]:
        shown = ", ".join(left[:2]) + ", ..." * (len(left) > 2)
        notes.append(f"Not used, for no list names it: {shown} ({len(left):,} in all).")
    if zero := sum(not line.role for line in lines):
        notes.append(f"Not used, for their mark is 0: {zero:,} films.")
    return out, missing, notes


def told(lines: Sequence[Line]) -> Mapping[str, str]:
    """Role -> from which lists it is, in words."""
    found: dict[str, dict[str, None]] = {}
    for line in lines:
        found.setdefault(line.role, {})[line.place.rpartition(", line ")[0]] = None
    return {
        role: ", ".join([*names][:2]) + (f", ... ({len(names)} lists)" if len(names) > 2 else "")
        for role, names in found.items()
    }
