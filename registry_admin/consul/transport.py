"""HTTP transport to Consul: pooled connections, timeouts, the token in a header only, and errors mapped to ours.

It is plugged in where python-consul calls `connect` and py-consul `http_connect`, so everything goes through here.
`requests.Session` isn't used: what it adds (cookies, redirects, proxies, `.netrc`) must not happen between us and the
agent, and is more than half of a request's cost. Its adapter is, so that what takes its place in tests goes on working.
"""

from __future__ import annotations

import functools
import hmac
import http.client
import os
import random
import re
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit

import consul.base
import requests
import requests.adapters
import urllib3
from requests.structures import CaseInsensitiveDict

from registry_admin.consul import validation
from registry_admin.consul.config import ConsulConfig
from registry_admin.consul.request_path import quoted
from registry_admin.consul.token_file import TokenFile
from registry_admin.consul.transport_errors import error_for, failure_text, is_momentary
from registry_admin.errors import (
    ConsulPermissionError,
    ConsulUnavailableError,
    InvalidReplyError,
)
from registry_admin.printable import escape_unprintable

POOL_SIZE = 32
MAX_REPLY = 256 * 1024 * 1024  # bytes; 10,000 instances with their checks take about 10 MB
TOKEN_HEADER = "X-Consul-Token"  # noqa: S105 - its name, not its value
MAX_IDENTITY = 1024 * 1024  # bytes of the reply to /v1/agent/self; a real one has about 20,000
IDENTITY_PATH = "/v1/agent/self"
REPEAT_PAUSES_S = (0.1, 0.4)  # before a refusal is believed that a moment may change
_PIECE = 64 * 1024
_SALT = secrets.token_bytes(16)

# Until Consul 1.11 an agent replies 500 where it means 404; with ACLs on, even on deregistering.
_UNKNOWN_ID = re.compile(r'Unknown (service|check)\b|No service registered with ID|CheckID ".*" does not have')


