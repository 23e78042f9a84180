"""Segments and crops in evaluations: what is joined, what is averaged, what the record says, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from protocols.anticipate import begun
from protocols.attentive import Attentive, AttentiveConfig
from protocols.linear import Linear, LinearConfig
from results.records import Record
from ssl_bench.config.schema import DataConfig, vit
from ssl_bench.data.dataset import Split, open_data, open_test, open_truth
from ssl_bench.encoders.encoder import Encoder
from ssl_bench.encoders.references import pixels, untrained
from ssl_bench.errors import UserError
from ssl_bench.evaluation import features
from ssl_bench.evaluation.answers import voted
from ssl_bench.evaluation.evaluate import evaluate_all
from ssl_bench.evaluation.protocol import Features
from tests.helpers.made_films import write_films

SETTINGS = ["linear.strengths=9", "attentive.epochs=3", "anticipate.linear.strengths=5"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films whose class is told by a small difference in brightness: crops of one film are not always of one mind."""
    write_films(place := tmp_path_factory.mktemp("films"), step=8)
    return place


def data(place: Path, views: str = "") -> DataConfig:
    return DataConfig(f"folder:{place}#kind=clip{views}", image_size=16, frames=2, val_fraction=0.25)


def network(config: DataConfig) -> Encoder:
    return untrained(vit("toy_patch8"), 16, 0, open_data(config))


def recorded(config: DataConfig, root: Path, *names: str, encoder: Encoder | None = None) -> dict[str, Record]:
    own = [s for s in SETTINGS if s.partition(".")[0] in names]
    found = evaluate_all(encoder or network(config), names, config, root, overrides=own, device="cpu")
    return {record.protocol: record for record in found}


def test_one_segment_and_one_crop_gives_the_numbers_of_none(place: Path, tmp_path: Path):
    names = ("linear", "attentive", "knn", "anticipate")
    plain, one = (recorded(data(place, views), tmp_path, *names) for views in ("", "#views=1x1"))
    for name in names:
        a, b = plain[name], one[name]
        assert (a.metrics, a.correct, a.encoder, a.optimism) == (b.metrics, b.correct, b.encoder, b.optimism)
        assert a.data["name"] != b.data["name"] and a.data["fingerprint"] == b.data["fingerprint"]


@pytest.mark.parametrize("source", ["random", "pixels"])
def test_pooled_features_of_segments_are_averaged_and_tokens_joined(place: Path, source: str):
    config = data(place, "#views=3x1")
    encoder = network(config) if source == "random" else pixels(open_data(config))
    films = open_data(config).train.batch(np.arange(4))
    assert films.shape == (4, 3, 2, 3, 16, 16)
    found = encoder.encode(films, want_tokens=True)
    each = [encoder.encode(films[:, i], want_tokens=True) for i in range(3)]
    assert found.keys() == each[0].keys()
    for name in found.keys() - {"tokens"}:
        assert torch.allclose(found[name], (each[0][name] + each[1][name] + each[2][name]) / 3)
    assert torch.equal(found["tokens"], torch.cat([e["tokens"] for e in each], 1))
    assert found["tokens"].shape[1] == 3 * each[0]["tokens"].shape[1]


def test_segments_are_not_taken_for_clips_or_images(place: Path):
    films = open_data(data(place, "#views=3x1")).train.batch(np.arange(2))
    with pytest.raises(UserError, match="takes clips of 2 frames, and these are films in 3 segments"):
        network(data(place)).prepare(films)
    with pytest.raises(UserError, match="takes images, and these are clips of 2 frames"):
        untrained(vit("toy_patch8"), 16, 0).encode(films)


def test_the_softmax_of_crops_is_averaged():
    logits = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 9.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    e = [[0.5, 0.5], [np.exp(2) / (np.exp(2) + 1)] * 2, [1 / (np.exp(9) + 1)] * 2]
    first = (e[0][0] + e[1][0] + e[2][0]) / 3
    expected = torch.tensor([[first, 1 - first], [np.e / (np.e + 1), 1 / (np.e + 1)]])
    assert torch.allclose(voted(logits, 3), expected.double())
    assert voted(logits, 1) is logits


