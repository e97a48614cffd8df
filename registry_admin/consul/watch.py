"""Blocking queries as an endless generator: what changed last, as soon as it changed.

The rules for the index are Consul's: https://developer.hashicorp.com/consul/api-docs/features/blocking
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from registry_admin.backoff import ExponentialBackoff
from registry_admin.consul.api import ConsulReply
from registry_admin.errors import RegistryError

T = TypeVar("T")

# A Consul that has frozen is noticed about so long after; an idle one is asked no more often. With the sixteenth that
# Consul adds it is less than 30 s, after which some builds of 1.22, and many proxies, break off a reply.
WAIT_S = 25.0
FIRST_BACKOFF_S, MAX_BACKOFF_S = 1.0, 30.0
SHORTEST_CYCLE_S = 0.05  # an index that moves on all the time must not become a busy loop


def watch(
    read: Callable[[int, float], ConsulReply[T]],
    *,
    stop: threading.Event,
    on_error: Callable[[RegistryError, float], None] = lambda _error, _seconds: None,
    on_reply: Callable[[], None] = lambda: None,
    wait_s: float = WAIT_S,
    max_backoff_s: float = MAX_BACKOFF_S,
    random_share: Callable[[], float] = random.random,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[ConsulReply[T]]:
    """Yields the first reply of `read(index, wait_s)`, then one each time the index has changed, until `stop` is set.

    A failure is reported to `on_error` with the seconds until the next try, which grow with jitter up to
    `max_backoff_s`; it never ends the watch. A reply whose index hasn't changed is only the wait's end and isn't
    yielded. `on_reply` is called for every reply, changed or not, before it is yielded.
    """
    backoff = ExponentialBackoff(first_s=FIRST_BACKOFF_S, longest_s=max_backoff_s, jitter=0.5)
    index, failures = 0, 0
    while not stop.is_set():
        started = clock()
        try:
            reply = read(index, wait_s)
        except RegistryError as error:
            failures, index = failures + 1, 0
            pause = backoff.pause_s(failures, random_share())
            on_error(error, pause)
            stop.wait(pause)
            continue
        failures = 0
        on_reply()
        if index == 0 or reply.index != index:
            yield reply
        # Backwards means that the server was restored or replaced: begin anew. Without an index the next read would not
        # block, so it is paced by the wait below.
        index = reply.index if reply.index >= max(index, 1) else 0
        pause = (SHORTEST_CYCLE_S if index else FIRST_BACKOFF_S) - (clock() - started)
        if pause > 0:
            stop.wait(pause)
