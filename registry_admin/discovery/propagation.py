"""Propagates the ID, the trace and the deadline of a request to the calls that are made for it.

The trace is W3C's `traceparent` (https://www.w3.org/TR/trace-context/). The deadline travels as the remaining time, in
`X-Request-Timeout-Ms`, because clocks differ.
"""

from __future__ import annotations

import contextlib
import functools
import random
import re
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
ID_HEADER = "X-Request-ID"
TRACE_HEADER = "traceparent"
STATE_HEADER = "tracestate"
_MAX_TIMEOUT_MS = 24 * 3600 * 1000
_TIMEOUT = re.compile("[0-9]{1,12}", re.ASCII)
_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
_TRACE = re.compile(  # later versions than 00 may add fields at the end
    r"(?!ff)(?!00.{54})[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]*)?", re.ASCII
)
_MAX_TRACE = 512  # characters
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_STATE = re.compile(r"[\x20-\x7e]{1,512}")


@dataclass(frozen=True, kw_only=True)
class PropagationHeaders:
    """Well-formed propagation headers of a request. Malformed ones are ignored, because anyone may have sent them."""

    request_id: str = ""
    trace: Mapping[str, str] = field(default_factory=dict)  # traceparent and tracestate, as they came
    deadline: float | None = None  # by the clock of time.monotonic

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> Self:
        """Parses headers, whose names may be in any case."""
        values = {name.lower(): value for name, value in headers.items()}
        timeout, request_id = values.get(TIMEOUT_HEADER.lower(), ""), values.get(ID_HEADER.lower(), "")
        parent, state = values.get(TRACE_HEADER, ""), values.get(STATE_HEADER, "")
        trace = {}
        if len(parent) <= _MAX_TRACE and _TRACE.fullmatch(parent):
            trace = {TRACE_HEADER: parent} | ({STATE_HEADER: state} if _STATE.fullmatch(state) else {})
        deadline = None
        if _TIMEOUT.fullmatch(timeout):
            deadline = time.monotonic() + min(int(timeout), _MAX_TIMEOUT_MS) / 1000
        return cls(
            request_id=request_id if _ID.fullmatch(request_id) else "",
            trace=trace,
            deadline=deadline,
        )


class _Served:
    """A request that is being served. Tasks that it starts, and that outlive it, keep its ID and trace."""

    def __init__(self, context: PropagationHeaders) -> None:
        self.context = context
        self.is_over = False


_served: ContextVar[_Served] = ContextVar("served", default=_Served(PropagationHeaders()))  # noqa: B039


@contextlib.contextmanager
def propagated(headers: Mapping[str, str]) -> Iterator[PropagationHeaders]:
    """Propagates these headers of a request to the calls that are made within the block.

    Calls of tasks that go on after the block keep ID and trace, but not the deadline, which was the request's.
    """
    served = _Served(PropagationHeaders.from_headers(headers))
    token = _served.set(served)
    try:
        yield served.context
    finally:
        served.is_over = True
        _served.reset(token)


def current_deadline() -> float | None:
    """Returns the deadline of the request that is being served, by the clock of time.monotonic, or None."""
    served = _served.get()
    return None if served.is_over else served.context.deadline


def received_trace() -> Mapping[str, str]:
    """Returns `traceparent` and `tracestate` of the request that the current work is for, or nothing."""
    return _served.get().context.trace


@functools.lru_cache(maxsize=256)
def _lower_names(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


class CallHeaders:
    """Propagation headers of one call. All of its attempts carry the same ID."""

    __slots__ = ("_constant", "_given")

    def __init__(self, constant: dict[str, str], *, given: frozenset[str]) -> None:
        self._constant = constant
        self._given = given

    @classmethod
    def for_call(cls, caller_headers: Mapping[str, str]) -> Self:
        """Takes ID and trace from the request being served; the caller's own headers win.

        A missing ID is made; a missing trace isn't, because it would tell the called service that nobody samples it.
        """
        context, given = _served.get().context, _lower_names(tuple(caller_headers))
        constant: dict[str, str] = {}
        if context.trace and TRACE_HEADER not in given:
            constant = {name: value for name, value in context.trace.items() if name not in given}
        if "x-request-id" not in given:
            constant[ID_HEADER] = context.request_id or f"{random.getrandbits(128):032x}"
        return cls(constant, given=given)

    def for_attempt(
        self,
        remaining_s: float,
        trace_headers: Mapping[str, str] = _NO_HEADERS,
        instance_headers: Mapping[str, str] = _NO_HEADERS,
    ) -> dict[str, str]:
        """Returns the headers of an attempt that has `remaining_s` seconds left.

        `trace_headers`: the attempt's own context, if it has one; its trace replaces the request's. `instance_headers`
        name the instance.
        """
        headers = {**self._constant, **instance_headers, TIMEOUT_HEADER: str(max(1, int(remaining_s * 1000)))}
        if TRACE_HEADER in trace_headers and TRACE_HEADER not in self._given:
            headers.pop(STATE_HEADER, None)
            headers |= {name: value for name, value in trace_headers.items() if name.lower() not in self._given}
        return headers
