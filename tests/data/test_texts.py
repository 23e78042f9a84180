"""The kind `text`: pairs in files and tables, a dictionary, what is unreadable, and what a sealed file tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ssl_bench.config.schema import DataConfig, RunConfig
from ssl_bench.data import expressions, items, registry
from ssl_bench.data.dataset import open_data, open_test, open_truth
from ssl_bench.data.expressions import code, is_test, pairs, run, same, text, tree
from ssl_bench.data.images import Item
from ssl_bench.data.pixels import Unreadable
from ssl_bench.data.texts import FIRST, Texts
from ssl_bench.errors import UserError

WORDS = Texts(14, expressions.WORDS, "expressions")
SET = DataConfig("expressions:200", image_size=14)


def read(kind: Texts, pair: str | bytes) -> np.ndarray:
    return kind.read(Item(pair.encode() if isinstance(pair, str) else pair, "a", "here"), False)[0]


def truth(of: expressions.Tree) -> np.ndarray:
    """The value of a tree, without code."""
    if isinstance(of, str):
        return expressions.POINTS[of] if of in expressions.POINTS else np.full(24, int(of))
    a, b = truth(of[1]), truth(of[2])
    return {"+": a + b, "-": a - b, "*": a * b}[of[0]]


def words_back(words: list[str]) -> np.ndarray:
    """The value of a text of either wording, read from its first word on."""
    word = words.pop(0)
    if word in expressions.DIGITS or word in expressions.VARIABLES:
        leaf = str(1 + expressions.DIGITS.index(word)) if word in expressions.DIGITS else word
        return truth(leaf)
    if word in ("sum", "difference", "product"):
        assert words.pop(0) == "of"
    a = words_back(words)
    assert words.pop(0) in ("and", "to", "from", "by")
    b = words_back(words)
    if word in ("take", "add"):
        a, b = b, a
    return {"s": a + b, "a": a + b, "d": a - b, "t": a - b, "p": a * b, "m": a * b}[word[0]]


def test_code_and_both_wordings_mean_what_the_tree_means():
    rng = np.random.default_rng(0)
    for leaves in rng.integers(1, 7, 500):
        made = tree(rng, int(leaves))
        assert (run(code(made)) == truth(made)).all()
        for wording in (0, 1):
            left = text(made, wording).split()
            assert (words_back(left) == truth(made)).all() and not left


@pytest.mark.parametrize("written", ["", "x+", "(x", "x)", "xx", "12", "0", "x--y", "()", "x é", "w", "(" * 9000])
def test_what_is_no_expression_has_no_meaning(written):
    assert run(written) is None and not same(written, written)


def test_same_meaning_in_other_words():
    assert same("x+3", "3+x") and same("x*(y-z)", "x*y-x*z")
    assert not same("x-(y-z)", "x-y-z") and not same("x", "y")


def test_no_meaning_is_in_both_splits_or_twice_in_one_and_sets_grow():
    train, test = pairs("train", 400), pairs("test", 100)
    meanings = [{run(written).tobytes() for _, written, _ in part} for part in (train, test)]
    assert [len(part) for part in meanings] == [400, 100] and not meanings[0] & meanings[1]
    assert all(is_test(m) for m in meanings[1]) and not any(is_test(m) for m in meanings[0])
    assert pairs("train", 40) == train[:40]
    assert {label for _, _, label in train} == {"sum", "difference", "product"}
    longest = max(max(len(words.split()), len(written)) for words, written, _ in train + test)
    assert longest <= 13 < SET.image_size


@pytest.mark.parametrize("name", ["expressions:39", "expressions:many", "expressions:1000000"])
def test_a_number_that_is_none_is_refused(name):
    with pytest.raises(UserError, match="40 to 100,000"):
        registry.find(name)


def test_a_dictionary_has_a_token_for_each_word_and_bytes_for_the_rest():
    found = read(WORDS, "sum of x and three\nx+3")
    place = {word: FIRST + i for i, word in enumerate(expressions.WORDS)}
    assert found[0].tolist() == [place["sum"], place["of"], ord("x"), place["and"], place["three"], *[0] * 9]
    assert found[1].tolist() == [*b"x+3", *[0] * 11]
    assert WORDS.text(found[0]) == "sum of x and three"
    plain = read(Texts(8), "añ\nb\nc")
    assert plain[0].tolist() == [*"añ".encode(), *[0] * 5] and plain[1].tolist() == [*b"b\nc", *[0] * 5]
    assert Texts(8).text(plain[0]) == "añ"


@pytest.mark.parametrize(("kind", "pair", "why"), [
    (Texts(4), "abcde\nx", "5 tokens"), (Texts(4), "a\nabcde", "5 tokens"), (Texts(4), "a", "empty"),
    (Texts(4), "\nx", "empty"), (Texts(4), b"\xff\nx", "not UTF-8"), (Texts(4), "a\0\nx", "zero byte"),
    (WORDS, "four score\nx", "'score' is not in the dictionary"), (WORDS, "x\né", "not ASCII"),
])  # fmt: skip
def test_what_is_unreadable_says_why(kind, pair, why):
    with pytest.raises(Unreadable, match=why):
        read(kind, pair)


def test_a_description_is_read_back():
    for kind in (WORDS, Texts(9)):
        assert items.written(kind.facts) == kind
    assert items.asked(SET, "text") == WORDS and registry.item(SET) == WORDS
    with pytest.raises(UserError, match="no effect on texts"):
        items.asked(DataConfig("folder:x#kind=text", 8, channels=1), "text")


@pytest.mark.parametrize("kind", ["decoded", "encoded"])
def test_the_sealed_file_tells_no_pair(kind):
    """In Code's place test items have the Codes of all in sorted order; which is whose, the targets alone tell."""
    data = open_data(SET, RunConfig(store=kind))
    train = data.train.batch(slice(0, len(data.train)))
    assert torch.equal(train[:, 1].float(), data.train.targets)
    test, known = open_test(SET), open_truth(SET)["targets"]
    found = test.batch(slice(0, len(test)))
    assert test.targets is None and not torch.equal(found[:, 1].float(), known)
    assert torch.equal(found[:, 1].unique(dim=0).float(), known.unique(dim=0))
    rows = found[:, 1].tolist()
    assert rows == sorted(rows)
    meant = {words: written for words, written, _ in pairs("test", 50)}
    plain = Texts(14)
    for item, target in zip(found, known, strict=True):
        assert plain.text(target.byte().numpy()) == meant[WORDS.text(item[0].numpy())]


