"""Set before any test imports Triton: its own library is compiled or interpreted by what stands here at that moment."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="module")
def short_answers() -> Iterator[None]:
    """A certificate's answers have 24 tokens, not 256: a model of random weights ends none of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dozan.ship.parity_export.ANSWER_TOKENS", 24)
        yield
