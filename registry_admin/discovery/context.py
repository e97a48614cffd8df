"""What a request hands on to the calls that are made for it: its ID, its trace and its deadline.

The trace is W3C's `traceparent` (https://www.w3.org/TR/trace-context/); the deadline travels as `X-Request-Timeout-Ms`,
as what is left of it, because clocks differ.
"""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
ID_HEADER = "X-Request-ID"
TRACE_HEADER = "traceparent"
STATE_HEADER = "tracestate"
_LONGEST_TIMEOUT_MS = 24 * 3600 * 1000
_TIMEOUT = re.compile("[0-9]{1,12}", re.ASCII)
_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
_TRACE = re.compile(  # a later version than 00 may say more at its end
    r"(?!ff)(?!00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?", re.ASCII
)
_SAMPLED = 0x01  # the only flag of version 00, which is the one that we speak
_STATE = re.compile(r"[\x20-\x7e]{1,512}")


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """What came with a request. Only what is well-formed; the rest is ignored, because anyone may have sent it."""

    request_id: str = ""
    trace_id: str = ""
    trace_flags: str = "00"
    trace_state: str = ""
    deadline: float | None = None  # by the clock of time.monotonic

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self:
        """From headers in any case."""
        given = {name.lower(): value for name, value in headers.items()}
        timeout, request_id = given.get(TIMEOUT_HEADER.lower(), ""), given.get(ID_HEADER.lower(), "")
        trace, state = _TRACE.fullmatch(given.get(TRACE_HEADER, "")), given.get(STATE_HEADER, "")
        deadline = None
        if _TIMEOUT.fullmatch(timeout):
            deadline = time.monotonic() + min(int(timeout), _LONGEST_TIMEOUT_MS) / 1000
        return cls(
            request_id=request_id if _ID.fullmatch(request_id) else "",
            trace_id=trace[1] if trace else "",
            trace_flags=f"{int(trace[2], 16) & _SAMPLED:02x}" if trace else "00",
            trace_state=state if trace and _STATE.fullmatch(state) else "",
            deadline=deadline,
        )


_NOTHING = Incoming()
_incoming: ContextVar[Incoming] = ContextVar("incoming", default=_NOTHING)


@contextlib.contextmanager
def propagated(headers: Mapping[str, str]) -> Iterator[Incoming]:
    """Calls made within it carry on what these headers of the request say, and meet its deadline."""
    incoming = Incoming.of(headers)
    token = _incoming.set(incoming)
    try:
        yield incoming
    finally:
        _incoming.reset(token)


def deadline() -> float | None:
    """When the request that is being served has to be answered, by the clock of time.monotonic, or None."""
    return _incoming.get().deadline


class Propagation:
    """The headers that one call carries; all of its attempts are told the same ID and trace."""

    __slots__ = ("_constant",)

    def __init__(self, constant: dict[str, str]) -> None:
        self._constant = constant

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Self:
        """What the caller gave as headers stays; else the request being served decides; else they are made up."""
        incoming, constant = _incoming.get(), {}
        names = {name.lower() for name in given}
        if "x-request-id" not in names:
            constant[ID_HEADER] = incoming.request_id or f"{random.getrandbits(128):032x}"
        if TRACE_HEADER not in names:
            trace_id = incoming.trace_id or f"{random.getrandbits(128) or 1:032x}"
            parent_id = random.getrandbits(64) or 1
            constant[TRACE_HEADER] = f"00-{trace_id}-{parent_id:016x}-{incoming.trace_flags}"
            if incoming.trace_state and STATE_HEADER not in names:
                constant[STATE_HEADER] = incoming.trace_state
        return cls(constant)

    def headers(self, remaining_s: float) -> dict[str, str]:
        """For an attempt that has so many seconds left."""
        return {**self._constant, TIMEOUT_HEADER: str(max(1, int(remaining_s * 1000)))}