def test_own_pairs_in_files_and_in_a_table(tmp_path: Path):
    for split, count in (("train", 20), ("test", 8)):
        for label in ("a", "b"):
            (tmp_path / "files" / split / label).mkdir(parents=True)
            for i in range(count):
                pair = f"{label} {split} {i}\n{label.upper()}{i}"
                (tmp_path / "files" / split / label / f"{i}.txt").write_text(pair)
    rows = [[f"{c} {i}", f"{c.upper()}{i}"] for c in "ab" for i in range(20)]
    pq.write_table(pa.table({"pair": rows, "label": [r[0][0] for r in rows]}), tmp_path / "train.parquet")
    pq.write_table(pa.table({"pair": rows[::5], "label": [r[0][0] for r in rows[::5]]}), tmp_path / "test.parquet")
    for name, count in ((f"folder:{tmp_path}/files#kind=text", 40), (f"parquet:{tmp_path}#kind=text", 40)):
        data = open_data(DataConfig(name, 16))
        assert len(data.train) + len(data.val) == count and data.item == Texts(16) and data.classes == ("a", "b")
        item = data.train.batch([0])[0].numpy()
        first, second = Texts(16).text(item[0]), Texts(16).text(item[1])
        assert first[0].upper() == second[0] and first.split()[-1] == second[1:]


def test_a_sheet_shows_both_texts():
    shown = WORDS.pictures(np.stack([read(WORDS, "x\nx"), read(WORDS, "sum of x and three\nx+3")]))
    assert shown.shape[:3] == (2, 1, 28) and shown.dtype == np.uint8
    assert (shown[1] < 128).sum() > (shown[0] < 128).sum() > 0
