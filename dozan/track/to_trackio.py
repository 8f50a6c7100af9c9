"""A run in trackio's local database, which `trackio show` serves. Nothing is sent: `trackio sync` does that later.

Its storage is written to directly: `trackio.init` asks the hub who the user is wherever a token is stored, and its
sender passes over what fails.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Mapping
from pathlib import Path

from trackio.media import TrackioHtml, TrackioImage
from trackio.sqlite_storage import SQLiteStorage

from dozan.track.facts import KINDS, Picture, RunFacts, later

_TOGETHER = 20
"""Steps that are written in one transaction."""


class Trackio:
    """Each line of metrics.jsonl is a log at its step."""

    name = "trackio"
    failures: tuple[type[Exception], ...] = (OSError, sqlite3.Error)

    def __init__(self, facts: RunFacts) -> None:
        self.place = f"trackio show --project {facts.project}"
        self._facts, self._waiting = facts, list[tuple[int, dict[str, object]]]()
        self._seen: dict[str, int] = {}
        for log in SQLiteStorage.get_logs(facts.project, run_id=facts.id):
            for kind in (*KINDS, "report"):
                if any(key.startswith(f"{kind}/") for key in log):
                    later(self._seen, kind, int(log["step"]))

    def seen(self) -> Mapping[str, int]:
        return self._seen

    def log(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
        self._waiting.append((step, dict(figures)))
        if kind != "train" or len(self._waiting) >= _TOGETHER:
            self._write()

    def show(self, step: int, page: Path, pictures: list[Picture]) -> None:
        found: dict[str, object] = {"report/page": self._kept(TrackioHtml(page.read_text(encoding="utf-8")), step)}
        with tempfile.TemporaryDirectory() as folder:
            for picture in pictures:
                path = Path(folder) / f"{picture.name}.png"
                path.write_bytes(picture.png)
                found[f"report/{picture.name}"] = self._kept(TrackioImage(path, picture.caption), step)
        self._waiting.append((step, found))
        self._write()

    def close(self, done: bool) -> None:
        self._write()

    def _kept(self, media: TrackioHtml | TrackioImage, step: int) -> object:
        media._save(self._facts.project, self._facts.name, step)
        return media._to_dict()

    def _write(self) -> None:
        facts, waiting = self._facts, self._waiting
        if waiting:
            SQLiteStorage.bulk_log(
                facts.project, facts.name, [figures for _, figures in waiting], [step for step, _ in waiting],
                config=dict(facts.config), run_id=facts.id,
            )  # fmt: skip
        self._waiting = []
