"""Fixture `fake_services` for pytest, which finds it by itself: see registry_admin.discovery.testing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest


@pytest.fixture
def fake_services() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Returns `fake_services({"backend-api": app})`: these are the only services until the test ends."""
    from registry_admin.discovery import testing  # noqa: PLC0415 - it costs nothing where nobody asks for it

    with ExitStack() as stack:
        yield lambda services: stack.enter_context(testing.fake_services(services))
