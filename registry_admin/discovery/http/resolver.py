"""Addresses of hosts. Look-ups run on threads of their own, so that a slow name server holds up nothing else."""

from __future__ import annotations

import functools
import ipaddress
import os
import socket
import threading
import time
from concurrent.futures import Future
from typing import Any

Address = tuple[socket.AddressFamily, tuple[Any, ...]]  # the family, and the address as the socket module takes it
_under_way: dict[tuple[str, int], Future[list[Address]]] = {}
_lock = threading.Lock()


@functools.lru_cache(maxsize=1024)
def numeric_address(host: str, port: int) -> Address | None:
    """Returns the address of a host that is an IP address, without a look-up; None for a name."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    if ip.version == 4:
        return socket.AF_INET, (host, port)
    return socket.AF_INET6, (host, port, 0, 0)


def start_lookup(host: str, port: int) -> Future[list[Address]]:
    """Returns the look-up of a name that is under way, or starts one; its result is never empty, or an OSError."""
    key = (host, port)
    with _lock:
        lookup = _under_way.get(key)
        if lookup is None:
            lookup = _under_way[key] = Future()
            threading.Thread(target=_look_up, args=(key, lookup), name=f"look-up of {host}", daemon=True).start()
        return lookup


def resolve(host: str, port: int, *, deadline: float) -> list[Address]:
    """Returns the addresses of a host; raises OSError, and TimeoutError at `deadline` (of `time.monotonic`)."""
    numeric = numeric_address(host, port)
    if numeric is not None:
        return [numeric]
    return start_lookup(host, port).result(timeout=max(0.0, deadline - time.monotonic()))


def _look_up(key: tuple[str, int], lookup: Future[list[Address]]) -> None:
    try:
        found = socket.getaddrinfo(*key, type=socket.SOCK_STREAM)
        addresses: list[Address] = [(family, address) for family, _, _, _, address in found]
    except (OSError, ValueError) as error:  # ValueError: a name that IDNA can't encode
        result: list[Address] | OSError = error if isinstance(error, OSError) else socket.gaierror(str(error))
    else:
        result = addresses or socket.gaierror("no address")
    with _lock:
        if _under_way.get(key) is lookup:
            del _under_way[key]
    if isinstance(result, OSError):
        lookup.set_exception(result)
    else:
        lookup.set_result(result)


def _forget_lookups() -> None:
    """Drops the look-ups whose threads a forked child doesn't have."""
    global _lock  # noqa: PLW0603 - a thread of the parent may hold it
    _lock = threading.Lock()
    _under_way.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lookups)
