"""Protocols that cheat: each is one file, as a user would write it, on images whose labels no feature can tell.

Chance is 25 %. While the seal was a rule alone, the first five and `keep` reached 100 %, `bits` 50 %, `votes` went
unnoticed with 45 %, and `pixels` found every image of a test split that was cut from the training files.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from results import tables
from results.records import Record, read
from ssl_bench.config.schema import DataConfig, RunConfig
from ssl_bench.data import store, store_build
from ssl_bench.data.dataset import open_data, open_test
from ssl_bench.data.places import cache_folder
from ssl_bench.errors import UserError
from ssl_bench.evaluation import answers, evaluate, seal
from ssl_bench.experiments import recorded

HEAD = """
import gc, glob, sys
from dataclasses import dataclass
from pathlib import Path
import numpy as np, torch
from ssl_bench.evaluation.protocol import Predictor, Protocol

@dataclass(frozen=True)
class Settings:
    turn: int = 1

def onehot(labels, x):
    found = torch.as_tensor(np.asarray(labels)).long()
    found = found if len(found) == len(x) else torch.zeros(len(x)).long()
    return torch.nn.functional.one_hot(found, x.num_classes) * 1.0

class Answer(Predictor):
    def predict(self, x):
        try:
            return onehot(self.labels(x), x)
        except Exception as error:
            self.measured["stopped"] = 1.0
            return onehot(np.zeros(len(x)), x)

class Cheat(Protocol):
    config: Settings
    def fit(self, train, val, seed):
        mine = Mine()
        mine.train, mine.val = train, val
        return mine
"""
CHEATS = {
    "path": """
class Mine(Answer):
    def labels(self, x):
        def place(a):
            while a is not None:
                if getattr(a, "filename", None): return Path(a.filename).parent
                if getattr(a, "folder", None): return Path(a.folder)
                a = getattr(a, "base", None)
        return np.load(place(x.items.sources[0].store) / "test_labels.npy")
""",
    "cache": """
class Mine(Answer):
    def labels(self, x):
        from ssl_bench.data.places import cache_folder
        for path in glob.glob(f"{cache_folder()}/stores/*/test_labels.npy"):
            if len(found := np.load(path)) == len(x): return found
""",
    "frames": """
class Mine(Answer):
    def labels(self, x):
        frame = sys._getframe()
        while frame:
            for value in list(frame.f_locals.values()):
                for found in (value, getattr(value, "labels", None)):
                    if isinstance(found, torch.Tensor) and found.dtype == torch.int64 and found.shape == (len(x),):
                        return found
            frame = frame.f_back
""",
    "storage": """
