"""The kind `points`: readers of tables and files, degenerate clouds, farthest-point order, the embedded parts."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sines import sines

from ssl_bench.config.schema import DataConfig, RunConfig
from ssl_bench.data import items, registry
from ssl_bench.data.dataset import open_data
from ssl_bench.data.images import Item
from ssl_bench.data.pixels import Unreadable
from ssl_bench.data.points import Points, farthest
from ssl_bench.data.shapes import coordinates
from ssl_bench.errors import UserError
from ssl_bench.training.method import configured
from ssl_bench.training.train import rehearse


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def read(array: np.ndarray, count: int = 8) -> tuple[np.ndarray, str]:
    cloud, _, remark, _ = Points(count).read(Item(npy(array), "a", "here"), False)
    return cloud, remark


CUBE = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
FACES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
OFF = "OFF\n8 6 0\n" + "\n".join(" ".join(map(str, v)) for v in CUBE) + "\n"
OFF += "\n".join("4 " + " ".join(map(str, f)) for f in FACES) + "\n"
OBJ = "".join(f"v {x} {y} {z}\n" for x, y, z in CUBE)
OBJ += "".join("f " + " ".join(f"{c + 1}/1" for c in f) + "\n" for f in FACES)
HEAD = "ply\nformat {}\nelement vertex 8\nproperty float x\nproperty float y\nproperty float z\n"
HEAD += "element face 6\nproperty list uchar int vertex_indices\nend_header\n"


def ply(form: str) -> bytes:
    head = HEAD.format(f"{form} 1.0").encode()
    if form == "ascii":
        return head + OFF.split("\n", 2)[2].encode()
    order = "<" if "little" in form else ">"
    faces = b"".join(b"\x04" + np.array(f, f"{order}i4").tobytes() for f in FACES)
    return head + CUBE.astype(f"{order}f4").tobytes() + faces


def test_farthest_points_as_pytorch3d_gives_them():
    """Golden case 22: its naive sampling, executed."""
    clouds = sines(5, 2, 64, 3).double().numpy()
    assert farthest(clouds[0], 8).tolist() == [0, 39, 62, 60, 58, 4, 48, 26]
    assert farthest(clouds[1], 8).tolist() == [0, 23, 4, 34, 20, 2, 30, 24]


def test_a_stored_cloud_is_centred_on_the_unit_sphere_and_every_prefix_is_its_farthest_points():
    points = np.random.default_rng(0).normal(size=(500, 3)) * [1, 5, 2] + 30
    cloud, _ = read(points, 64)
    assert cloud.dtype == np.float32 and cloud.shape == (64, 3)
    assert np.abs(cloud.mean(0)).max() < 1e-6 and np.linalg.norm(cloud, axis=1).max() == pytest.approx(1)
    assert farthest(cloud, 64).tolist() == list(range(64))


@pytest.mark.parametrize(("array", "says"), [
    (np.full((9, 3), 2.0), "all 9 points are equal"),
    (np.where(np.eye(9, 3) > 0, np.nan, CUBE[np.arange(9) % 8]), "3 of 9 points are NaN or infinite"),
    (np.concatenate([CUBE[:5], [[0, np.inf, 0]] * 4]), "4 of 9 points are NaN or infinite"),
    (CUBE[:7], "7 points, and data.image_size=8 asks for more"),
    (CUBE[[0, 1, 2, 3, 4, 4, 4, 4, 4]], "5 different points, and data.image_size=8 asks for more"),
    (CUBE.T, r"shape \(3, 8\) where one row of x, y, z per point"),
    (CUBE.reshape(-1), r"shape \(24,\)"),
    (np.zeros((0, 3)), r"shape \(0, 3\)"),
    (np.array(["a", "b"]), "where numbers are needed"),
])  # fmt: skip
def test_degenerate_clouds_are_told_in_a_sentence(array, says):
    with pytest.raises(Unreadable, match=says):
        read(array)


@pytest.mark.parametrize("data", [
    b"", b"solid of no kind", b"\x93NUMPY\x01", b"PK\x03\x04broken", b"OFF\n8 6 0\n1 2", b"ply\nformat ascii 1.0\n",
    b"v 1 2 3\nv 1 2 4\nv 0 0 0\nf 1 2 9\n", b"v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n",
], ids=range(8))  # fmt: skip
def test_broken_files_are_unreadable_and_never_a_crash(data):
    with pytest.raises(Unreadable):
        Points(4).read(Item(data, "a", "here"), False)


def test_other_numbers_of_a_point_are_left_out_and_told():
    plain, _ = read(CUBE)
    more, remark = read(np.concatenate([CUBE, np.ones((8, 2))], 1))
    assert remark == "with 2 other numbers a point (left out)" and np.array_equal(plain, more)


@pytest.mark.parametrize("data", [
    OFF.encode(), OFF.replace("OFF\n", "OFF").encode(), OBJ.encode(), ply("ascii"), ply("binary_little_endian"),
    ply("binary_big_endian"),
], ids=["off", "off, counts on the first line", "obj", "ply", "ply, little endian", "ply, big endian"])  # fmt: skip
def test_surfaces_are_drawn_on_by_area_the_same_way_each_time(data):
    found, remark = coordinates(data)
    assert remark.startswith("surfaces (4,096 points") and np.array_equal(found, coordinates(data)[0])
    on = np.isclose(found, 0) | np.isclose(found, 1)
    assert found.min() >= 0 and found.max() < 1 + 1e-9 and on.any(1).all()
    each = [np.isclose(found[:, axis], end).sum() for axis in range(3) for end in (0, 1)]
    assert min(each) > 4096 / 6 * 0.85 and max(each) < 4096 / 6 * 1.15


def sides(data: bytes) -> list[int]:
    """How many of the drawn points lie on each side of the cube."""
    found = coordinates(data)[0]
    return [int(np.isclose(found[:, axis], end).sum()) for axis in range(3) for end in (0, 1)]


@pytest.mark.parametrize("behind", ["0 0 0", "3 3 3", "255 0 0", "0", "7", "10 20 30 255", "0.5 0 0", "0 # b", ""])
def test_what_follows_the_corners_of_an_off_face_changes_nothing(behind):
    """Whole-number colours were read as further faces, which used up the count: two sides of six were drawn on."""
    lines = OFF.splitlines()
    data = "\n".join(lines[:10] + [f"{line} {behind}" for line in lines[10:]] + ["", "# the end"]).encode()
    assert min(sides(data)) > 4096 / 6 * 0.85


@pytest.mark.parametrize("change", [
    lambda text: text.replace("OFF\n", "OFF "),
    lambda text: text.replace("OFF\n", "off # a cube\n\n# of six sides\n"),
    lambda text: text.replace("8 6 0", "8\n6\n0"),
    lambda text: text.replace("8 6 0", "8 6"),
    lambda text: text.replace("\n", "\r\n"),
    lambda text: text + "0 1\n1 3\n",
    lambda text: "OFF\n8 6 0\n" + text.split("\n", 2)[2].replace("\n", " ", 7),
    lambda text: "COFF" + re.sub(r"^(\d.\d \d.\d \d.\d)$", r"\1 255 0 0 255", text[3:], flags=re.M),
    lambda text: "COFF" + re.sub(r"^(\d.\d \d.\d \d.\d)$", r"\1 255 0 0", text[3:], flags=re.M),
    lambda text: "NOFF" + re.sub(r"^(\d.\d \d.\d \d.\d)$", r"\1 0 0 1", text[3:], flags=re.M),
], ids=["counts behind OFF", "comments", "counts on lines", "no edges", "windows", "lines behind", "vertices in line",
        "colours", "three colours", "normals"])  # fmt: skip
def test_every_form_of_an_off_file_gives_the_same_cube(change):
    data = change(OFF).encode()
    assert data != OFF.encode() and min(sides(data)) > 4096 / 6 * 0.85


@pytest.mark.parametrize(("data", "says"), [
    (OFF.replace("4 4 6 7 5", "2 4 6"), "a face without its 3 or more corners: '2 4 6'"),
    (OFF.replace("4 4 6 7 5", "4 4 6 7"), "a face without its 3 or more corners: '4 4 6 7'"),
    (OFF.replace("4 4 6 7 5", "0"), "a face without its 3 or more corners: '0'"),
    (OFF.rstrip().rpartition("\n")[0], "13 lines where its head says 8 vertices and 6 faces"),
    (OFF.replace("\n4 4 6", " 4 4 6"), "13 lines where its head says 8 vertices and 6 faces, one on each line"),
    (OFF.replace("8 6 0", "8 -6 0"), "a header of 8 vertices and -6 faces"),
])  # fmt: skip
def test_an_off_file_that_is_not_as_its_header_says_is_refused(data, says):
    with pytest.raises(Unreadable, match=says):
        coordinates(data.encode())


def with_texture(form: str, name: str, first: bool) -> bytes:
    """The cube as a .ply whose faces have a list of floats too."""
    texture, corners = "property list uchar float texcoord", f"property list uchar int {name}"
    lists = "\n".join([texture, corners] if first else [corners, texture])
    head = HEAD.replace("property list uchar int vertex_indices", lists).format(f"{form} 1.0").encode()
    if form == "ascii":
        both = [("2 0.5 0.5", "4 " + " ".join(map(str, f))) for f in FACES]
        rows = "\n".join(" ".join(pair if first else pair[::-1]) for pair in both)
        return head + ("\n".join(" ".join(map(str, v)) for v in CUBE) + "\n" + rows).encode()
    two = b"\x02" + np.array([0.5, 0.5], "<f4").tobytes()
    faces = [(two, b"\x04" + np.array(f, "<i4").tobytes()) for f in FACES]
    return head + CUBE.astype("<f4").tobytes() + b"".join(b"".join(p if first else p[::-1]) for p in faces)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", ["vertex_indices", "vertex_index", "corners"])
@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_the_corners_of_a_ply_face_are_told_by_their_name(form, name, first):
    assert min(sides(with_texture(form, name, first))) > 4096 / 6 * 0.85


def test_lists_of_a_ply_face_without_a_known_name_are_refused():
    data = with_texture("ascii", "corners", True).replace(b"float texcoord", b"int texture")
    with pytest.raises(Unreadable, match="lists texture, corners: call the one of corners 'vertex_indices'"):
        coordinates(data)


def test_points_without_faces_are_taken_as_they_are():
    text = "\n".join(line for line in OBJ.splitlines() if line[0] == "v")
    for data in (text.encode(), "\n".join(",".join(map(str, v)) for v in CUBE).encode()):
        assert np.array_equal(coordinates(data)[0], CUBE)


def test_an_npz_with_several_arrays_needs_a_name():
    buffer = io.BytesIO()
    np.savez(buffer, a=CUBE, b=CUBE)
    with pytest.raises(Unreadable, match=r"several arrays \(a, b\): call the one of coordinates 'points'"):
        coordinates(buffer.getvalue())
    buffer = io.BytesIO()
    np.savez(buffer, normals=-CUBE, points=CUBE)
    assert np.array_equal(coordinates(buffer.getvalue())[0], CUBE)


@pytest.fixture(scope="module")
def clouds() -> dict[str, list[np.ndarray]]:
    """Sticks along y and flat discs, 64 points each."""
    rng = np.random.default_rng(0)
    return {
        name: [rng.normal(size=(64, 3)) * scale for _ in range(30)]
        for name, scale in (("disc", [3, 0.1, 3]), ("stick", [0.1, 3, 0.1]))
    }


@pytest.mark.parametrize("way", ["npy", "npz", "off", "parquet", "parquet of bytes"])
def test_every_reader_gives_the_same_set(way, clouds, tmp_path: Path):
    rows = []
    for label, (name, found) in enumerate(clouds.items()):
        for i, cloud in enumerate(found):
            split = "test" if i >= 20 else "train"
            place = tmp_path / split / name / f"{i}.{way}"
            rows.append((split, label, cloud))
            if "parquet" in way:
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            text = f"OFF\n{len(cloud)} 0 0\n" + "\n".join(" ".join(map(repr, p)) for p in cloud.tolist())
            how = {"npy": lambda p, c: np.save(p, c), "npz": lambda p, c: np.savez(p, points=c),
                   "off": lambda p, c, t=text: p.write_text(t)}  # fmt: skip
            how[way](place, cloud)
    kind = "folder"
    if "parquet" in way:
        kind = "parquet"
        for split in ("train", "test"):
            here = [(label, cloud) for s, label, cloud in rows if s == split]
            cells = [npy(c) if "bytes" in way else c.tolist() for _, c in here]
            table = pa.table({"points": cells, "label": [list(clouds)[label] for label, _ in here]})
            pq.write_table(table, tmp_path / f"{split}.parquet")
    data = open_data(DataConfig(f"{kind}:{tmp_path}#kind=points", 32, 0.2))
    assert data.fingerprint == "e06a031c1ab117a0" and data.classes == ("disc", "stick")
    batch = data.train.batch(np.arange(8))
    assert batch.shape == (8, 32, 3) and batch.dtype == torch.float32
    flat = batch.std(1)[:, 1] < batch.std(1)[:, 0]
    assert flat.tolist() == [data.classes[i] == "disc" for i in data.train.labels[:8]]
    assert data.mean == (0.0,) and data.std == (1.0,)


def test_packed_and_decoded_stores_are_alike():
    a, b = (open_data(DataConfig("ldraw16", 24), RunConfig(store=kind)) for kind in ("decoded", "encoded"))
    assert torch.equal(a.train.batch(np.arange(50)), b.train.batch(np.arange(50)))


def test_the_embedded_parts():
    data = open_data(DataConfig("ldraw16", 24))
    assert len(data.train) + len(data.val) == 2043 and len(data.classes) == 16
    assert data.item == items.written(data.item.facts) == registry.item(DataConfig("ldraw16", 24)) == Points(24)
    folder = registry.EMBEDDED["ldraw16"]
    assert sum(p.stat().st_size for p in folder.iterdir()) < 4 * 2**20
    authors = pq.read_table(folder / "train.parquet", columns=["author", "licence"]).to_pylist()
    assert all(row["author"] and "CC BY 4.0" in row["licence"] for row in authors)
    assert "CC BY 4.0" in (folder / "README.md").read_text()


def test_groups_overlap_so_their_size_need_not_divide_the_cloud():
    given = ["data.image_size=250", "budget.steps=1"]
    assert registry.item(configured("mae", "points", given).data).grid(16) == (31,)
    with pytest.raises(UserError, match=r"'ldraw16' have neither: .* a group is backbone.patch_size"):
        rehearse(configured("mae", "points", ["data.image_size=8x8"]))


def test_settings_of_pictures_are_refused():
    for settings, says in (
        ({"image_size": (8, 9)}, "their number of points, as in data.image_size=256"),
        ({"channels": 1}, "data.channels has no effect"),
        ({"frames": 4}, "data.frames has no effect"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=says):
            registry.item(DataConfig("ldraw16", **settings))


@pytest.mark.parametrize(("count", "patch"), [(16, 1), (16, 32), (16, 20)])
def test_groups_that_cannot_be_made_are_refused(count, patch):
    with pytest.raises(UserError, match=f"{count} points do not make groups of {patch}"):
        Points(count).grid(patch)