@pytest.mark.parametrize("name", ["linear", "attentive"])
def test_a_record_of_crops_is_their_vote_by_hand(place: Path, tmp_path: Path, name: str):
    """One crop after another is given to the predictor that is fitted on the middle ones."""
    config = data(place, "#views=2x3")
    dataset, encoder, sealed = open_data(config), network(config), open_test(config)
    record = recorded(config, tmp_path, name, encoder=encoder)[name]

    def part(split: Split, title: str) -> Features:
        return features.of_part(encoder, dataset, split, title, tmp_path / "own", tokens=True)

    one = Linear(LinearConfig(strengths=9)) if name == "linear" else Attentive(AttentiveConfig(epochs=3))
    torch.manual_seed(0)
    predictor = one.fit(part(dataset.train, "train"), part(dataset.val, "val"), 0)
    crops = [replace(sealed, index=sealed.index[i::3]) for i in range(3)]
    logits = [predictor.predict(part(crop, f"crop {i}")) for i, crop in enumerate(crops)]
    labels = open_truth(config)["labels"]

    def right(scores: Tensor) -> list[bool]:
        return (scores.argmax(1) == labels).tolist()

    assert record.bits().tolist() == right(sum(z.softmax(1) for z in logits))
    assert record.bits().tolist() != right(logits[0])
    assert record.data["num_test"] == 8 and record.data["num_train"] + record.data["num_val"] == 16
    assert record.data["name"].endswith("#views=2x3") and record.optimism == {}
    said = {k: record.encoder[k] for k in ("frames", "segments", "crops", "vote")}
    assert said == {"frames": 2, "segments": 2, "crops": 3, "vote": "softmax averaged"}


def test_views_share_no_features_and_no_id(place: Path, tmp_path: Path):
    found, kept = {}, set()
    for views in ("", "#views=1x3", "#views=3x1", "#views=2x1", "#views=2x3"):
        found[views] = recorded(data(place, views), tmp_path, "linear")["linear"].id
        files = {path.name for path in (tmp_path / "features").iterdir()}
        assert len(files - kept) == 3 + 3  # three parts, three controls
        kept = files
    assert len(set(found.values())) == 5


def test_controls_and_anticipation_see_the_film_as_a_whole(place: Path, tmp_path: Path):
    """The mean over segments of one frame each has no order: reversed or shuffled, a film is what it was."""
    config = replace(data(place, "#views=4x3"), frames=1)
    found = recorded(config, tmp_path, "linear", "anticipate", encoder=pixels(open_data(config)))
    metrics = found["linear"].metrics
    assert metrics["top1, reversed"] == metrics["top1, shuffled frames"] == metrics["top1"]
    kept = {"top1, one frame", "top1, shuffled frames", "top1, reversed"}
    assert all(kept <= record.metrics.keys() for record in found.values())
    films = torch.arange(6).view(1, 3, 2, 1, 1, 1).expand(2, 3, 2, 3, 4, 4)
    assert begun(films, 0.5)[0, ..., 0, 0, 0].tolist() == [[0, 1], [2, 2], [2, 2]]


@pytest.mark.parametrize(
    ("name", "views", "why"),
    [
        ("knn", "2x3", r"knn gives no logits, by which the 3 crops .* could vote; linear .* #views=2x1 has no crops"),
        ("lowshot", "1x3", "lowshot gives no logits"),
        ("linear:mae", "2x1", "linear:mae prepares clips itself and takes none in segments or crops"),
        ("finetune", "2x3", "finetune prepares clips itself"),
        ("robust", "1x3", "robust prepares clips itself"),
    ],
)
def test_protocols_that_cannot_join_or_vote_are_refused(place: Path, tmp_path: Path, name: str, views: str, why: str):
    with pytest.raises(UserError, match=why):
        list(evaluate_all("pixels", [name], data(place, f"#views={views}"), tmp_path))


@pytest.mark.parametrize("name", ["finetune", "lowshot:finetune"])
def test_what_trains_on_random_pictures_is_refused_for_clips(place: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} needs images or .* or sounds, and .* has clips"):
        list(evaluate_all("random:toy_patch8", ["knn", name], data(place), tmp_path))
    assert not any(tmp_path.iterdir())


def test_protocols_on_pooled_features_take_segments(place: Path, tmp_path: Path):
    found = recorded(data(place, "#views=2x1"), tmp_path, "knn", "lowshot", "clustering")
    assert {r.encoder["segments"] for r in found.values()} == {2} and len(found) == 3
