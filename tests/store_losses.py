"""Write golden_losses.json anew: python tests/store_losses.py. Say why in the commit."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).with_name("methods"))]

from conftest import make_photos
from test_methods import LOSSES, METHODS, ten_losses, where

with tempfile.TemporaryDirectory() as folder:
    photos = make_photos(Path(folder))
    losses = {method: ten_losses(method, photos) for method in METHODS}
LOSSES.write_text(json.dumps({"where": where(), "losses": losses}, indent=1) + "\n")
print(f"{len(losses)} methods stored in {LOSSES}")
