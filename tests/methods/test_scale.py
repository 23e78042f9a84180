"""docs/scale.md holds the methods' own numbers."""

from __future__ import annotations

import pytest
from write_scale import PAGE, page


@pytest.mark.slow
def test_the_page_is_fresh() -> None:
    assert PAGE.read_text() == page(), "run: python tests/write_scale.py"
