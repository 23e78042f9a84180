"""Write golden_losses.json anew: python tests/store_losses.py. Say why in the commit."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).with_name("methods"))]

from conftest import make_photos
from test_methods import EACH, LOSSES, stored_as, ten_losses, where

with tempfile.TemporaryDirectory() as folder:
    photos = make_photos(Path(folder))
    losses = {stored_as(method, kind): ten_losses(method, kind, photos) for method, kind in EACH}
LOSSES.write_text(json.dumps({"where": where(), "losses": losses}, indent=1) + "\n")
print(f"{len(losses)} methods and kinds stored in {LOSSES}")
