"""What others published on the rows that a reproduction is scored on, each figure with its source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """value: a share. metric: as the preset of the rows calls it."""

    system: str
    metric: str
    value: float
    source: str


@dataclass(frozen=True)
class DataSet:
    """A set on the hub: its id, the splits to train and to score on, the preset that scores it as its authors do. A
    split named `metadata=eval` is the rows whose `metadata` says so, of a set that is one file."""

    id: str
    train: str
    test: str
    preset: str
    published: tuple[Published, ...]


_TASK = "AISA-ArabicFC shared task (TuwaiqAcademy, ArabicNLP 2026)"
_GOOGLE = "Google, on FunctionGemma and Mobile Actions"
DATA_SETS = (
    DataSet("TuwaiqAcademy/AISA-ArabicFC", "train", "dev", "aisa", (
        Published("GPT-4o, no example", "track A", 0.413, _TASK),
        Published("270M baseline", "track A", 0.717, _TASK),
        Published("one 270M LoRA", "track A", 0.802, f"{_TASK}, dev set"),
        Published("Gemma-3-1B", "track A", 0.872, f"{_TASK}, dev set"),
        Published("best 270M system", "track A", 0.909, f"{_TASK}, blind test"),
    )),
    DataSet("google/mobile-actions", "metadata=train", "metadata=eval", "mobile-actions", (
        Published("functiongemma-270m-it", "ordered exact match", 0.58, _GOOGLE),
        Published("Google's fine-tune", "ordered exact match", 0.85, _GOOGLE),
        Published("LoRA r=8 notebook", "ordered exact match", 0.8689, "a notebook on Mobile Actions"),
    )),
)  # fmt: skip
"""The first is what `--data` is without a word."""


def known(name: str) -> DataSet | None:
    """The set of an id, None for other rows."""
    plain = name.removeprefix("hf:").partition(":")[0]
    return next((each for each in DATA_SETS if each.id.casefold() == plain.casefold()), None)
