"""Resolving host names within a time limit, which the system's resolver has not."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from registry_admin.consul.addresses import is_ip_address

REMEMBERED_S, MAX_REMEMBERED = 30.0, 10_000
MAX_LOOKUPS = 16  # at once: each is a thread that nobody can end while the name server is silent

SocketAddress = tuple[Any, ...]
_lookups: dict[str, Future[list[tuple[int, str]]]] = {}
_known: dict[str, tuple[tuple[str, ...], float]] = {}  # addresses and the time until which they are believed
_silent_until = 0.0
_lock = threading.Lock()


def resolve(host: str, port: int, *, timeout_s: float) -> list[tuple[socket.AddressFamily, SocketAddress]]:
    """Returns the addresses of `host`, ready to connect to.

    Raises TimeoutError after `timeout_s` seconds, and OSError where the name has no address. Callers that ask for the
    same name at once share one lookup.
    """
    if is_ip_address(host):
        lookup: Future[Any] = Future()
        lookup.set_result(_addresses(host))
    else:
        lookup = _lookup(host)
    try:
        results = lookup.result(timeout_s)
    except FutureTimeoutError:
        raise TimeoutError("the name wasn't resolved in time") from None
    return [(family, (address[0], port, *address[2:])) for family, address in results]


def known_addresses(host: str, *, timeout_s: float) -> tuple[str, ...]:
    """Returns the addresses of `host`, or none where it has none or they didn't come in time.

    Remembered for half a minute; after a name server was silent it isn't waited for again in that time.
    """
    global _silent_until
    if is_ip_address(host):
        return (host,)
    now = time.monotonic()
    addresses, valid_until = _known.get(host, ((), 0.0))
    if now < valid_until:
        return addresses
    try:
        results = resolve(host, 0, timeout_s=timeout_s if now >= _silent_until else 0.0)
    except TimeoutError:
        results, _silent_until = [], max(_silent_until, now + REMEMBERED_S)
    except (OSError, ValueError):
        results = []
    addresses = tuple(dict.fromkeys(str(address[0]) for _, address in results))
    if len(_known) >= MAX_REMEMBERED:
        _known.clear()
    _known[host] = addresses, now + REMEMBERED_S
    return addresses


def _lookup(host: str) -> Future[Any]:
    with _lock:
        lookup = _lookups.get(host)
        if lookup is None:
            if len(_lookups) >= MAX_LOOKUPS:
                raise TimeoutError("too many names are being resolved already")
            lookup = _lookups[host] = Future()
            threading.Thread(target=_run, args=(host, lookup), name="resolve", daemon=True).start()
        return lookup


def _run(host: str, lookup: Future[Any]) -> None:
    try:
        lookup.set_result(_addresses(host))
    except (OSError, ValueError) as error:  # ValueError: a name that can't be a host's
        lookup.set_exception(error)
    finally:
        with _lock:
            _lookups.pop(host, None)


def _addresses(host: str) -> list[tuple[Any, Any]]:
    results = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in results]
