"""Files of points and of surfaces -> coordinates [M, 3]: .npy, .npz, .ply, .off, .obj, .xyz, told by their content.

A surface (faces beside the vertices) is sampled: `SAMPLED` points by area, the same ones for the same bytes, since its
vertices alone say little of a flat part. Faces of more than three corners are cut into fans.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np

from ssl_bench.data.pixels import Unreadable

SUFFIXES = (".npy", ".npz", ".ply", ".off", ".obj", ".xyz")
SAMPLED = 4096  # points of a surface, before the farthest ones are chosen
MOST = 2_000_000  # points of one cloud
KEYS = ("points", "pos", "xyz", "point_cloud", "pc", "arr_0")  # of an .npz, the first that is there
CORNERS = ("vertex_indices", "vertex_index")  # of a .ply face, beside texture coordinates and others
PLY = {"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
       "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
       "double": "f8", "float64": "f8"}  # fmt: skip

Mesh = tuple[np.ndarray, list[list[int]]]  # vertices [V, C], corners of each face


def coordinates(data: bytes) -> tuple[np.ndarray, str]:
    """float64 [M, 3] of a file's bytes, and what was left out or made. `Unreadable` where there are none."""
    if data.startswith(b"\x93NUMPY"):
        return _three(np.load(io.BytesIO(data), allow_pickle=False))
    if data.startswith(b"PK"):
        return _three(_of_npz(data))
    if data.startswith(b"ply"):
        return _surface(_ply(data), data)
    text = data.decode("ascii", errors="replace")
    if text.lstrip()[:4].rstrip("0123456789 \n\r-.").upper() in ("OFF", "NOFF", "COFF"):
        return _surface(_off(text), data)
    if any(line.startswith("v ") for line in text.splitlines()):
        return _surface(_obj(text), data)
    try:
        return _three(np.loadtxt(io.StringIO(text.replace(",", " ")), ndmin=2))
    except ValueError as error:
        raise Unreadable(f"none of {', '.join(SUFFIXES)} by its content") from error


def _three(array: np.ndarray) -> tuple[np.ndarray, str]:
    if array.dtype.kind not in "fiu":
        raise Unreadable(f"an array of {array.dtype} where numbers are needed")
    if array.ndim != 2 or array.shape[1] < 3 or not len(array) or len(array) == 3 < array.shape[1]:
        raise Unreadable(f"numbers of shape {array.shape} where one row of x, y, z per point is needed")
    if len(array) > MOST:
        raise Unreadable(f"{len(array):,} points, more than {MOST:,}")
    more = array.shape[1] - 3
    return array[:, :3].astype(np.float64), f"with {more} other numbers a point (left out)" if more else ""


def _of_npz(data: bytes) -> np.ndarray:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        name = next((k for k in KEYS if k in file.files), file.files[0] if len(file.files) == 1 else "")
        if not name:
            raise Unreadable(f"several arrays ({', '.join(file.files[:6])}): call the one of coordinates 'points'")
        found: np.ndarray = file[name]
        return found


