"""Files from strangers and names nobody expects: nothing in them is run, sizes are bounded, sentences are clear."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_photos, tiny
from fake_records import fake
from safetensors.torch import save

from results import published, records
from ssl_bench import screen
from ssl_bench.cli import main
from ssl_bench.config.schema import DataConfig
from ssl_bench.encoders import from_run
from ssl_bench.encoders import published as official
from ssl_bench.errors import UserError, printable
from ssl_bench.evaluation.evaluate import data_of, evaluate
from ssl_bench.experiments import report
from ssl_bench.experiments.pictures import of_run
from ssl_bench.files import read_toml
from ssl_bench.screen import at_root
from ssl_bench.training import checkpoint, run_folder
from ssl_bench.training.pretrain import pretrain

DEEP = "[" * 200_000


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> Any:
        return open, (self.mark, "w")


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> run_folder.Run:
    return pretrain(tiny("mae", f"folder:{photos}", steps=2), tmp_path_factory.mktemp("runs"))


@pytest.fixture
def theirs(finished: run_folder.Run, tmp_path: Path) -> run_folder.Run:
    """A finished run, to be changed by a stranger."""
    shutil.copytree(finished.folder, tmp_path / "runs" / finished.name)
    return run_folder.Run(tmp_path / "runs" / finished.name)


def change(run: run_folder.Run, name: str, edit: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads((run.folder / name).read_text())
    edit(values)
    (run.folder / name).write_text(json.dumps(values))


def test_a_run_folder_does_not_name_code_to_run(
    theirs: run_folder.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    change(theirs, "encoder.json", lambda v: v.pop("seal"))  # a stranger writes another, or none
    for method in ("evil", "runs.evil", "os", "../evil"):
        change(theirs, "config.json", lambda v, method=method: v.update(method=method))
        assert from_run.from_run(theirs).method == method
        assert data_of(theirs.name, tmp_path / "runs").image_size == 24
    assert len(of_run(theirs, 2)) == 4, "pictures of the encoder, none of the method"
    assert not mark.exists()


BAD_CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "Unknown setting 'shell'": lambda v: v.update(shell="rm"),
    "seed='0; rm' does not fit": lambda v: v.update(seed="0; rm"),
    "ViTConfig must be a group": lambda v: v.update(backbone=[1]),
    "names no method": lambda v: v.update(method=["mae"]),
    "incomplete": lambda v: v.pop("objective"),
    "image_size=1000000000 must lie": lambda v: v["data"].update(image_size=10**9),
    "lr=nan|damaged|positive": lambda v: v["optim"].update(lr=-1e400),
}


@pytest.mark.parametrize("sentence", BAD_CONFIGS)
def test_hostile_configs(sentence: str, theirs: run_folder.Run) -> None:
    change(theirs, "config.json", BAD_CONFIGS[sentence])
    with pytest.raises(UserError, match=sentence):
        theirs.config()


def test_files_that_are_nested_too_deeply(theirs: run_folder.Run, tmp_path: Path) -> None:
    for text in (DEEP, '{"a":' * 100_000, "[]", "1" * 5000, "\x00"):
        for name in ("config.json", "encoder.json"):
            (theirs.folder / name).write_text(text)
        with pytest.raises(UserError, match="is damaged"):
            theirs.config()
        (theirs.folder / "status.json").write_text(text)
        assert theirs.status() == {}
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(UserError, match="not a valid record"):
            records.read(tmp_path / "a.json")


BAD_ENCODERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "depth": lambda v: v["backbone"].update(depth=10**9),
    "do not fit": lambda v: v["backbone"].update(embed_dim=2**20, num_heads=1),
    "image_size": lambda v: v.update(image_size=10**6),
    "backbone": lambda v: v.update(backbone="ViT"),
    "mean": lambda v: v.update(mean=["=cmd"]),
    "patch_size": lambda v: v["backbone"].update(patch_size=0),
    "weights_sha256": lambda v: v.update(weights_sha256=None),
}


@pytest.mark.parametrize("sentence", BAD_ENCODERS)
def test_hostile_encoders(sentence: str, theirs: run_folder.Run) -> None:
    change(theirs, "encoder.json", BAD_ENCODERS[sentence])
    with pytest.raises(UserError, match=f"{sentence}|cannot be read"):
        from_run.from_run(theirs)


def test_safetensors_that_lie_about_their_size(theirs: run_folder.Run) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    good = save({"x": torch.zeros(3)})
    for data in (struct.pack("<Q", 2**60), struct.pack("<Q", len(header)) + header, good[:20], b"", good):
        (theirs.folder / "encoder.safetensors").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        change(theirs, "encoder.json", lambda v, digest=digest: v.update(weights_sha256=digest))
        with pytest.raises(UserError, match=r"cannot be read|do not fit"):
            from_run.from_run(theirs)


def test_hostile_metrics_are_left_out(theirs: run_folder.Run) -> None:
    before = theirs.metrics()
    lines = [
        DEEP,
        "[]",
        '{"step": "=cmd"}',
        '{"step": -1}',
        f'{{"step": {"9" * 300}}}',
        '{"step": 1, "loss": "x"}',
        "{",
    ]
    with open(theirs.folder / "metrics.jsonl", "ab") as file:
        file.write("\n".join(lines).encode() + b"\xff\n")
    assert theirs.metrics() == [*before, {"step": 1, "loss": "x"}]
    (theirs.folder / "status.json").write_text('{"steps": [1]}')
    assert {row["step"] if "step" in row else row["at"] for row in report.curves(theirs)}


def sealed(path: Path, payload: bytes) -> None:
    """A checkpoint with the right checksum."""
    path.write_bytes(checkpoint.MAGIC + hashlib.sha256(payload).digest() + payload)


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def deflated(data: bytes) -> bytes:
    """The same archive, compressed: zeros take next to nothing."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return out.getvalue()


