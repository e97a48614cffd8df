"""Reloaders of Django's runserver and of Flask's server: the parent imports the application, and its child serves.

The parent kills the child without a warning when it is stopped itself, so the parent holds the registration.
"""

from __future__ import annotations

import os

_CHILD_VARIABLES = ("RUN_MAIN", "WERKZEUG_RUN_MAIN")


def is_child() -> bool:
    """Returns whether a reloader started this process."""
    return any(os.environ.get(name) == "true" for name in _CHILD_VARIABLES)
