"""Sends one attempt of a synchronous call: pooled connections, and one deadline for every byte of it.

Neither `requests.Session` nor its adapter is used: what they add (cookies, redirects, proxies, `.netrc`) must not
happen between services, and takes longer than the call. Where something has taken the adapter's place, as `responses`
does in tests, the attempt goes there.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping, Sequence

import requests
import requests.adapters
import urllib3

from registry_admin.discovery.connection import Connection, Connections, readable
from registry_admin.discovery.faults import in_words
from registry_admin.discovery.framing import StrictReply
from registry_admin.discovery.policy import AttemptError, Outcome
from registry_admin.discovery.reply import BODY_LIMIT, CHUNK, Body, Reply
from registry_admin.discovery.request import CallRequest

_FAULTS = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)
_ADAPTER_SEND = requests.adapters.HTTPAdapter.send


class SyncTransport:
    """Sends attempts, for any number of threads; after a fork the child opens connections of its own."""

    def __init__(self, *, verify: bool | str = True, body_limit: int = BODY_LIMIT) -> None:
        self._verify = verify
        self._body_limit = body_limit
        self._connections = Connections(verify=verify)

    def start(self, request: CallRequest, root: str, *, deadline: float, headers: Mapping[str, str]) -> Exchange:
        """Sends `request`, with `headers` beside its own, to the instance at `root`; raises AttemptError.

        Everything is over at `deadline` (as `time.monotonic` has it).
        """
        if requests.adapters.HTTPAdapter.send is not _ADAPTER_SEND:
            return _StandIn(request, root, headers=headers, body_limit=self._body_limit)
        head = request.head(root, headers)
        try:
            connection = self._connections.take(root, deadline=deadline)
        except _FAULTS as error:
            raise AttemptError(Outcome.NOT_SENT, in_words(error)) from error
        try:
            connection.send(head, request.body, deadline=deadline)
        except BaseException as error:
            connection.close()
            if isinstance(error, _FAULTS):
                raise AttemptError(Outcome.MAYBE_RECEIVED, in_words(error)) from error
            raise
        return Exchange(request, root, headers, connection=connection, transport=self)

    def finish(self, exchange: Exchange, connection: Connection) -> requests.Response:
        """See Exchange."""
        request = exchange.request
        try:
            reply = StrictReply(connection, method=request.method)  # type: ignore[arg-type]  # it only asks for a file
            reply.begin()
            elapsed_s = time.monotonic() - connection.sent_at
            length = reply.headers.get("content-length")
            body = Body(self._body_limit, announced=None if request.method == "HEAD" else length)
            if reply.length is not None and reply.length <= CHUNK:
                body.add(reply.read())
            else:
                while part := reply.read(CHUNK):
                    body.add(part)
            content = body.content(reply.headers.get("content-encoding", ""))
        except BaseException as error:
            connection.close()  # the rest is of no use, so neither is the connection
            if isinstance(error, _FAULTS):
                raise AttemptError(Outcome.MAYBE_RECEIVED, in_words(error)) from error
            raise
        if reply.will_close:
            connection.close()
        else:
            self._connections.give_back(exchange.root, connection)
        return Reply(
            request,
            exchange.root,
            sent=exchange.headers,
            status=reply.status,
            reason=reply.reason,
            headers=reply.headers.items(),
            content=content,
            elapsed_s=elapsed_s,
        )

    def close(self) -> None:
        """Ends the idle connections."""
        self._connections.close()


class Exchange:
    """A request that was sent, and its reply to be read."""

    def __init__(
        self,
        request: CallRequest,
        root: str,
        headers: Mapping[str, str],
        *,
        connection: Connection | None,
        transport: SyncTransport | None,
    ) -> None:
        self.request = request
        self.root = root
        self.headers = headers
        self.connection = connection
        self._transport = transport

    def finish(self) -> requests.Response:
        """The reply, read to its end before the deadline; raises AttemptError."""
        if self.connection is None or self._transport is None:
            raise AttemptError(Outcome.NOT_SENT, "it was abandoned")
        connection, self.connection = self.connection, None
        return self._transport.finish(self, connection)

    def abandon(self) -> None:
        """Nobody waits for the reply any more."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class _StandIn(Exchange):
    """Answered already, by what has taken the place of the adapter of `requests`."""

    def __init__(self, request: CallRequest, root: str, *, headers: Mapping[str, str], body_limit: int) -> None:
        super().__init__(request, root, headers, connection=None, transport=None)
        prepared = request.prepared(root, headers)
        try:
            reply = requests.adapters.HTTPAdapter().send(prepared, stream=True, timeout=None)
        except _FAULTS as error:
            refused = isinstance(error, requests.ConnectionError) and not isinstance(error, requests.Timeout)
            raise AttemptError(Outcome.NOT_SENT if refused else Outcome.MAYBE_RECEIVED, in_words(error)) from error
        body = Body(body_limit, announced=reply.headers.get("Content-Length"))
        while part := reply.raw.read(CHUNK, decode_content=False):
            body.add(part)
        self._reply = Reply(
            request,
            root,
            sent=headers,
            status=reply.status_code,
            reason=reply.reason,
            headers=reply.raw.headers.items(),
            content=body.content(reply.headers.get("Content-Encoding", "")),
            elapsed_s=0.0,
        )

    def finish(self) -> requests.Response:
        """What was answered."""
        return self._reply


def first_readable(exchanges: Sequence[Exchange], *, until: float) -> Exchange | None:
    """The first that has something to read, or has ended; None when that time (of `time.monotonic`) has come."""
    waiting = {}
    for exchange in exchanges:
        if exchange.connection is None or exchange.connection.has_pending:
            return exchange
        waiting[exchange.connection.sock] = exchange
    found = readable(list(waiting), max(0.0, until - time.monotonic()))
    return waiting[found[0]] if found else None
