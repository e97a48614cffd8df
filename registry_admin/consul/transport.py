"""How requests reach Consul: pooled connections, timeouts, the token in a header only, and errors mapped to ours.

It is plugged in where python-consul calls `connect` and py-consul `http_connect`, so everything goes through here.
`requests.Session` isn't used: what it adds (cookies, redirects, proxies, `.netrc`) must not happen between us and the
agent, and is more than half of a request's cost. Its adapter is, so that what takes its place in tests goes on working.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import consul.base
import requests
import requests.adapters
import urllib3
from requests.structures import CaseInsensitiveDict

from registry_admin.consul import validation
from registry_admin.consul.config import ConsulConfig
from registry_admin.errors import (
    ConsulPermissionError,
    ConsulRefusedError,
    ConsulUnavailableError,
    InvalidReplyError,
    InvalidValueError,
)

POOL_SIZE = 32
MAX_REPLY = 256 * 1024 * 1024  # bytes; 10,000 instances with their checks take about 10 MB
TOKEN_HEADER = "X-Consul-Token"  # noqa: S105 - its name, not its value
_PIECE = 64 * 1024

# Until Consul 1.17 an agent says 500 where it means 404; with ACLs on, even on deregistering.
_MEANS_NOT_FOUND = re.compile(r'Unknown (service|check)\b|No service registered with ID|CheckID ".*" does not have')

_PERMISSIONS: Sequence[tuple[str, str]] = (
    ("PUT /v1/agent/", "`service:write` for this service"),
    ("GET /v1/agent/self", "`agent:read`"),
    ("GET /v1/agent/", "`service:read` and `node:read`"),
    ("GET /v1/catalog/", "`service:read` and `node:read`"),
    ("GET /v1/health/", "`service:read` and `node:read`"),
)


class Transport(consul.base.HTTPClient):
    """A pool of connections to one agent: no proxies, no .netrc, no redirects, no cookies. Safe to share by threads."""

    def __init__(self, config: ConsulConfig) -> None:
        super().__init__(config.host, config.port, config.scheme, config.verify, config.cert)
        self.base_uri = config.url
        self._config = config
        self._headers = {"Accept": "*/*", "Accept-Encoding": "identity"}  # on loopback gzip doubles a large read's time
        if config.token:
            self._headers[TOKEN_HEADER] = config.token
        self._adapter, self._pid = _Adapter(), os.getpid()

    @property
    def adapter(self) -> requests.adapters.HTTPAdapter:
        """This process's connections: after a fork the inherited ones belong to the parent."""
        if self._pid != os.getpid():
            self._adapter, self._pid = _Adapter(), os.getpid()
        return self._adapter

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

        What a 404 means is the caller's to say. `path` holds no query; its segments are quoted here. A `token` among
        `params` moves into the header. `read_timeout` (seconds) is how long the reply's beginning may take.
        """
        prepared = self._prepared(method, path, params, data=data, headers=headers)
        timeout = (self._config.connect_timeout, read_timeout or self._config.read_timeout)
        try:
            response = self.adapter.send(
                prepared, stream=True, timeout=timeout, verify=self._config.verify, cert=self._config.cert
            )
            with response:
                body = _read_all(response, within_s=self._config.read_timeout)
        except (OSError, urllib3.exceptions.HTTPError) as error:  # OSError is the base of all of requests' own
            raise ConsulUnavailableError(f"Consul at {self.base_uri} {_what_happened(error)}.") from error
        except _ReplyTooLargeError:
            raise InvalidReplyError(f"Consul at {self.base_uri} gave a reply of more than {MAX_REPLY} bytes.") from None
        text = "" if raw and response.ok else body.decode("utf-8", "replace")
        code = response.status_code
        if code == 500 and _MEANS_NOT_FOUND.match(text):
            code = 404
        token = prepared.headers.get(TOKEN_HEADER)
        if code >= 300 and token:
            text = text.replace(token, "(token)")  # a proxy's error page may show the request that it got
        if code >= 300 and code != 404:
            raise _error_for(code, text, what=f"{method} {one_line(_shown(path))}", where=self.base_uri, token=token)
        return consul.base.Response(code, response.headers, body if raw else text)

    def _prepared(
        self, method: str, path: str, params: Any, *, data: str | bytes, headers: Mapping[str, str] | None
    ) -> requests.PreparedRequest:
        """The request as `requests` has it, with any token in a header only."""
        pairs = list(params.items() if isinstance(params, dict) else params or ())
        prepared = requests.PreparedRequest()
        prepared.headers = CaseInsensitiveDict(self._headers)
        prepared.headers.update(headers or {})
        token = dict(pairs).get("token") or prepared.headers.get(TOKEN_HEADER)
        if token:
            prepared.headers[TOKEN_HEADER] = validation.acl_token(token)
        query = urlencode([(key, value) for key, value in pairs if key != "token"])
        prepared.method, prepared.url = method, self.base_uri + _quoted(path) + (f"?{query}" if query else "")
        body = data.encode() if isinstance(data, str) else data
        if body or method != "GET":
            prepared.body = body or b""
            prepared.headers["Content-Length"] = str(len(prepared.body))
        return prepared


class _Adapter(requests.adapters.HTTPAdapter):
    """For one host only: its pool isn't searched for on each request, and cookies aren't looked for in each reply."""

    def __init__(self) -> None:
        super().__init__(pool_maxsize=POOL_SIZE, max_retries=0)
        self._pool: Any = None

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool = self._pool  # `close` in another thread may forget it meanwhile
        if pool is None:
            pool = self._pool = super().get_connection_with_tls_context(*args, **kwargs)
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


class _ReplyTooLargeError(Exception):
    """More came than any Consul has to say."""


def _read_all(response: requests.Response, *, within_s: float) -> bytes:
    """The whole body. `requests` limits only the wait for each piece, so a peer that drips could hold us for days."""
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


def _quoted(path: str) -> str:
    """The path with each segment quoted. A dot segment would reach another endpoint, so it never leaves here."""
    segments = path.split("/")
    if segments[:2] != ["", "v1"] or any(segment in ("", ".", "..") for segment in segments[1:-1]):
        raise InvalidValueError("path", path, "a name or ID must not be '.', '..' or hold them between slashes")
    if segments[-1] in (".", ".."):
        raise InvalidValueError("path", path, "a name or ID must not be '.' or '..'")
    return "/".join(quote(segment, safe=":@") for segment in segments)


def _shown(path: str) -> str:
    """For messages: under /v1/acl/ the path itself can be a token."""
    return "/v1/acl/…" if path.startswith("/v1/acl/") else path


def _what_happened(error: Exception) -> str:
    """In a person's words. The exception's own text is left out: it can hold the URL and much noise."""
    text = str(error).lower()
    if isinstance(error, requests.exceptions.SSLError):
        if "certificate" in text:
            return "can't be trusted: a TLS certificate was refused (are CONSUL_CACERT and CONSUL_CLIENT_CERT right?)"
        return "doesn't speak TLS as we do (are CONSUL_HTTP_SSL and the port right?)"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "didn't accept a connection in time"
    if isinstance(error, (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)) or "timed out" in text:
        return "didn't answer in time"
    if "refused" in text:
        return "refused the connection (is it running there?)"
    if "resolve" in text:
        return "can't be found: its host name is not known here"
    if any(word in text for word in ("aborted", "reset", "broken", "incompleteread", "incomplete read")):
        return "broke off the connection"
    if not isinstance(error, (requests.RequestException, urllib3.exceptions.HTTPError)):
        return "can't be spoken to: the files for TLS can't be read (CONSUL_CACERT, CONSUL_CLIENT_CERT)"
    return f"can't be reached ({type(error).__name__})"


def _error_for(
    status: int, text: str, *, what: str, where: str, token: str | None
) -> ConsulUnavailableError | ConsulRefusedError:
    said = one_line(text) or "no reason given"
    if status in (401, 403):
        return ConsulPermissionError(
            f"Consul at {where} denied {what}: {said}. {_remedy(text, what, token=token)}", status=status
        )
    if status < 400:
        message = f"Consul at {where} answered {what} with a redirect, which an agent never does."
        return InvalidReplyError(message, status=status)
    if status >= 500 or status == 429:
        return ConsulUnavailableError(f"Consul at {where} failed to answer {what} ({status}): {said}.", status=status)
    return ConsulRefusedError(f"Consul at {where} refused {what} ({status}): {said}.", status=status)


def _remedy(text: str, what: str, *, token: str | None) -> str:
    need = next((need for start, need in _PERMISSIONS if what.startswith(start)), "more permissions")
    if not token:
        return f"No token was sent; give one in CONSUL_HTTP_TOKEN that has {need}."
    if "acl not found" in text.lower():
        return f"Consul doesn't know this token: was it deleted? Give one in CONSUL_HTTP_TOKEN that has {need}."
    return f"The token needs {need}."


def one_line(text: str) -> str:
    """A reply's text, fit for an error message."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split())[:300]).rstrip(".")