def test_checkpoints_with_a_payload_or_a_bomb_are_refused(finished: run_folder.Run, tmp_path: Path) -> None:
    mark, zeros = tmp_path / "mark", torch.zeros(10**6)
    hostile = {
        "payload": saved({"step": 1, "method": Payload(mark)}),
        "bomb": deflated(saved({"step": 1, "x": zeros})),
        "nonsense": b"nonsense",
        "no dictionary": saved([1]),
    }
    for data in hostile.values():
        sealed(tmp_path / "last.ckpt", data)
        with pytest.raises(UserError, match="is no checkpoint of ssl-bench"):
            checkpoint.resume(tmp_path)
        for name in ("a.pth", "a.safetensors"):
            (tmp_path / name).write_bytes(data)
            with pytest.raises(UserError, match=r"refused|not a readable|not a dictionary|holds a list"):
                official.from_file(str(tmp_path / name))
    assert not mark.exists()


def test_a_checkpoint_of_something_else_is_refused(finished: run_folder.Run, tmp_path: Path) -> None:
    config, state = finished.config(), checkpoint.read(finished.folder / "last.ckpt")
    folder = run_folder.start(tmp_path, config).folder
    wrong: list[dict[str, Any]] = [{"method": {"x": torch.zeros(1)}}, {"step": None}, {"optimizer": 1}, {"window": 3}]
    for values in ({"step": 1}, *({**state, **w} for w in wrong)):
        checkpoint.save(folder, values)
        with pytest.raises(UserError, match="does not fit 'mae' as it is now"):
            pretrain(config, tmp_path)


def test_published_checkpoints_ask_for_no_more_than_they_hold(tmp_path: Path) -> None:
    wide = {"patch_embed.proj.weight": torch.zeros(2**20, 3, 1, 1), "pos_embed": torch.zeros(1, 4, 2**10)}
    wide |= {"blocks.0.mlp.fc1.weight": torch.zeros(4, 4), "blocks.999999999.norm1.weight": torch.zeros(4)}
    expanded = {"patch_embed.proj.weight": torch.zeros(1).expand(2**14, 3, 256, 256)}
    for state, sentence in ((wide, "do not fit"), (expanded, "larger than the file")):
        torch.save({"model": state}, tmp_path / "a.pth")
        with pytest.raises(UserError, match=sentence):
            official.from_file(f"{tmp_path}/a.pth")


