"""Sends attempts of synchronous calls over pooled connections, with one deadline for every byte of an attempt.

`requests.Session` and its adapter are not used: what they add (cookies, redirects, proxies, `.netrc`) must not happen
between services, and takes longer than the call. Where a test tool such as `responses` has replaced the adapter's
`send`, attempts go to the replacement.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import requests
import requests.adapters
import urllib3

from registry_admin.discovery.http import in_process
from registry_admin.discovery.http.connection import RECEIVE_SIZE, Connection, ConnectionPool, wait_any_readable
from registry_admin.discovery.http.failures import attempt_error, describe_failure, may_resend
from registry_admin.discovery.http.framing import ReplyError
from registry_admin.discovery.http.reader import ResponseReader
from registry_admin.discovery.http.request import CallRequest
from registry_admin.discovery.http.response import BODY_LIMIT, ResponseBody, ServiceResponse, parse_length
from registry_admin.discovery.http.streamed_response import StreamedResponse
from registry_admin.discovery.http.streaming import StreamedBody
from registry_admin.discovery.http.sync_stream import ReceivedBody
from registry_admin.errors import AttemptError, Outcome

_NETWORK_ERRORS = (ReplyError, OSError)
_REPLACED_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
_ADAPTER_SEND = requests.adapters.HTTPAdapter.send


class SyncTransport:
    """Sends attempts, for any number of threads; after a fork the child opens connections of its own."""

    def __init__(self, *, verify: bool | str = True, body_limit: int = BODY_LIMIT) -> None:
        self._body_limit = body_limit
        self._connections = ConnectionPool(verify=verify)

    def start(self, request: CallRequest, base_url: str, *, deadline: float, headers: Mapping[str, str]) -> Exchange:
        """Sends `request`, with `headers` beside its own, to the instance at `base_url`; raises AttemptError.

        The whole exchange ends at `deadline` (of `time.monotonic`).
        """
        if base_url in in_process.answers:
            response = in_process.answer(request, base_url, headers, body_limit=self._body_limit)
            return _AnsweredExchange(request, base_url, headers=headers, response=response)
        if requests.adapters.HTTPAdapter.send is not _ADAPTER_SEND:
            return _ReplacedExchange(request, base_url, headers=headers, body_limit=self._body_limit)
        exchange = Exchange(request, base_url, headers, deadline=deadline, transport=self)
        try:
            connection = self._connections.acquire(base_url, deadline=deadline)
        except _NETWORK_ERRORS as error:
            raise attempt_error(error, Outcome.NOT_SENT) from error
        try:
            self._send(exchange, connection)
        except _NETWORK_ERRORS as error:
            if not may_resend(error, reused=connection.is_reused, has_begun=False, repeatable=request.repeatable):
                raise attempt_error(error, Outcome.MAYBE_RECEIVED) from error
            self._send_again(exchange)
        return exchange

    def _send(self, exchange: Exchange, connection: Connection) -> None:
        request = exchange.request
        head = request.encode_head(exchange.base_url, exchange.headers)
        try:
            connection.send(head, request.body, deadline=exchange.deadline)
        except BaseException:
            connection.close()
            raise
        exchange.connection = connection

    def _send_again(self, exchange: Exchange) -> None:
        """Sends the request on a new connection; the old one was reused and ended before the first byte of a reply."""
        try:
            self._send(exchange, self._connections.open(exchange.base_url, deadline=exchange.deadline))
        except _NETWORK_ERRORS as error:
            raise attempt_error(error, Outcome.MAYBE_RECEIVED) from error

    def read_response(self, exchange: Exchange, connection: Connection) -> requests.Response | None:
        """Reads the response of `exchange`; None if the request had to be sent again. Raises AttemptError."""
        request = exchange.request
        if request.is_streamed:
            return self._read_head(exchange, connection)
        reader = ResponseReader(request.method, body_limit=self._body_limit)
        try:
            head_at = connection.receive(reader, deadline=exchange.deadline)
            head = reader.head
            content = reader.body.decode(head.content_encoding)
        except _NETWORK_ERRORS as error:
            self._resend(exchange, connection, reader, error)
            return None
        except BaseException:
            connection.close()
            raise
        if reader.keeps_connection and connection.is_sent:
            self._connections.release(exchange.base_url, connection, idle_hint_s=head.idle_hint_s)
        else:
            connection.close()
        return ServiceResponse(
            request,
            exchange.base_url,
            sent_headers=exchange.headers,
            status=head.status,
            reason=head.reason,
            headers=head.headers,
            content=content,
            elapsed_s=head_at - connection.sent_at,
        )

    def _resend(
        self, exchange: Exchange, connection: Connection, reader: ResponseReader, error: ReplyError | OSError
    ) -> None:
        """Sends the request again on a new connection where that is allowed, else raises AttemptError."""
        connection.close()  # unread bytes would be taken for the next response
        reused, repeatable = connection.is_reused, exchange.request.repeatable
        if not may_resend(error, reused=reused, has_begun=reader.has_begun, repeatable=repeatable):
            raise attempt_error(error, Outcome.MAYBE_RECEIVED) from error
        self._send_again(exchange)

    def _read_head(self, exchange: Exchange, connection: Connection) -> StreamedResponse | None:
        body = StreamedBody()
        reader = ResponseReader(exchange.request.method, body=body)
        try:
            while not reader.head.status:
                connection.receive_part(reader, deadline=exchange.deadline)
        except _NETWORK_ERRORS as error:
            self._resend(exchange, connection, reader, error)
            return None
        except BaseException:
            connection.close()
            raise

        def release(connection: Connection) -> None:
            self._connections.release(exchange.base_url, connection, idle_hint_s=reader.head.idle_hint_s)

        return StreamedResponse(
            exchange.request,
            exchange.base_url,
            source=ReceivedBody(connection, reader, body, deadline=exchange.deadline, release=release),
            sent_headers=exchange.headers,
            head=reader.head,
            elapsed_s=time.monotonic() - connection.sent_at,
            body_limit=self._body_limit,
        )

    def close(self) -> None:
        """Closes the idle connections."""
        self._connections.close()


class Exchange:
    """A request that was sent, and its response to be read. `connection` is None when none is to be waited for."""

    def __init__(
        self,
        request: CallRequest,
        base_url: str,
        headers: Mapping[str, str],
        *,
        deadline: float,
        transport: SyncTransport | None,
    ) -> None:
        self.request = request
        self.base_url = base_url
        self.headers = headers
        self.deadline = deadline
        self.connection: Connection | None = None
        self._transport = transport

    def read_response(self) -> requests.Response | None:
        """Returns the response, read to its end before the deadline; raises AttemptError.

        None means that the request was sent again on a new connection: wait once more.
        """
        if self.connection is None or self._transport is None:
            raise AttemptError(Outcome.NOT_SENT, "it was abandoned")
        connection, self.connection = self.connection, None
        return self._transport.read_response(self, connection)

    def close(self) -> None:
        """Closes the connection; the response isn't needed any more."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class _AnsweredExchange(Exchange):
    """An exchange that an instance within this process has answered."""

    def __init__(
        self, request: CallRequest, base_url: str, *, headers: Mapping[str, str], response: requests.Response
    ) -> None:
        super().__init__(request, base_url, headers, deadline=0.0, transport=None)
        self._response = response

    def read_response(self) -> requests.Response | None:
        """Returns the instance's response."""
        return self._response


