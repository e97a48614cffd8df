"""Children that end with us: on Linux the kernel tells them when their parent was killed, so that none lingers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence


def bound_to_parent(command: Sequence[str], signal_name: str = "TERM") -> list[str]:
    """The command, made to get `signal_name` (`TERM`, `INT`) if its parent dies; unchanged where `setpriv` is missing.

    `setpriv` becomes the command, so the process ID stays. See prctl(2), PR_SET_PDEATHSIG.
    """
    if shutil.which("setpriv") is None:
        return list(command)
    return ["setpriv", "--pdeathsig", signal_name, "--", *command]


def last_lines(text: str, *, count: int = 15) -> str:
    """The end of a log, indented, for an error message."""
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines()[-count:])