BAD_RECORDS: list[dict[str, Any]] = [
    {"data": {"name": ["x"]}}, {"data": {"name": None}}, {"data": {"num_test": 10**30}},
    {"optimism": {"usual": "=1", "honest": 1.0, "candidates": 2}}, {"seeds": {"pretrain": [0]}},
    {"compute": {"pretrain": "=cmd", "eval": {}}}, {"compute": {"pretrain": {"flops": 1e308}, "eval": {}}},
    {"code": {"commit": 7, "dirty": False}}, {"collapse": {"flag": "yes", "reason": "", "rankme": 1}},
]  # fmt: skip


@pytest.mark.parametrize("wrong", BAD_RECORDS, ids=str)
def test_hostile_records(wrong: dict[str, Any], tmp_path: Path) -> None:
    """With a digest and an id that fit, as anybody can compute them."""
    good = fake()
    values = {k: v for k, v in records.to_dict(good).items() if k != "digest"}
    for key, value in wrong.items():
        values[key] = {**values[key], **value}
    values["id"] = records.identify(values)
    values["digest"] = records.sha(json.dumps(values, sort_keys=True, separators=(",", ":")))
    (tmp_path / "a.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"a.json' is not a valid record: "):
        records.read(tmp_path)


BAD_TOML = {
    "nested too deeply": "a = " + DEEP,
    "needs .*published.* tables": "published = 3",
    "is larger than": "#" * 2_000_000,
    "is not valid": "a = \x00",
    "rows must be a list": '[[published]]\nrows = "=cmd"',
    "wrong, missing or unknown value": '[[published]]\nsource = "x"\nchecked = true\nrows = [["a", "b", "c", inf]]',
    "wrong, missing or unknown .*value": '[[published]]\nsource = "x"\nchecked = true\nrows = [["a", "b", "c", "1"]]',
    "wrong, missing or unknown method": '[[published]]\nsource = "x"\nchecked = true\nrows = [[["a"], "b", "c", 1]]',
    "Cannot read": "",
}


@pytest.mark.parametrize("sentence", BAD_TOML)
def test_hostile_toml(sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    if BAD_TOML[sentence]:
        path.write_text(BAD_TOML[sentence])
    with pytest.raises(UserError, match=sentence):
        published.load(path)
    if sentence in ("nested too deeply", "is larger than", "Cannot read"):
        with pytest.raises(UserError, match=sentence):
            read_toml(path)


def test_names_send_nothing_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b]0;owned\x07b\u202e\udcffc\nd"
    assert printable(name) == "a\ufffd]0;owned\ufffdb\ufffd\ufffdc\nd"
    screen.say(name)
    with pytest.raises(SystemExit):
        main.main(["pretrain", "--method", "mae", f"data.name=folder:/{name}"])
    told = capsys.readouterr()
    for text in (told.out, told.err):
        assert "owned" in text and "\x1b" not in text and "\x07" not in text


PLACES = ["a b ü 東京 🙂", 'it\'s "quoted" `x` $(touch y) ; *', "new\nline", "a=b,c caf\udce9"]


@pytest.mark.parametrize("place", PLACES)
def test_odd_places_work(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root, images = tmp_path / place / "runs", tmp_path / place / "images"
    make_photos(images)
    config = tiny("mae", f"folder:{images}", steps=2)
    config = replace(config, data=replace(config.data, image_size=12), objective=replace(config.objective))
    run = pretrain(config, root)
    record = evaluate(run.name, "knn", DataConfig(config.data.name, 12, 0.2), root, device="cpu")
    found = report.load(root)
    assert [r.id for r in found] == [record.id]
    for form in report.FORMATS:
        text = report.report(found, form)
        assert "\x1b" not in text and (form in ("json", "csv") or place not in text or place.isprintable())
    report.html(found, tmp_path / place / "page.html", root, pictures=False)
    assert shlex.split(at_root(root)) == ["--root", str(root)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [place], "nothing was written elsewhere"
    assert os.path.exists(root / "records")
