"""The set `expressions`: sums, differences and products in words and as code, a meaning that anybody can run.

An item is a pair: Text, in one of two wordings drawn for it ("sum of x and three", "add three to x"), and Code
("x+3"). Two to four leaves out of x, y, z and the digits 1 to 9; the label is the outermost operation.
`expressions` has 4,000 training pairs, `expressions:N` N of them, and a quarter as many for the test split.
No two pairs of a split mean the same, and no test pair means what a training pair means, however it is written: which
split a meaning belongs to is in its own hash. A larger set begins with the smaller one. No torch in here.
"""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from ssl_bench.data.images import Item
from ssl_bench.data.source import Content, Source, drawn, files, number_of, sizes
from ssl_bench.rng import mix

KIND, DIRECTED, FACTORS = "text", False, ()
VERSION = 1  # raised whenever a pair would be another one
DEFAULT, FEWEST, MOST = 4000, 40, 100_000
VARIABLES = ("x", "y", "z")
DIGITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OPERATIONS = {"+": "sum", "-": "difference", "*": "product"}  # labels, too
LEAVES = (2, 3, 4)  # of an expression, drawn with the chances
CHANCES = (0.1, 0.3, 0.6)
WORDS = (*OPERATIONS.values(), "of", "and", "add", "to", "take", "from", "multiply", "by", *DIGITS)
_rng = np.random.default_rng(0)
POINTS = {name: _rng.integers(-50, 51, 24) for name in VARIABLES}  # where two expressions are compared

Tree = str | tuple[str, "Tree", "Tree"]  # a leaf as Code has it, or an operation on two trees


def tree(rng: np.random.Generator, leaves: int) -> Tree:
    """A random expression of so many leaves."""
    if leaves == 1:
        return str((*VARIABLES, *range(1, 10))[rng.integers(12)])
    left = int(rng.integers(1, leaves))
    return "+-*"[rng.integers(3)], tree(rng, left), tree(rng, leaves - left)


def text(of: Tree, wording: int) -> str:
    """In words, by the first wording (0) or the second (1); either can be read in one way alone."""
    if isinstance(of, str):
        return DIGITS[int(of) - 1] if of.isdigit() else of
    operation, (a, b) = of[0], (text(part, wording) for part in of[1:])
    if wording == 0:
        return f"{OPERATIONS[operation]} of {a} and {b}"
    return {"+": f"add {b} to {a}", "-": f"take {b} from {a}", "*": f"multiply {a} by {b}"}[operation]


def code(of: Tree) -> str:
    """As code, with no bracket more than it needs."""
    if isinstance(of, str):
        return of
    operation, a, b = of[0], code(of[1]), code(of[2])
    loose = [isinstance(part, tuple) and part[0] in "+-" for part in of[1:]]
    if operation == "*":
        a, b = (f"({part})" if open_ else part for part, open_ in zip((a, b), loose, strict=True))
    elif operation == "-" and loose[1]:
        b = f"({b})"
    return f"{a}{operation}{b}"


def run(written: str) -> np.ndarray | None:
    """What code gives at each of `POINTS`, int64 [24], modulo 2^64; None for what is no expression.

    A parser of its own: whatever a network writes is read in time linear in its length, and nothing else is run.
    """
    rest = list(reversed(written))

    def leaf() -> np.ndarray:
        c = rest.pop() if rest else ""
        if c == "(":
            value = chain("+-")
            if not rest or rest.pop() != ")":
                raise ValueError("an open bracket")
            return value
        if c in POINTS:
            return POINTS[c]
        if c not in "123456789" or not c:
            raise ValueError(f"no leaf: '{c}'")
        return np.full_like(POINTS["x"], int(c))

    def chain(operations: str) -> np.ndarray:
        part = leaf if operations == "*" else partial(chain, "*")
        value = part()
        while rest and rest[-1] in operations:
            value = {"+": np.add, "-": np.subtract, "*": np.multiply}[rest.pop()](value, part())
        return value

    try:
        value = chain("+-")
    except (ValueError, RecursionError):
        return None
    return None if rest else value


def same(first: str, second: str) -> bool:
    """Whether both are expressions and give the same everywhere they are run."""
    a, b = run(first), run(second)
    return a is not None and b is not None and bool((a == b).all())


def is_test(meaning: bytes) -> bool:
    """Which split a meaning belongs to."""
    return mix("expressions", VERSION, "split", meaning.hex()) % 5 == 0


@lru_cache(maxsize=4)
def pairs(split: str, count: int) -> list[tuple[str, str, str]]:
    """(Text, Code, label) of the first so many of a split."""
    rng, seen = np.random.default_rng(mix("expressions", VERSION, split)), set[bytes]()
    out: list[tuple[str, str, str]] = []
    while len(out) < count:
        made, wording = tree(rng, int(rng.choice(LEAVES, p=CHANCES))), int(rng.integers(2))
        value = run(written := code(made))
        assert value is not None
        if is_test(value.tobytes()) == (split == "test") and value.tobytes() not in seen:
            seen.add(value.tobytes())
            out.append((text(made, wording), written, OPERATIONS[made[0]]))
    return out


def source(rest: str) -> Source:
    """The set as `data.name=expressions` or `expressions:N` names it."""
    number = number_of("expressions", rest, "pairs", DEFAULT, FEWEST, MOST)

    def make(split: str, i: int) -> Item:
        words, written, label = pairs(split, sizes(number)[split])[i]
        return Item(f"{words}\n{written}".encode(), label, f"expressions {split} {i}")

    def content() -> Content:
        return Content(drawn(number, make), 64 * number)

    return Source(files(Path(__file__)), content, KIND)
