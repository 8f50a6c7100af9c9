"""A run in TensorBoard's event files, in `tensorboard` of the run folder: `tensorboard --logdir output`."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from dozan.track.facts import Picture, RunFacts, later

FOLDER = "tensorboard"
_LAST_ONLY = {"scalars": 1, "images": 1, "tensors": 1}


class TensorBoard:
    """Each figure is a scalar under its own name, those of a line in one event: an event is there whole or not at all.
    The settings and the pictures are text and images. Written here and not in the library's thread, whose errors come
    late and on the screen."""

    name = "tensorboard"
    failures: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, facts: RunFacts) -> None:
        folder = facts.out / FOLDER
        self.place = f"tensorboard --logdir {folder.parent}"
        self._seen = _read(folder)
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        self._file = (folder / f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{time.time_ns()}").open("xb")
        self._writer = RecordWriter(self._file)
        self._writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        if not self._seen:
            text = yaml.safe_dump(dict(facts.config), sort_keys=False, allow_unicode=True)
            self._add(summary.text("config", f"```yaml\n{text}```"), 0)

    def seen(self) -> Mapping[str, int]:
        return self._seen

    def log(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._add(Summary(value=values), step)

    def show(self, step: int, page: Path, pictures: list[Picture]) -> None:
        for picture in pictures:
            pixels = np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"))
            self._add(summary.image(f"report/{picture.name}", pixels, dataformats="HWC"), step)

    def close(self, done: bool) -> None:
        self._file.close()

    def _add(self, values: Summary, step: int) -> None:
        self._writer.write(Event(wall_time=time.time(), step=step, summary=values).SerializeToString())
        self._writer.flush()


def _read(folder: Path) -> dict[str, int]:
    """What event files hold, through TensorBoard's own reader, which passes over an end that was cut off."""
    if not folder.is_dir():
        return {}
    events = EventAccumulator(str(folder), _LAST_ONLY).Reload()
    tags = events.Tags()
    seen: dict[str, int] = {}
    for tag in tags["scalars"]:
        later(seen, tag.partition("/")[0], events.Scalars(tag)[-1].step)
    for tag in tags["images"]:
        later(seen, tag.partition("/")[0], events.Images(tag)[-1].step)
    return seen
