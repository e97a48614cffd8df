"""For code that uses `requests`: URLs such as `http://backend-api.service/publish` go to a healthy instance."""

from __future__ import annotations

import http.client
import io
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, Unpack, cast
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.cookies import extract_cookies_to_jar
from urllib3.util import Timeout

from registry_admin.discovery.client import ClientOptions, SyncServiceDiscoveryClient, default_client
from registry_admin.discovery.reply import Reply
from registry_admin.errors import DeadlineExceededError, InvalidValueError, RegistryError

SUFFIX = ".service"
_OURS = frozenset({"connection", "content-length", "host", "transfer-encoding"})  # the client sets them itself


class ServiceAdapter(HTTPAdapter):
    """Sends what goes to `NAME.service` through a client, and anything else as usual."""

    def __init__(self, client: SyncServiceDiscoveryClient | None = None) -> None:
        super().__init__()
        self._client = client

    def send(  # noqa: PLR0917 - the signature is that of requests
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002
        timeout: Any = None,
        verify: Any = True,  # noqa: FBT002
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """As `requests` calls it. A service's errors are raised as those of `requests`, with ours as their cause.

        `timeout` is the deadline of the whole call; of a pair, the sum.
        """
        parts = urlsplit(request.url or "")
        host = parts.hostname or ""
        if not host.endswith(SUFFIX):
            return super().send(request, stream=stream, timeout=timeout, verify=verify, cert=cert, proxies=proxies)
        service = host.removesuffix(SUFFIX)
        try:
            client = self._client or default_client()
            reply = client.call_service(
                service,
                f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/",
                method=request.method or "GET",
                headers={name: _text(value) for name, value in request.headers.items() if name.lower() not in _OURS},
                data=_body(request.body),
                timeout=_seconds(timeout),
            )
        except RegistryError as error:
            raise _as_requests_has_it(error, request) from error
        return _handed_over(cast("Reply", reply), request, self)


class ServiceResponse(requests.Response):
    """Tells a Session not to follow a redirect that leaves the service: credentials would go with it."""

    leaves = False

    @property
    def is_redirect(self) -> bool:
        """Whether the Session is to follow it."""
        return not self.leaves and super().is_redirect


def requests_adapter(
    client: SyncServiceDiscoveryClient | None = None, **options: Unpack[ClientOptions]
) -> ServiceAdapter:
    """To be mounted: `session.mount("http://", requests_adapter())`. From then on `http://NAME.service/…` is a call.

    It goes through `client`, or one made with these options, or else the process's own. Redirects within the service
    are followed, others are returned. `stream=True` works, but the reply has been read by then.
    """
    return ServiceAdapter(client or (SyncServiceDiscoveryClient(**options) if options else None))


class _Raw(io.BytesIO):
    """What a Session reads cookies from."""

    def __init__(self, content: bytes, pairs: Iterable[tuple[str, str]]) -> None:
        super().__init__(content)
        message = http.client.HTTPMessage()
        for name, value in pairs:
            message[name] = value
        self._original_response = SimpleNamespace(msg=message)

    def release_conn(self) -> None:
        """There is none."""


def _handed_over(reply: Reply, request: requests.PreparedRequest, adapter: ServiceAdapter) -> requests.Response:
    """The reply as one of the Session's own: by the service's URL, with a location that stays within the service."""
    parts = urlsplit(request.url or "")
    service = f"{parts.scheme}://{parts.netloc}"
    response = ServiceResponse()
    response.status_code, response.reason, response.elapsed = reply.status_code, reply.reason, reply.elapsed
    response.headers, response.encoding = reply.headers, reply.encoding
    response.url, response.request = request.url or "", request
    response.connection = adapter
    response.raw = _Raw(reply.content, reply.pairs)
    response._content = reply.content  # noqa: SLF001 - the only way to make one that is read already
    response._content_consumed = True  # type: ignore[attr-defined]  # noqa: SLF001
    extract_cookies_to_jar(response.cookies, request, response.raw)  # type: ignore[no-untyped-call]
    location = reply.headers.get("Location", "")
    if location == reply.root or location.startswith((f"{reply.root}/", f"{reply.root}?")):
        location = response.headers["Location"] = service + location[len(reply.root) :]
    response.leaves = not _stays(urljoin(response.url, location), service)
    return response


def _stays(location: str, service: str) -> bool:
    try:
        parts = urlsplit(location)
    except ValueError:
        return False
    return f"{parts.scheme}://{parts.netloc}".lower() == service.lower()


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _body(body: Any) -> bytes | None:
    """Read to its end, because it may have to be sent again."""
    if body is None or isinstance(body, bytes):
        return body
    if isinstance(body, str):
        return body.encode()
    if hasattr(body, "read"):
        read = body.read()
        return read if isinstance(read, bytes) else str(read).encode()
    return b"".join(part if isinstance(part, bytes) else str(part).encode() for part in body)


def _seconds(timeout: Any) -> float | None:
    """A pair is for connecting and for reading; None in it, or in its place, means the client's own."""
    if isinstance(timeout, Timeout):
        timeout = (timeout.connect_timeout, timeout.read_timeout)
    if isinstance(timeout, tuple):
        return sum(timeout) if all(isinstance(part, int | float) for part in timeout) else None
    return timeout  # type: ignore[no-any-return]  # checked by the client


def _as_requests_has_it(error: RegistryError, request: requests.PreparedRequest) -> requests.RequestException:
    if isinstance(error, InvalidValueError):
        kind = requests.exceptions.InvalidHeader if error.field == "headers" else requests.exceptions.InvalidURL
        return kind(str(error), request=request)
    if isinstance(error, DeadlineExceededError):
        return requests.exceptions.ReadTimeout(str(error), request=request)
    return requests.exceptions.ConnectionError(str(error), request=request)