def _surface(mesh: Mesh, data: bytes) -> tuple[np.ndarray, str]:
    """The vertices where there are no faces, else points drawn on the faces by area."""
    vertices, polygons = mesh
    cloud, remark = _three(vertices)
    triangles = np.array([(f[0], f[i], f[i + 1]) for f in polygons for i in range(1, len(f) - 1)], np.int64)
    if not len(triangles):
        return cloud, remark
    if triangles.min() < 0 or triangles.max() >= len(cloud):
        raise Unreadable(f"a face names a vertex that is none of the {len(cloud):,}")
    a, b, c = (cloud[triangles[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    if not np.isfinite(area.sum()) or area.sum() == 0:
        raise Unreadable("its faces have no area")
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(data).digest()[:8], "little"))
    face = rng.choice(len(area), SAMPLED, p=area / area.sum())
    root, side = np.sqrt(rng.random(SAMPLED))[:, None], rng.random(SAMPLED)[:, None]
    drawn = (1 - root) * a[face] + root * (1 - side) * b[face] + root * side * c[face]
    return drawn, f"surfaces ({SAMPLED:,} points drawn by area)"


def _off(text: str) -> Mesh:
    """A line per vertex and per face; what follows their coordinates or corners (normals, colours) is left out.

    The header may have its counts on its own line, as some of ModelNet40's files do (`OFF490 518 0`).
    """
    lines = [words for line in text.splitlines() if (words := line.partition("#")[0].split())]
    kind, _, glued = lines[0][0].upper().partition("OFF")
    counts, at = [glued] * bool(glued) + lines[0][1:], 1
    while len(counts) < 2:
        counts, at = counts + lines[at], at + 1
    vertices, faces = int(counts[0]), int(counts[1])
    if min(vertices, faces) < 0:
        raise Unreadable(f"a header of {vertices:,} vertices and {faces:,} faces")
    if len(counts) == 2 and len(lines) > at and len(lines[at]) == 1:  # the number of edges, on its own line
        at += 1
    rows, polygons = lines[at : at + vertices], lines[at + vertices :]
    if len(polygons) < faces or min(map(len, rows), default=3) < 3:  # vertices that share lines or take several
        each = 3 + 3 * ("N" in kind) + 4 * ("C" in kind)
        rows, polygons = _rows(lines[at:], vertices, each, faces)
    points = np.array([words[:3] for words in rows], float).reshape(vertices, 3)
    return points, [_corners(words) for words in polygons[:faces]]


def _rows(lines: list[list[str]], vertices: int, each: int, faces: int) -> tuple[list[list[str]], list[list[str]]]:
    """Vertices that do not have a line each: `each` words of all but the last `faces` lines, and those lines."""
    cut = max(len(lines) - faces, 0)
    words = [word for line in lines[:cut] for word in line]
    if len(words) != vertices * each:
        raise Unreadable(
            f"{len(lines):,} lines where its head says {vertices:,} vertices and {faces:,} faces, one on each line"
        )
    return [words[i : i + each] for i in range(0, len(words), each)], lines[cut:]


def _corners(words: list[str]) -> list[int]:
    """Of a face's line in an .off file."""
    count = int(words[0])
    if not 3 <= count < len(words):
        raise Unreadable(f"a face without its 3 or more corners: '{' '.join(words)[:60]}'")
    return [int(word) for word in words[1 : 1 + count]]


def _obj(text: str) -> Mesh:
    vertices, polygons = [], []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if words[:1] == ["v"]:
            vertices.append([float(w) for w in words[1:4]])
        elif words[:1] == ["f"]:
            corners = [int(w.partition("/")[0]) for w in words[1:]]
            polygons.append([c - 1 if c > 0 else len(vertices) + c for c in corners])  # negative: from the last one
    return np.array(vertices), polygons


def _ply(data: bytes) -> Mesh:
    """ASCII and both binary orders."""
    end = data.index(b"end_header")
    start = data.index(b"\n", end) + 1
    form, elements = "", list[tuple[str, int, list[list[str]]]]()
    for words in (line.split() for line in data[:end].decode("ascii").splitlines()):
        if words[:1] == ["format"]:
            form = words[1]
        elif words[:1] == ["element"]:
            elements.append((words[1], int(words[2]), []))
        elif words[:1] == ["property"]:
            elements[-1][2].append(words[1:])
    if form not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise Unreadable(f"a .ply of the unknown form '{form}'")
    body: Any = iter(data[start:].split()) if form == "ascii" else io.BytesIO(data[start:])
    order = "<" if form == "binary_little_endian" else ">"
    vertices, polygons = np.zeros((0, 3)), list[list[int]]()
    for name, count, properties in elements:
        if count > MOST:
            raise Unreadable(f"{count:,} of {name}, more than {MOST:,}")
        lists = any(p[0] == "list" for p in properties)
        if name == "vertex" and not lists and form != "ascii":
            dtype = np.dtype([(p[1], order + PLY[p[0]]) for p in properties])
            table = np.frombuffer(body.read(count * dtype.itemsize), dtype, count)
            vertices = np.stack([table[axis].astype(float) for axis in "xyz"], 1)
            continue
        rows = [[_property(body, p, order) for p in properties] for _ in range(count)]
        names = [p[-1] for p in properties]
        if name == "vertex":
            vertices = np.array([[row[names.index(axis)] for axis in "xyz"] for row in rows], float).reshape(-1, 3)
        elif name == "face" and lists:
            which = _which(properties)
            polygons = [[int(v) for v in row[which]] for row in rows]
    return vertices, polygons


def _which(properties: list[list[str]]) -> int:
    """Which property of a .ply face is the list of its corners: by its name, else the only list of whole numbers."""
    lists = {p[-1]: i for i, p in enumerate(properties) if p[0] == "list"}
    whole = [i for i in lists.values() if PLY.get(properties[i][2], "i")[0] in "iu"]
    found = [lists[name] for name in CORNERS if name in lists] or whole * (len(whole) == 1)
    if not found:
        raise Unreadable(f"faces with the lists {', '.join(lists)}: call the one of corners '{CORNERS[0]}'")
    return found[0]


def _property(body: Any, kind: list[str], order: str) -> Any:
    """One value of an element; a list of them where its property is one."""

    def take(what: str) -> Any:
        if not isinstance(body, io.BytesIO):
            return float(next(body))
        dtype = np.dtype(order + PLY[what])
        return np.frombuffer(body.read(dtype.itemsize), dtype, 1)[0]

    return [take(kind[2]) for _ in range(int(take(kind[1])))] if kind[0] == "list" else take(kind[0])
