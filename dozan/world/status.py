"""The exit status of a rank that a launcher of ours has started.

torchrun knows success and failure alone: it would start again what bad input has ended, and give 1 for everything. So a
rank that must not be started again writes its status where the launcher looks, and ends as if all were well.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

STATUS = "DOZAN_STATUS"
"""The environment's name for the file."""
FINAL = (2, 75)
"""Bad input and a stop that was asked for: starting again would not help, or is not wanted."""


def report_status(code: int) -> int:
    """What the process is to exit with; a final status stands in the launcher's file then, if there is a launcher."""
    path = os.environ.get(STATUS)
    if path is None or code not in FINAL:
        return code
    try:
        with Path(path).open("x", encoding="utf-8") as file:
            file.write(str(code))
    except FileExistsError:  # another rank was first
        return 0
    except OSError as error:
        print(f"dozan: {STATUS}={path}: cannot be written ({error.strerror})", file=sys.stderr, flush=True)
        return code
    return 0


def clear_status() -> None:
    """Forget what an earlier start of the ranks has left."""
    path = os.environ.get(STATUS)
    if path is not None:
        Path(path).unlink(missing_ok=True)
