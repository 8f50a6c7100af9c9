"""Sentence frames: the package's own grammar (`dozan/rows/generate/grammar.py`)."""

from dozan.rows.generate.grammar import SLOT, expand, fill, has_clitic, items, lines, slots, words

__all__ = ["SLOT", "expand", "fill", "has_clitic", "items", "lines", "slots", "words"]