class Transport(consul.base.HTTPClient):
    """A pool of connections to one agent: no proxies, no .netrc, no redirects, no cookies. Safe to share by threads."""

    def __init__(
        self, config: ConsulConfig, *, on_connect: Callable[[consul.base.Response], object] | None = None
    ) -> None:
        """With `on_connect`, `GET /v1/agent/self` is the first request of each connection, and its reply goes there.

        Whatever it raises, nothing else goes over that connection.
        """
        super().__init__(config.host, config.port, config.scheme, config.verify, config.cert)
        self.base_uri = config.url
        self._config = config
        self._on_connect = on_connect
        self._headers = {"Accept": "*/*", "Accept-Encoding": "identity"}  # on loopback gzip doubles a large read's time
        self._token_file = _token_file(config.token_file) if config.token_file else None
        self._adapter, self._pid = _Adapter(self._first_request), os.getpid()

    @property
    def adapter(self) -> requests.adapters.HTTPAdapter:
        """Connections of this process: after a fork the inherited ones belong to the parent."""
        if self._pid != os.getpid():
            self._adapter, self._pid = _Adapter(self._first_request), os.getpid()
        return self._adapter

    @property
    def _first_request(self) -> Callable[[socket.socket], bool] | None:
        return self._identify if self._on_connect else None

    def _identify(self, connected: socket.socket) -> bool:
        """Asks the agent at the other end who it is. Returns whether the connection may be used further."""
        assert self._on_connect is not None  # noqa: S101 - for the type checker
        connected.settimeout(self._config.read_timeout)
        prepared = self._prepared("GET", IDENTITY_PATH, None, data="", headers=None)
        fields = {"Host": urlsplit(self.base_uri).netloc} | dict(prepared.headers)
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        request = f"GET {IDENTITY_PATH} HTTP/1.1\r\n{head}\r\n".encode("latin-1")
        with _reading_alerts(connected):
            connected.sendall(request)
        response = http.client.HTTPResponse(connected, method="GET")
        try:
            response.begin()
            body = response.read(MAX_IDENTITY)
            if response.length:  # it broke off, or is longer
                raise http.client.IncompleteRead(body, response.length)
            text = body.decode("utf-8", "replace")
            self._on_connect(
                self._checked(response.status, response.headers, text, method="GET", path=IDENTITY_PATH, sent=prepared)
            )
            return response.isclosed() and not response.will_close
        finally:
            response.close()

    # The four that python-consul and py-consul call, with their signatures.

    def get(self, callback: Any, path: str, params: Any = None, headers: Any = None, raw: bool = False) -> Any:  # noqa: FBT001, FBT002
        return callback(self.request("GET", path, params, headers=headers, raw=raw))

    def put(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:
        return callback(self.request("PUT", path, params, data=data, headers=headers))

    def post(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:
        return callback(self.request("POST", path, params, data=data, headers=headers))

    def delete(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:
        return callback(self.request("DELETE", path, params, data=data, headers=headers))

    def close(self) -> None:
        """Ends the idle connections."""
        self.adapter.close()

    def request(
        self,
        method: str,
        path: str,
        params: Any = None,
        *,
        data: str | bytes = "",
        headers: Mapping[str, str] | None = None,
        read_timeout: float | None = None,
        raw: bool = False,
    ) -> consul.base.Response:
        """Sends one request and returns its reply; raises one of our errors for any status from 300 except a 404.

        The caller decides about a 404. `path` holds no query; its segments are quoted here. A `token` among
        `params` moves into the header. `read_timeout` (seconds) is how long the reply's beginning may take. Where the
        token of a file is refused, the file is read anew, and a request with another token follows. What a moment may
        change is believed the third time only: a rate limit, and that there is no such token.
        """
        for pause_s in REPEAT_PAUSES_S:
            try:
                return self._request(method, path, params, data, headers, read_timeout=read_timeout, raw=raw)
            except (ConsulPermissionError, ConsulUnavailableError) as error:
                if not is_momentary(error):
                    raise
            time.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - so that processes don't repeat all at once
        return self._request(method, path, params, data, headers, read_timeout=read_timeout, raw=raw)

    def _request(
        self,
        method: str,
        path: str,
        params: Any,
        data: str | bytes,
        headers: Mapping[str, str] | None,
        *,
        read_timeout: float | None,
        raw: bool,
    ) -> consul.base.Response:
        prepared = self._prepared(method, path, params, data=data, headers=headers)
        try:
            return self._send(prepared, method, path, read_timeout=read_timeout, raw=raw)
        except ConsulPermissionError:
            sent = prepared.headers.get(TOKEN_HEADER)
            if self._token_file is None or self._token_file.token(refused=sent or "") == sent:
                raise
        prepared = self._prepared(method, path, params, data=data, headers=headers)
        return self._send(prepared, method, path, read_timeout=read_timeout, raw=raw)

    @property
    def token(self) -> str | None:
        """The token that is sent now: that of the configuration, or of its file."""
        return self._token_file.token() if self._token_file else self._config.token

    @property
    def token_digest(self) -> str:
        """Tells tokens apart within this process, without telling anything about them."""
        return hmac.new(_SALT, (self.token or "").encode(), "sha256").hexdigest()

    def _send(
        self,
        prepared: requests.PreparedRequest,
        method: str,
        path: str,
        *,
        read_timeout: float | None,
        raw: bool,
    ) -> consul.base.Response:
        timeout = (self._config.connect_timeout, read_timeout or self._config.read_timeout)
        try:
            response = self.adapter.send(
                prepared, stream=True, timeout=timeout, verify=self._config.verify, cert=self._config.cert
            )
            with response:
                body = _read_all(response, within_s=self._config.read_timeout)
        except (OSError, urllib3.exceptions.HTTPError) as error:  # OSError is the base of all of requests' own
            raise ConsulUnavailableError(f"Consul at {self.base_uri} {failure_text(error)}.") from error
        except _ReplyTooLargeError:
            raise InvalidReplyError(f"Consul at {self.base_uri} gave a reply of more than {MAX_REPLY} bytes.") from None
        text = "" if raw and response.ok else body.decode("utf-8", "replace")
        reply = self._checked(response.status_code, response.headers, text, method=method, path=path, sent=prepared)
        return consul.base.Response(reply.code, reply.headers, body) if raw else reply

    def _checked(
        self, code: int, headers: Any, text: str, *, method: str, path: str, sent: requests.PreparedRequest
    ) -> consul.base.Response:
        """Returns the reply; raises one of our errors for any status from 300 except a 404."""
        if code == 500 and _UNKNOWN_ID.match(text):
            code = 404
        token = sent.headers.get(TOKEN_HEADER)
        if code >= 300 and token:
            text = text.replace(token, "(token)")  # a proxy's error page may show the request that it got
        if code >= 300 and code != 404:
            raise error_for(
                code, text, what=f"{method} {escape_unprintable(_redacted(path))}", where=self.base_uri, token=token
            )
        return consul.base.Response(code, headers, text)

    def _prepared(
        self, method: str, path: str, params: Any, *, data: str | bytes, headers: Mapping[str, str] | None
    ) -> requests.PreparedRequest:
        """Returns the request as `requests` has it, with any token in a header only."""
        pairs = [*_pairs(params)]
        prepared = requests.PreparedRequest()
        prepared.headers = CaseInsensitiveDict(self._headers)
        prepared.headers.update(headers or {})
        token = dict(pairs).get("token") or prepared.headers.get(TOKEN_HEADER) or self.token
        if token:
            prepared.headers[TOKEN_HEADER] = validation.acl_token(token)
        query = urlencode([(key, value) for key, value in pairs if key != "token"])
        prepared.method, prepared.url = method, self.base_uri + quoted(path) + (f"?{query}" if query else "")
        body = data.encode() if isinstance(data, str) else data
        if body or method != "GET":
            prepared.body = body or b""
            prepared.headers["Content-Length"] = str(len(prepared.body))
        return prepared


class _Adapter(requests.adapters.HTTPAdapter):
    """Adapter for a single host: its pool isn't searched for on each request, and no cookies are read."""

    def __init__(self, first_request: Callable[[socket.socket], bool] | None = None) -> None:
        super().__init__(pool_maxsize=POOL_SIZE, max_retries=0)
        self._pool: Any = None
        self._first_request = first_request

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = self._pool  # `close` in another thread may forget it meanwhile
        if pool is None:
            pool = super().get_connection_with_tls_context(*args, **kwargs)
            if pool.scheme == "https":
                pool.ConnectionCls = _with_alerts(pool.ConnectionCls)
            if self._first_request is not None:
                pool.ConnectionCls = _with_first_request(pool.ConnectionCls, self._first_request)
            self._pool = pool
        return pool

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response.reason, response.raw = resp.status, resp.reason, resp
        response.headers = CaseInsensitiveDict(resp.headers)
        response.request, response.url = req, str(req.url)
        return response

    def close(self) -> None:
        self._pool = None
        super().close()


def _with_first_request(kind: type[Any], first_request: Callable[[socket.socket], bool]) -> type[Any]:
    """Returns a class of connections that make this request as soon as they are connected."""

    class Connection(kind):
        def connect(self) -> None:
            super().connect()
            if not first_request(self.sock):  # a proxy that ends each connection after one reply
                self.sock.close()
                super().connect()

    return Connection


def _with_alerts(kind: type[Any]) -> type[Any]:
    """Returns a class of TLS connections that fail with the alert of an agent that has refused our certificate."""

    class Connection(kind):
        def send(self, data: Any) -> None:
            if self.sock is None:
                self.connect()
            with _reading_alerts(self.sock):
                super().send(data)

    return Connection


@contextmanager
def _reading_alerts(connected: socket.socket) -> Iterator[None]:
    """Raises what the other end has said, where it has closed the connection before all was sent.

    With TLS 1.3 a certificate is refused after the handshake: the agent's alert may be there before our request is.
    """
    try:
        yield
    except ssl.SSLEOFError:
        connected.recv(1)
        raise


class _ReplyTooLargeError(Exception):
    """The reply is larger than MAX_REPLY."""


@functools.lru_cache(maxsize=16)
def _token_file(path: str) -> TokenFile:
    """Returns the file that all transports of this process share."""
    return TokenFile(path)


def _pairs(params: Any) -> Iterable[tuple[str, str]]:
    return params.items() if isinstance(params, dict) else params or ()


def _read_all(response: requests.Response, *, within_s: float) -> bytes:
    """Returns the whole body. `requests` limits only the wait for each piece, not for all of them."""
    deadline = time.monotonic() + within_s
    pieces: list[bytes] = []
    size = 0
    while piece := response.raw.read1(_PIECE, decode_content=False):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_REPLY:
            raise _ReplyTooLargeError
        if time.monotonic() > deadline:
            raise requests.exceptions.ReadTimeout
    return b"".join(pieces)


def _redacted(path: str) -> str:
    """Returns the path for a message. Under /v1/acl/ it can hold a token."""
    return "/v1/acl/…" if path.startswith("/v1/acl/") else path
