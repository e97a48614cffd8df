"""Programs that a test needs and that a developer's machine may not have."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def program_path(*names: str) -> str:
    """Returns the path of the first of these programs that is on PATH; skips the test where none is."""
    path = next(filter(None, map(shutil.which, names)), None)
    return path or skip_unless_ci(f"none of these programs is on PATH: {', '.join(names)}")


def skip_unless_ci(reason: str) -> NoReturn:
    """Skips the test; fails it where CI is set, because everything is to be tested there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
