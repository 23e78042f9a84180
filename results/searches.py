"""The recorded searches as Markdown: what each method gained, and every trial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from results import trials
from results.render import line, markdown_note

HEAD = """# Searches of settings

Written by `ssl-bench report --collect` from `trials.jsonl`, which keeps every trial, failed ones too. All numbers were
measured on validation images, with one seed per trial: the best of several is partly luck, and its gain optimistic.
"Confirmed" is the winner minus the recipe over fresh seeds, with a 95 % interval.
"""
GAINS = ("method", "trials", "bad", "recipe", "best", "gain", "FLOPs", "settings of the best", "confirmed")


def to_markdown(lines: Sequence[dict[str, Any]]) -> str:
    """One search after another: those that share recipe, settings, what was drawn, and protocols."""
    parts = [HEAD]
    for asked, names in sorted({(_asked(x), _protocols(x)) for x in lines if x["validation"]}):
        here = [x for x in lines if _asked(x) == asked and _protocols(x) in (names, ())]  # (): it failed
        recipe, base, drawn = asked
        parts.append(f"## Mean of {', '.join(names)}; recipe {_code([recipe, *base])}\n")
        parts.append(f"Drawn: {_code(drawn)}.\n")
        methods = sorted({x["method"] for x in here})
        parts.append(_table(GAINS, [_gained(m, [x for x in here if x["method"] == m]) for m in methods]))
        titles = ("method", "trial", "purpose", "seed", "settings", *names, "state")
        parts += ["Every trial:\n", _table(titles, [_trial(x, names) for x in here])]
    return "\n".join(parts)


def _asked(x: dict[str, Any]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    return x["recipe"], tuple(x["base"]), tuple(x["space"])


def _protocols(x: dict[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(x["validation"]))


def _gained(method: str, tried: Sequence[dict[str, Any]]) -> list[str]:
    g = trials.gain(method, tried)
    found = trials.confirmed(tried, g.trial) if g.trial else None
    sure = "" if found is None else f"{found.difference:+.2f}"
    if found is not None and found.low is not None and found.high is not None:
        sure += f" ({found.low:+.2f} to {found.high:+.2f})"
    return [*trials.row(g), sure]


def _trial(x: dict[str, Any], names: Sequence[str]) -> list[str]:
    values = [f"{x['validation'][n]['value']:.1f}" if n in x["validation"] else "" for n in names]
    settings = _code(x["settings"]) if x["settings"] else "the recipe as it is"
    return [x["method"], str(x["trial"]), x["purpose"], str(x["seed"]), settings, *values, x["state"]]


def _code(texts: Sequence[str]) -> str:
    return ", ".join(f"`{text}`" for text in texts)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    body = [line(markdown_note(cell) for cell in row) for row in rows]
    return "\n".join([line(titles), line(["---"] * len(titles)), *body]) + "\n"
