"""Add the losses that golden_losses.json lacks; with `all`, all anew (say why): python tests/store_losses.py."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).with_name("methods"))]

from conftest import make_photos
from test_methods import EACH, LOSSES, stored_as, ten_losses, where

known = json.loads(LOSSES.read_text())
if sys.argv[1:] == ["all"]:
    known["losses"] = {}
elif known["where"] != where():
    sys.exit(
        f"The losses were stored on {known['where']}, and this is {where()}: only `all` of them can be stored here."
    )
lacking = [(m, k) for m, k in EACH if stored_as(m, k) not in known["losses"]]
with tempfile.TemporaryDirectory() as folder:
    photos = make_photos(Path(folder))
    for method, kind in lacking:
        known["losses"][stored_as(method, kind)] = ten_losses(method, kind, photos)
        losses = dict(sorted(known["losses"].items()))
        LOSSES.write_text(json.dumps({"where": where(), "losses": losses}, indent=1) + "\n")  # what stands is kept
print(f"{len(lacking)} of {len(EACH)} methods and kinds stored in {LOSSES}")
