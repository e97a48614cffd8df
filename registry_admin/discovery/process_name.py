"""The name of the service that this process is."""

from __future__ import annotations

import os

_registered_name = ""


def set_registered_name(name: str) -> None:
    """Records the name under which this process registers itself."""
    global _registered_name  # noqa: PLW0603
    _registered_name = name


def current_process_name() -> str:
    """Returns SERVICE_NAME, else the name under which this process registers itself; "" while it has neither."""
    return os.environ.get("SERVICE_NAME", "") or _registered_name
