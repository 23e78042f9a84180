"""Which file or folder is which split: one reader for folders, parquet files, tar shards and the hub.

A name tells its split by a word of its own, in any case, between characters that are no letters or before a capital:
`seg_train`, `Training`, `TestSet`, `pets-test.parquet`, `imagenet1k-validation-00.tar`; `latest` and `trainers` do not.
What two readings fit is refused, and `#train=NAME` and `#test=NAME` after the data's name decide; `#splits=none` says
that no name is a split's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ssl_bench.data.source import is_pattern
from ssl_bench.errors import UserError, nearest

WORDS = {
    "train": ("train", "training", "trn"),
    "test": ("test", "testing", "eval", "evaluation", "holdout"),
    "val": ("val", "valid", "validation", "dev"),
    "unlabeled": ("unlabeled", "unlabelled", "unsupervised"),
    "extra": ("extra",),
}
ROLE = {word: role for role, words in WORDS.items() for word in words}
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # TestSet is two words, TEST one
ENDS = ("", "set", "sets", "data", "images", "imgs", "split")  # testset, traindata
DECIDE = "#train=NAME and #test=NAME after the data's name decide, #splits=none if no name is a split's"
MASKS = ("masks", "classes", "first", "void", "threshold")  # see mask_files
SETTINGS = ("train", "test", "splits", "lists", "image", "label", "group", "kind", "views", "fold", "folds", *MASKS)
VIEWS = re.compile(r"([1-9]\d?)x([13])")  # of a film: segments x crops


@dataclass(frozen=True)
class Choice:
    """What the user decided by hand: `folder:PATH#train=Training#test=holdout` -> {"train": ["Training"], ...}."""

    given: Mapping[str, Sequence[str]]

    @property
    def none(self) -> bool:
        return bool(self.given.get("splits"))

    @property
    def roles(self) -> dict[str, Sequence[str]]:
        """The names given for train and test; empty where the names of files and folders tell."""
        return {role: self.given[role] for role in ("train", "test") if role in self.given}

    @property
    def kind(self) -> str:
        """Of the items: `folder:PATH#kind=clip`."""
        return self.one("kind") or "image"

    @property
    def views(self) -> tuple[int, int]:
        """Segments of a film, and crops of each: `folder:PATH#kind=clip#views=2x3`; (1, 1) where nothing is said."""
        found = VIEWS.fullmatch(asked := self.one("views") or "1x1")
        if not found or len(self.given.get("views", [])) > 1:
            raise UserError(
                f"#views={asked} is not read: write once SEGMENTSxCROPS, of 1 to 99 segments and 1 or 3 crops, as in "
                "#views=2x3; how many frames a segment has is data.frames."
            )
        if asked != "1x1" and (told := [setting for setting in MASKS if setting in self.given]):
            raise UserError(f"#views= is for films with labels, and #{told[0]}= is of masks: leave one of them out.")
        return int(found[1]), int(found[2])

    def one(self, setting: str) -> str:
        return (self.given.get(setting) or [""])[-1]

    def only(self, *settings: str) -> None:
        """`UserError` where a setting is given that this kind of source does not read."""
        for setting in self.given:
            if setting not in settings:
                raise UserError(f"#{setting}= has no effect on this kind of data: leave it out.")


NO_CHOICE = Choice({})


def choice(text: str) -> tuple[str, Choice]:
    """`PATH#train=A#test=B` -> PATH and the choice; what else follows a # belongs to the path."""
    given: dict[str, list[str]] = {}
    while found := re.fullmatch(r"(.+)#([a-z]+)=([^#]*)", text):
        text, setting, value = found.groups()
        if setting not in SETTINGS or not value:
            raise UserError(f"#{setting}={value}: {nearest(setting, SETTINGS)} Known: #{'=, #'.join(SETTINGS)}=.")
        given.setdefault(setting, []).insert(0, value)
    if given.get("splits", ["none"]) != ["none"] or ("splits" in given and ("train" in given or "test" in given)):
        raise UserError("Write #splits=none alone, or #train=NAME and #test=NAME.")
    if "test" in given and "train" not in given:
        raise UserError("#test=NAME needs #train=NAME beside it.")
    return text, Choice(given)


def roles_in(name: str) -> list[str]:
    """The splits that the words of a name tell: none, one, or several."""
    found = set()
    for word in (w.lower() for w in WORD.findall(name)):
        found |= {ROLE[word.removesuffix(end)] for end in ENDS if word.endswith(end) and word.removesuffix(end) in ROLE}
    if len(found) > 1:  # train_unlabeled is no training split
        found = found & {"unlabeled"} or found
    return sorted(found)


def role_of(name: str) -> str:
    """The one split that a name tells, or ""."""
    found = roles_in(name)
    return found[0] if len(found) == 1 else ""


