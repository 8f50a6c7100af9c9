"""The exceptions that the command line knows: InputError exits with 2 (a kind of it may say 1), Interrupted with 75."""

from __future__ import annotations

from typing import Self


class _OfRanks(Exception):
    """is_of_all: every rank of the run raises it, so that the first one tells it when its things are in order."""

    is_of_all = False

    def of_all(self) -> Self:
        """The same, raised by every rank."""
        self.is_of_all = True
        return self


class InputError(_OfRanks, ValueError):
    """A user's file, row, setting or checkpoint that cannot be used.

    The message names the place (file, row, field), the value found, and a value or an action that works.
    Collect all mismatches of one kind and raise once.
    """

    exit_status = 2


class Interrupted(_OfRanks):
    """A run was stopped by a signal after its state was saved; the same command goes on from there."""
