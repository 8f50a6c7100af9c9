"""More training frames."""

from __future__ import annotations

FRAMES: dict[str, str] = {}
CLAUSES = ""
NO_CALL: tuple[tuple[str, str], ...] = ()
