"""The one exception that means "what you gave cannot be used": the command line prints it and exits with 2."""


class InputError(ValueError):
    """A user's file, row, setting or checkpoint that cannot be used.

    The message names the place (file, row, field), the value found, and a value or an action that works.
    Collect all mismatches of one kind and raise once.
    """
