"""Data sets drawn by chance: every outcome is the table that is right by construction, or one sentence."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from made_sets import make
from made_writers import Made
from torch import Tensor

from ssl_bench.cli.main import cli
from ssl_bench.config.schema import DataConfig, RunConfig
from ssl_bench.data import store
from ssl_bench.data.dataset import Split, open_data, open_test, open_truth
from ssl_bench.errors import UserError

SIZE = 16
COUNT = int(os.environ.get("SSL_BENCH_MADE_SETS", "25"))  # sets; more by hand


def found(made: Made, split: Split, labels: Tensor | None, classes: tuple[str, ...]) -> list[tuple[int, str]]:
    """(number of the picture, class) of the images that came out."""
    if not len(split):
        return []
    pixels = split.batch(slice(None)).numpy().astype(float)
    cells = pixels.reshape(len(pixels), 3, 4, SIZE // 4, 4, SIZE // 4)[:, :, :, 1:-1, :, 1:-1].mean((3, 5))
    known = [r.picture for r in made.rows]
    out = []
    for i, cell in enumerate(cells):
        far = [float(np.abs(cell - p.cells).max()) for p in known]
        nearest = known[int(np.argmin(far))]
        assert min(far) <= (1 if nearest.exact else 45), f"pixels of {nearest.kind}: {min(far):.0f} off"
        label = -1 if labels is None else int(labels[i])
        assert label >= 0 or not made.labelled, "a label of -1"
        out.append((id(nearest), classes[label] if made.labelled else ""))
    return out


def same(made: Made, got: list[tuple[int, str]], right: list[tuple[int, str]]) -> None:
    kinds = {id(r.picture): r.picture.kind for r in made.rows}
    wrong = (Counter(got) - Counter(right), Counter(right) - Counter(got))
    more, less = ([(kinds[p], label) for p, label in rows.elements()] for rows in wrong)
    assert not more and not less, f"came out: {more}; and should: {less}"


def outcome(made: Made) -> str:
    """ "table" or "sentence", where that is right; `AssertionError` says what is wrong."""
    bad = sum(bool(r.bad) for r in made.rows if r.part in ("train", made.test))
    lenient = RunConfig(bad_limit=1.0)
    config = DataConfig(made.name, SIZE, 0.2)
    try:
        if bad:  # refused by default, with their number
            with pytest.raises(UserError, match=f"{bad} of .* cannot be read|No image of|Too few"):
                open_data(config)
        line = ["data", "check", made.name, "--image-size", str(SIZE), "--bad-limit", "1.0"]
        done = CliRunner().invoke(cli, line)
        if done.exception is not None:
            raise done.exception
        data, test = open_data(config, lenient), open_test(config)
    except UserError as error:
        text = str(error)
        assert "\n" not in text and "Traceback" not in text and len(text) > 20
        few = bad and not made.test and max(Counter(label for _, label in made.expected("train")).values()) < 5
        assert made.outcome != "table" or (few and text.startswith("Too few images")), f"refused: {text}"
        assert all(re.search(s, text) for s in made.said) or made.outcome == "either", f"another sentence: {text}"
        assert all((p / "meta.json").exists() for p in (Path(os.environ["SSL_BENCH_CACHE"]) / "stores").glob("*"))
        return "sentence"
    assert made.outcome != "sentence", f"not refused: {done.output}"
    meta = json.loads((store.ensure(config) / "meta.json").read_text())
    train = [row for split in (data.train, data.val) for row in found(made, split, split.labels, data.classes)]
    sealed = found(made, test, open_truth(config).get("labels"), data.classes)
    if made.labelled and not made.test:
        same(made, train + sealed, made.expected("train"))
        each = Counter(label for _, label in made.expected("train"))
        assert Counter(label for _, label in sealed) == {c: n // 5 for c, n in each.items() if n >= 5}
    elif made.labelled:
        same(made, train, made.expected("train"))
        same(made, sealed, made.expected(made.test))
    else:
        parts = ["train", next((p for p in ("test", "val") if p in made.parts), "")]
        same(made, train, [row for p in parts for row in made.expected(p)])
    assert data.labelled == made.labelled and len(meta["bad"]) == bad
    counted = {part: sum(numbers) for part, numbers in meta["counts"].items()}
    assert not made.labelled or counted == meta["split"] == {"train": len(train), "test": len(sealed)}
    notes = " ".join(meta["notes"])
    assert all(re.search(s, notes) for s in made.said) or made.outcome == "either", f"unsaid: {made.said}, but {notes}"
    return "table"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(COUNT))
def test_a_set_by_chance(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_BENCH_CACHE", str(tmp_path / "cache"))
    made = make(seed, tmp_path, SIZE)
    assert outcome(made) in ("table", "sentence"), made
