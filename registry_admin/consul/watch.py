"""Blocking queries as an endless generator: what changed last, as soon as it changed.

The rules for the index are Consul's: https://developer.hashicorp.com/consul/api-docs/features/blocking
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from registry_admin.consul.api import Reply
from registry_admin.errors import RegistryError

T = TypeVar("T")

WAIT_S = 30.0  # a Consul that has frozen is noticed about so long after; an idle one is asked no more often
FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 30.0
SHORTEST_CYCLE_S = 0.05  # an index that moves on all the time must not become a busy loop


def watch(
    read: Callable[[int, float], Reply[T]],
    *,
    stop: threading.Event,
    on_error: Callable[[RegistryError, float], None] = lambda _error, _seconds: None,
    on_alive: Callable[[], None] = lambda: None,
    wait_s: float = WAIT_S,
    longest_backoff_s: float = LONGEST_BACKOFF_S,
    random_share: Callable[[], float] = random.random,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Reply[T]]:
    """Yields the first reply of `read(index, wait_s)`, then one each time the index has changed, until `stop` is set.

    A failure is reported to `on_error` with the seconds until the next try, which grow with jitter up to
    `longest_backoff_s`; it never ends the watch. A reply whose index hasn't changed is only the wait's end and isn't
    yielded. `on_alive` is called for every reply, changed or not, before it is yielded.
    """
    index, failures = 0, 0
    while not stop.is_set():
        started = clock()
        try:
            reply = read(index, wait_s)
        except RegistryError as error:
            pause = min(longest_backoff_s, FIRST_BACKOFF_S * 2**failures) * (0.5 + random_share() / 2)
            failures, index = min(failures + 1, 16), 0
            on_error(error, pause)
            stop.wait(pause)
            continue
        failures = 0
        on_alive()
        if index == 0 or reply.index != index:
            yield reply
        # Backwards means that the server was restored or replaced: begin anew. Without an index the next read would not
        # block, so it is paced by the wait below.
        index = reply.index if reply.index >= max(index, 1) else 0
        pause = (SHORTEST_CYCLE_S if index else FIRST_BACKOFF_S) - (clock() - started)
        if pause > 0:
            stop.wait(pause)
