"""The exceptions that the command line knows: InputError exits with 2 (a kind of it may say 1), Interrupted with 75."""


class InputError(ValueError):
    """A user's file, row, setting or checkpoint that cannot be used.

    The message names the place (file, row, field), the value found, and a value or an action that works.
    Collect all mismatches of one kind and raise once.
    """

    exit_status = 2


class Interrupted(Exception):
    """A run was stopped by a signal after its state was saved; the same command goes on from there."""
