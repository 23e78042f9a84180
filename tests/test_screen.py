"""What is said while something long goes on."""

from __future__ import annotations

import pytest

from ssl_bench import screen


@pytest.fixture
def said(monkeypatch):
    """Every line, with a clock that goes four seconds forward whenever it is read."""
    lines: list[str] = []
    clock = iter(range(0, 4000, 4))
    monkeypatch.setattr(screen, "say", lines.append)
    monkeypatch.setattr(screen.time, "monotonic", lambda: float(next(clock)))
    return lines


def test_long_work_says_how_far_it_is_every_ten_seconds(said):
    assert list(screen.paced("training", range(8), 8)) == list(range(8))
    assert said == ["training: 25%, 0:36 left", "training: 62%, 0:14 left"]


def test_short_work_says_nothing(said):
    assert list(screen.paced("training", "ab", 2)) == ["a", "b"]
    assert said == []
