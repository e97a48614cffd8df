"""The name of the person who runs a command."""

from __future__ import annotations

import getpass
import os


def user_name() -> str:
    """Returns the name of the process's user, or its number where it has none, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
