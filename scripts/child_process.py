"""Child processes that end with their parent: on Linux the kernel signals them when the parent was killed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence


def bound_to_parent(command: Sequence[str], signal_name: str = "TERM") -> list[str]:
    """Returns the command, wrapped so that it gets `signal_name` (`TERM`, `INT`) if its parent dies.

    `setpriv` becomes the command, so the process ID stays; see prctl(2), PR_SET_PDEATHSIG. Unchanged where `setpriv` is
    missing.
    """
    if shutil.which("setpriv") is None:
        return list(command)
    return ["setpriv", "--pdeathsig", signal_name, "--", *command]


def last_lines(text: str, *, count: int = 15) -> str:
    """Returns the last lines of a log, indented, for an error message."""
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines()[-count:])
