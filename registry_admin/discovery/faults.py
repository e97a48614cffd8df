"""What went wrong on the network, in a person's words; knows the exceptions of both HTTP libraries by name only."""

from __future__ import annotations

_WORDS = {
    "ConnectionRefusedError": "connection refused",
    "gaierror": "its host name can't be resolved",
    "SSLCertVerificationError": "its TLS certificate was refused",
    "SSLError": "no TLS connection could be made",
    "RemoteDisconnected": "it closed the connection without a reply",
    "ServerDisconnectedError": "it closed the connection without a reply",
    "ConnectionResetError": "it reset the connection",
    "BrokenPipeError": "it reset the connection",
    "IncompleteRead": "it broke off in the middle of its reply",
    "ClientPayloadError": "it broke off in the middle of its reply",
    "TimeoutError": "no answer in time",
    "BadStatusLine": "its reply is not HTTP",
    "LineTooLong": "its reply's head is too large",
    "BadHttpMessage": "its reply is not HTTP",
    "ClientResponseError": "its reply is not HTTP",
    "UnreadableReplyError": "its reply is not HTTP",
}


def in_words(error: BaseException) -> str:
    """The first known kind of fault among the error and its causes, innermost first; else the error's type."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    for link in reversed(chain):
        for kind in type(link).__mro__:
            if kind.__name__ in _WORDS:
                return _WORDS[kind.__name__]
    return f"its reply could not be read ({type(error).__name__})"
