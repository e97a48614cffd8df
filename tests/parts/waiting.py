"""Waiting for a condition with a deadline, in place of sleeping for luck."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

T = TypeVar("T")

_taken: list[socket.socket] = []  # held, so that their ports stay taken


def wait_until(condition: Callable[[], T], timeout: float = 10, what: str = "the condition") -> T:
    """Calls `condition` until it returns something true, and returns that; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s in vain for {what}; last seen: {result!r}")
        time.sleep(0.02)
    return result


def assert_holds(condition: Callable[[], object], seconds: float, what: str = "the condition") -> None:
    """Looks again and again whether `condition` holds for this long: where nothing may happen."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), f"{what} didn't last"
        time.sleep(0.1)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    return free_ports(1)[0]


def refusing_port() -> int:
    """A TCP port that refuses connections until the tests end: taken, so that no other process can listen on it."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    _taken.append(taken)
    return int(taken.getsockname()[1])


def free_ports(count: int) -> list[int]:
    """Several different ones."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