class Mine(Answer):
    def labels(self, x):
        hidden = x.labels.untyped_storage()
        return torch.tensor([], dtype=torch.int64).set_(hidden, 0, (hidden.nbytes() // 8,))
""",
    "order": """
class Mine(Answer):
    def labels(self, x):
        rows = x.items.sources[0].index  # of the file, which lists one class after the other
        return np.argsort(np.argsort(rows)) * x.num_classes // len(rows)
""",
    "votes": """
class Mine(Answer):
    def predict(self, x):
        return torch.rand(2000, len(x), x.num_classes, generator=torch.Generator().manual_seed(0))

def best(self, output, labels, num_classes):
    return {"top1": max(float(100 * (v.argmax(1) == labels).double().mean()) for v in output)}

Cheat.classes, Cheat.score = lambda self, output: None, best
""",
    "keep": """
KEPT = []

class Mine(Answer):
    def labels(self, x):
        return KEPT[0]

def keep(self, output, labels, num_classes):
    KEPT.append(labels.clone())
    return {"top1": float(100 * (output.argmax(1) == labels).double().mean())}

Cheat.score = keep
def again() -> Settings: return Settings(2)
""",
    "bits": """
class Mine(Answer):
    def labels(self, x):
        seen = [o.bits() for o in gc.get_objects() if type(o).__name__ == "Record" and o.data["num_test"] == len(x)]
        assert len(seen) == 1  # of the variant before: its right answers are the images of class 0
        return np.where(seen[0], 0, 1)

class Zero(Answer):
    def labels(self, x): return np.zeros(len(x))

def fit(self, train, val, seed): return Zero() if self.config.turn == 1 else Mine()

Cheat.fit = fit
def again() -> Settings: return Settings(2)
""",
    "pixels": """
class Mine(Answer):
    def labels(self, x):
        used = np.concatenate([part.items.sources[0].index for part in (self.train, self.val)])
        whole = self.train.items.sources[0].store
        rest = whole[np.setdiff1d(np.arange(len(whole)), used)]
        self.measured["test_pixels"] = float(rest.reshape(len(rest), -1).any(1).sum())
        return np.zeros(len(x))
""",
}


def noise(root: Path, splits: dict[str, int]) -> DataConfig:
    """Images of noise in four classes."""
    rng = np.random.default_rng(0)
    for split, count in splits.items():
        for name in "abcd":
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(image).save(root / split / name / f"{i}.png")
    return DataConfig(f"folder:{root}", image_size=8, val_fraction=0.2)


@pytest.fixture(params=["own", "cut"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> DataConfig:
    """A set with a test split, and one whose test split is cut from its images."""
    return noise(tmp_path / "data", {"train": 40, "test": 20} if request.param == "own" else {"": 60})


def cheat(name: str, data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: str = "") -> Record:
    """What the last of the cheat's protocols has measured."""
    lab = tmp_path / f"lab_{name}"
    lab.mkdir()
    (lab / "cheat.py").write_text(HEAD + CHEATS[name])
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for module in [m for m in sys.modules if m.startswith("lab_")]:
        monkeypatch.delitem(sys.modules, module)
    names = [f"lab_{name}.cheat", *([f"lab_{name}.cheat:{again}"] if again else [])]
    return list(evaluate.evaluate_all("random:toy_patch4@8", names, data, tmp_path / "runs", device="cpu"))[-1]


@pytest.mark.parametrize("name", ["path", "cache", "frames", "storage", "order"])
def test_labels_cannot_be_reached(name: str, data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cheat(name, data, tmp_path, monkeypatch).value < 50


@pytest.mark.parametrize("name", ["keep", "bits"])
def test_what_one_variant_learns_does_not_reach_the_next(
    name: str, data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cheat(name, data, tmp_path, monkeypatch, again="again").value < 40


def test_what_is_compared_with_earlier_numbers_keeps_no_record_in_memory(data: DataConfig, tmp_path: Path) -> None:
    """`eval` reads the earlier numbers before a protocol predicts: their bits of right answers must not stay."""
    evaluate.evaluate("random:toy_patch4@8", "knn", data, tmp_path / "runs", device="cpu")
    before = {id(o) for o in gc.get_objects() if type(o) is Record}
    there = recorded.values(tmp_path / "runs")
    assert [value for value, _ in there.values()] == [r.value for r in read(tmp_path / "runs" / "records")]
    assert not [o for o in gc.get_objects() if type(o) is Record and id(o) not in before]


def test_an_own_scorer_runs_and_is_marked(data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = cheat("votes", data, tmp_path, monkeypatch)
    assert record.value > 35, "the best of 2,000 guesses: the harness cannot know"
    assert record.compute["eval"]["scorer"] == "own"
    table = tables.build([record])
    assert table.columns[0].label == "lab_votes.cheat (own scorer)"
    assert any("brings its own scorer" in note for note in table.notes)
    honest = evaluate.evaluate("random:toy_patch4@8", "knn", data, tmp_path / "runs", device="cpu")
    assert honest.compute["eval"]["scorer"] == "harness"
    assert not any("own scorer" in note for note in tables.build([honest]).notes)


def test_training_images_lie_in_no_file_with_test_images(
    data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cheat("pixels", data, tmp_path, monkeypatch).metrics.get("test_pixels", 0) == 0


@pytest.mark.parametrize("kind", ["decoded", "encoded"])
@pytest.mark.parametrize("splits", [{"train": 40, "test": 20}, {"": 60}])
def test_the_test_images_are_whole_and_a_stopped_sealing_is_done_again(
    kind: str, splits: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = noise(tmp_path / "data", splits), RunConfig(store=kind)
    monkeypatch.setenv("SSL_BENCH_CACHE", str(tmp_path / "cache"))

    def stop(*_: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as m:
        m.setattr(store_build.np, "cumsum", stop)  # after the copy and the blanking, before the store is whole
        with pytest.raises(UserError, match="Cannot write"):
            open_data(data, run)
    training, test = open_data(data, run), open_test(data)
    assert (store.there(data) or Path()).name.endswith(kind)
    parts = [training.train, training.val, test]
    found = {p.batch([i]).numpy().tobytes() for p in parts for i in range(len(p))}
    files = [np.asarray(Image.open(f)).transpose(2, 0, 1).tobytes() for f in (tmp_path / "data").rglob("*.png")]
    assert found == set(files)
    assert test.index.tolist() == list(range(len(test)))


def test_what_a_protocol_gets_names_no_place(data: DataConfig, tmp_path: Path) -> None:
    one, opened, places = open_data(data), open_test(data), (str(tmp_path), str(cache_folder()))
    for kind in ("decoded", "encoded"):
        for part in (one.train, one.val, opened, open_data(data, RunConfig(store=kind)).train):
            seen, todo = set(), [part]
            while todo:
                held = todo.pop()
                if id(held) in seen or isinstance(held, (type, ModuleType, FunctionType)):
                    continue
                seen.add(id(held))
                assert not (isinstance(held, (str, bytes, Path)) and any(p in str(held) for p in places)), held
                todo += gc.get_referents(held)


def test_a_scorer_in_a_process_of_its_own_works_after_many_threads_and_tells_its_errors() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x = torch.randn(400, 400)
        x.exp() @ x  # OpenMP's threads are there now: a fork that used them would hang
        assert seal.aside(lambda: {"a": (x @ x).isfinite().double().mean()}) == {"a": 1.0}
    finally:
        torch.set_num_threads(threads)
    with pytest.raises(UserError, match=r"(?s)own scorer failed:.*ZeroDivisionError"):
        seal.aside(lambda: {"a": 1 / 0})


def test_a_failing_protocol_leaves_the_answers_before_it() -> None:
    def made() -> Iterator[Any]:
        yield "first"
        raise UserError("second")

    given: Iterator[Any] = answers.waiting(made())
    assert next(given) == "first"
    with pytest.raises(UserError, match="second"):
        next(given)
