"""Errors of ours for what Consul's replies and the network's failures mean, with texts for people."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence

import requests
import urllib3

from registry_admin.errors import (
    ConsulPermissionError,
    ConsulRefusedError,
    ConsulUnavailableError,
    InvalidReplyError,
    NoLeaderError,
)
from registry_admin.printable import to_single_line

MAX_REASON = 300  # characters of a reply in a message
# Of the agent's own limits: https://developer.hashicorp.com/consul/docs/manage-traffic/rate-limit
_RATE_LIMITED = (429, 503)
# Of OpenSSL, for our own refusal and for the agent's alert. With TLS 1.3 that comes after the handshake.
_CERTIFICATE_REASONS = ("CERTIFICATE", "UNKNOWN_CA")
_NO_LEADER = ("No cluster leader", "No known Consul servers")  # bodies of a 500; no header or status tells it

_PERMISSIONS: Sequence[tuple[str, str]] = (
    ("PUT /v1/agent/", "`service:write` for this service"),
    ("PUT /v1/catalog/", "`service:write` for this service"),
    ("GET /v1/agent/self", "`agent:read`"),
    ("GET /v1/agent/", "`service:read` and `node:read`"),
    ("GET /v1/catalog/", "`service:read` and `node:read`"),
    ("GET /v1/health/", "`service:read` and `node:read`"),
)


def failure_text(error: Exception) -> str:
    """Returns a description for people, without the exception's own text, which can hold the URL."""
    causes = list(_causes(error))

    def is_caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if isinstance(error, requests.exceptions.SSLError):
        reasons = [cause.reason or "" for cause in causes if isinstance(cause, ssl.SSLError)]
        if any(words in reason for words in _CERTIFICATE_REASONS for reason in reasons):
            return "can't be trusted: a TLS certificate was refused (are CONSUL_CACERT and CONSUL_CLIENT_CERT right?)"
        return "doesn't speak TLS as we do (are CONSUL_HTTP_SSL and the port right?)"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "didn't accept a connection in time"
    if is_caused_by(ConnectionRefusedError):
        return "refused the connection (is it running there?)"
    if is_caused_by(socket.gaierror):
        return "can't be found: its host name is not known here"
    # After the two above: urllib3's NewConnectionError is a TimeoutError of its own too.
    if is_caused_by(requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError):
        return "didn't answer in time"
    if is_caused_by(urllib3.exceptions.ProtocolError, ConnectionError):
        return "broke off the connection"
    if not isinstance(error, (requests.RequestException, urllib3.exceptions.HTTPError)):
        return "can't be spoken to: the files for TLS can't be read (CONSUL_CACERT, CONSUL_CLIENT_CERT)"
    return f"can't be reached ({type(error).__name__})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields the error and those inside it: requests and urllib3 hand them on as arguments, `reason` or `__cause__`."""
    yield error
    inner = [*error.args, getattr(error, "reason", None), error.__cause__]
    for cause in inner:
        if isinstance(cause, BaseException):
            yield from _causes(cause)


def is_momentary(error: ConsulPermissionError | ConsulUnavailableError) -> bool:
    """Returns whether the same request may succeed a moment later. Nothing was done where it was refused so.

    A server that lags behind the others says of a valid token that it doesn't exist.
    """
    if isinstance(error, ConsulPermissionError):
        return error.token_is_unknown
    return error.status in _RATE_LIMITED


def error_for(
    status: int, text: str, *, what: str, where: str, token: str | None
) -> ConsulUnavailableError | ConsulRefusedError:
    reason = reason_text(text) or "no reason given"
    if status in (401, 403):
        is_unknown = "acl not found" in text.lower()
        remedy = _remedy(what, token=token, token_is_unknown=is_unknown)
        return ConsulPermissionError(
            f"Consul at {where} denied {what}: {reason}. {remedy}", status=status, token_is_unknown=is_unknown
        )
    if status < 400:
        message = f"Consul at {where} answered {what} with a redirect, which an agent never does."
        return InvalidReplyError(message, status=status)
    if status >= 500 and any(words in reason for words in _NO_LEADER):
        return NoLeaderError(where, status=status)
    if status >= 500 or status == 429:
        return ConsulUnavailableError(f"Consul at {where} failed to answer {what} ({status}): {reason}.", status=status)
    return ConsulRefusedError(f"Consul at {where} refused {what} ({status}): {reason}.", status=status)


def _remedy(what: str, *, token: str | None, token_is_unknown: bool) -> str:
    need = next((need for start, need in _PERMISSIONS if what.startswith(start)), "more permissions")
    if not token:
        return f"No token was sent; give one in CONSUL_HTTP_TOKEN that has {need}."
    if token_is_unknown:
        return f"Consul doesn't know this token: was it deleted? Give one in CONSUL_HTTP_TOKEN that has {need}."
    return f"The token needs {need}."


def reason_text(body: str) -> str:
    """Returns the text of a reply, fit for the middle of an error message."""
    return to_single_line(body, max_length=MAX_REASON).rstrip(".")
