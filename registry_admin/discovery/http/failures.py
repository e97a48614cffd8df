"""Failures of the network: what they mean for the attempt, and their descriptions for people."""

from __future__ import annotations

from registry_admin.discovery.http.framing import NoReplyError
from registry_admin.discovery.http.tls import is_certificate_refusal
from registry_admin.errors import AttemptError, Outcome

_DESCRIPTIONS = {  # by name, so that the libraries that a test tool puts in place of the transport needn't be imported
    "ConnectionRefusedError": "connection refused",
    "gaierror": "its host name can't be resolved",
    "SSLCertVerificationError": "its TLS certificate was refused",
    "SSLError": "no TLS connection could be made",
    "NoReplyError": "it closed the connection without a reply",
    "RemoteDisconnected": "it closed the connection without a reply",
    "ConnectionResetError": "it reset the connection",
    "BrokenPipeError": "it reset the connection",
    "TruncatedReplyError": "it broke off in the middle of its reply",
    "IncompleteRead": "it broke off in the middle of its reply",
    "TimeoutError": "no answer in time",
    "HeadTooLargeError": "its reply's head is too large",
    "BadStatusLine": "its reply is not HTTP",
    "UnreadableReplyError": "its reply is not HTTP",
}


def attempt_error(error: BaseException, outcome: Outcome) -> AttemptError:
    """Returns the error of an attempt that failed with `error`, with `outcome` unless the fault is the client's own."""
    if is_certificate_refusal(error):
        return AttemptError(Outcome.UNUSABLE, "it wants another TLS certificate of the client; set one up for it")
    return AttemptError(outcome, describe_failure(error))


def may_resend(error: BaseException, *, reused: bool, has_begun: bool, repeatable: bool) -> bool:
    """Returns whether a request may go to the same instance once more, on a new connection.

    A server may hang up at any time (RFC 9112 section 9.3.1), so a reused connection that ends before the first byte
    of a reply says nothing about the instance. Only a repeatable request is sent twice.
    """
    return reused and repeatable and not has_begun and isinstance(error, NoReplyError | ConnectionError)


def describe_failure(error: BaseException) -> str:
    """Returns the description of the innermost known error among `error` and its causes, else the error's type."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    for link in reversed(chain):
        for kind in type(link).__mro__:
            if kind.__name__ in _DESCRIPTIONS:
                return _DESCRIPTIONS[kind.__name__]
    return f"its reply could not be read ({type(error).__name__})"