def parts_of(paths: Sequence[str], location: Path, by_hand: Choice = NO_CHOICE) -> tuple[dict[str, str], list[str]]:
    """File -> train, test, val, unlabeled, extra or "" (not used), and notes. The nearest name with a word tells."""
    while is_pattern(location) or location.is_file():
        location = location.parent
    below = {p: list(reversed(os.path.relpath(p, location).split(os.sep))) for p in paths}
    if by_hand.none:
        return dict.fromkeys(paths, "train"), []
    if by_hand.roles:
        return _chosen({p: [*names, Path(names[0]).stem] for p, names in below.items()}, by_hand.roles)
    told: dict[str, str] = {}
    words: dict[str, set[str]] = {}
    for path, names in below.items():
        stems = [Path(names[0]).stem, *names[1:]]
        name = next((n for n in stems if roles_in(n)), "")
        if len(roles_in(name)) > 1:
            raise UserError(f"The name '{name}' tells of {' and '.join(roles_in(name))}: {DECIDE}.")
        told[path] = role_of(name)
        if name:
            words.setdefault(told[path], set()).add(re.sub(r"\d+", "", name))
    for role, spelt in words.items():
        if len(used := {w for name in spelt for w in _words(name)}) > 1:
            raise UserError(f"Files called {' and '.join(sorted(used))} are both read as {role}: {DECIDE}.")
    loose = [p for p, role in told.items() if not role]
    if not loose or len(loose) == len(paths):
        return {p: role or "train" for p, role in told.items()}, []
    shown = ", ".join(os.path.relpath(p, location) for p in loose[:3]) + ", ..." * (len(loose) > 3)
    if "train" in words:
        return told, [f"Not used, for their names tell no split: {shown} ({len(loose)} files beside those of train)."]
    return {p: role or "train" for p, role in told.items()}, [f"Read as training data, for no name tells it: {shown}."]


def _words(name: str) -> list[str]:
    """The words of a name that tell a split: two spellings of one split are two sets."""
    return [w.lower() for w in WORD.findall(name) if roles_in(w)]


def _chosen(names: Mapping[str, Sequence[str]], roles: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], list[str]]:
    """Path -> role by the user's word, and what is left out."""
    out = dict.fromkeys(names, "")
    for role, wanted in roles.items():
        for want in wanted:
            hit = [p for p, known in names.items() if any(n == want or fnmatchcase(n, want) for n in known)]
            if not hit:
                there = sorted({n for known in names.values() for n in known})
                raise UserError(f"#{role}={want}: no file or folder of that name. {nearest(want, there)}")
            if clash := [p for p in hit if out[p] not in ("", role)]:
                raise UserError(f"{clash[0]} is named by #train= and by #test=: a split needs names of its own.")
            out |= dict.fromkeys(hit, role)
    left = sorted(p for p, role in out.items() if not role)
    shown = ", ".join(left[:3]) + ", ..." * (len(left) > 3)
    return out, [f"Not used, by your choice of splits: {shown} ({len(left)} in all)."] if left else []


def folder_roles(below: Mapping[str, tuple[int, int]], by_hand: Choice) -> tuple[dict[str, str], list[str]]:
    """Folder -> role, or {} where the folders are classes; and notes.

    `below` has of each folder the number of images that lie directly in it, and of those deeper. Folders are splits
    where one reads as train and either no other folder is there, or train holds folders, or another split is there.
    """
    if by_hand.none:
        return {}, []
    if by_hand.roles:
        return _chosen({name: [name] for name in below}, by_hand.roles)
    roles = {name: role for name in below if (role := role_of(name))}
    others = [name for name in below if name not in roles]
    trains = [name for name, role in roles.items() if role == "train"]
    if not trains:
        held = [name for name, role in roles.items() if role in ("test", "val")]
        if held and (not others or any(below[name][1] for name in held)):
            raise UserError(f"{_listed(held)} reads as a test split, and no folder as train: {DECIDE}.")
        return {}, []
    flat = not any(below[name][1] for name in trains)
    if flat and any(below[name][0] for name in others):
        if len(set(roles.values())) == 1 and len(trains) == 1:
            return {}, []  # bus, car, train: a class
        raise UserError(f"{_listed(roles)} read as splits, {_listed(others)} do not, and all hold images: {DECIDE}.")
    for role in ("train", "test", "val"):
        if len(same := [name for name, r in roles.items() if r == role]) > 1:
            raise UserError(f"{_listed(same)} both read as {role}: {DECIDE}.")
    notes = [f"Not read, beside the splits: {_listed(others)} ({sum(map(sum, (below[n] for n in others))):,} images)."]
    return roles, notes if others else []


def _listed(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    shown = [f"'{name}'" for name in names[:most]] + ["..."] * (len(names) > most)
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def held_out(parts: Iterable[str], unlabelled: Sequence[str] = ()) -> tuple[dict[str, str], list[str]]:
    """Which part is which split: test is `test` or else `val`, never both; and notes on what is left out."""
    there = sorted(set(parts) - {""})
    test = next((p for p in ("test", "val") if p in there and p not in unlabelled), "")
    unused = [p for p in there if p not in ("train", test)]
    roles = {"train": "train", **({test: "test"} if test else {})}
    why = f"test is '{test}'" if test else "no labels in it" if set(unused) <= set(unlabelled) else "no test split"
    return roles, [f"Not used: {', '.join(unused)} ({why})."] if unused else []


def split_lines(parts: Mapping[str, str], roles: Mapping[str, str]) -> list[str]:
    """Which files became which split, in words."""
    out, top = [], os.path.commonpath([os.path.dirname(p) for p in parts])
    for part, role in roles.items():
        found = sorted(os.path.relpath(p, top) if top else p for p, own in parts.items() if own == part)
        if found:
            out.append(f"{role}: {', '.join(found[:3])}{f', ... ({len(found)} files)' if len(found) > 3 else ''}")
    return out