class _ReplacedExchange(Exchange):
    """An exchange with whatever has replaced the `send` of `requests`' adapter."""

    def __init__(self, request: CallRequest, base_url: str, *, headers: Mapping[str, str], body_limit: int) -> None:
        super().__init__(request, base_url, headers, deadline=0.0, transport=None)
        prepared = request.prepare(base_url, headers)
        try:
            response = requests.adapters.HTTPAdapter().send(prepared, stream=True, timeout=None)
        except _REPLACED_ERRORS as error:
            refused = isinstance(error, requests.ConnectionError) and not isinstance(error, requests.Timeout)
            outcome = Outcome.NOT_SENT if refused else Outcome.MAYBE_RECEIVED
            raise AttemptError(outcome, describe_failure(error)) from error
        body = ResponseBody(body_limit)
        body.announce(parse_length(response.headers.get("Content-Length")))
        while part := response.raw.read(RECEIVE_SIZE, decode_content=False):
            body.add(part)
        self._response = ServiceResponse(
            request,
            base_url,
            sent_headers=headers,
            status=response.status_code,
            reason=response.reason,
            headers=response.raw.headers.items(),
            content=body.decode(response.headers.get("Content-Encoding", "")),
            elapsed_s=0.0,
        )

    def read_response(self) -> requests.Response | None:
        """Returns the replacement's response."""
        return self._response


def wait_first_readable(exchanges: Sequence[Exchange], *, until: float) -> Exchange | None:
    """Returns the first exchange that has bytes to read, or has ended; None at `until` (of `time.monotonic`)."""
    if len(exchanges) == 1:
        connection = exchanges[0].connection
        is_ready = connection is None or connection.wait_readable(timeout_s=max(0.0, until - time.monotonic()))
        return exchanges[0] if is_ready else None
    by_socket = {}
    for exchange in exchanges:
        if exchange.connection is None or exchange.connection.has_pending:
            return exchange
        by_socket[exchange.connection.sock] = exchange
    readable = wait_any_readable(list(by_socket), timeout_s=max(0.0, until - time.monotonic()))
    return by_socket[readable[0]] if readable else None
