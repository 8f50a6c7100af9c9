"""Set before any test imports Triton: its own library is compiled or interpreted by what stands here at that moment."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
