"""The request that is being served: its ID and its client, for log lines and the audit trail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RequestContext:
    """The ID is on each log line of the request, in the header X-Request-ID and on the page of an error."""

    request_id: str = ""
    address: str = ""


_current: ContextVar[RequestContext] = ContextVar("request", default=RequestContext())  # noqa: B039 - it is frozen


def current_request() -> RequestContext:
    """Returns the request that is being served; an empty one outside of requests."""
    return _current.get()


@contextmanager
def serving(context: RequestContext) -> Iterator[None]:
    """Attributes log lines and audit events within the block to this request."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)
