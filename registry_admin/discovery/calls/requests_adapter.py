"""Adapter for `requests`: sends URLs such as `http://backend-api.service/publish` to a healthy instance."""

from __future__ import annotations

from typing import Any, Unpack, cast
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.cookies import extract_cookies_to_jar
from urllib3.util import Timeout

from registry_admin.discovery.calls.client import SyncServiceDiscoveryClient, default_client
from registry_admin.discovery.calls.options import ClientOptions
from registry_admin.discovery.calls.service_url import own_headers, service_location, service_of
from registry_admin.discovery.http.response import RawResponse, ServiceResponse, set_content
from registry_admin.errors import DeadlineExceededError, InvalidValueError, RegistryError

# What a Session asks for unless told otherwise, which may be more than this client decodes.
_DEFAULT_CODINGS = requests.utils.default_headers()["Accept-Encoding"]


class ServiceAdapter(HTTPAdapter):
    """Sends requests to `NAME.service` through a client, and all others as usual."""

    def __init__(self, client: SyncServiceDiscoveryClient | None = None, **options: Unpack[ClientOptions]) -> None:
        super().__init__()
        self._options = options
        self._given_client = client
        self._client = client or (SyncServiceDiscoveryClient(**options) if options else None)

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a pickled Session keeps of it: the options. Raises TypeError if it was given a client."""
        if self._given_client is not None:
            raise TypeError("this adapter was given a client, which can't be pickled: make it with options instead")
        return {"options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Makes it anew from its options."""
        self.__init__(**state["options"])  # type: ignore[misc]

    def send(  # noqa: PLR0917 - the signature is that of requests
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002
        timeout: Any = None,
        verify: Any = True,  # noqa: FBT002
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Sends a request for a Session. `timeout` is the deadline of the whole call, in seconds; of a pair, the sum.

        Raises exceptions of `requests`, with the RegistryError as their cause.
        """
        parts = urlsplit(request.url or "")
        service = service_of(parts.hostname or "")
        if not service:
            return super().send(request, stream=stream, timeout=timeout, verify=verify, cert=cert, proxies=proxies)
        try:
            _refuse_port(request.url or "")
            client = self._client or default_client()
            response = client.call_service(
                service,
                f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/",
                method=request.method or "GET",
                headers={
                    name: _to_text(value)
                    for name, value in own_headers(request.headers).items()
                    if (name, value) != ("Accept-Encoding", _DEFAULT_CODINGS)
                },
                data=_read_body(request.body),
                timeout=_total_timeout_s(timeout),
            )
        except RegistryError as error:
            raise _to_requests_error(error, request) from error
        return _to_session_response(cast("ServiceResponse", response), request, self)


class SessionResponse(requests.Response):
    """A response for a Session, which must not follow a redirect to another host: credentials would go with it."""

    leaves_service = False

    @property
    def is_redirect(self) -> bool:
        """True if the Session is to follow the redirect."""
        return not self.leaves_service and super().is_redirect


def requests_adapter(
    client: SyncServiceDiscoveryClient | None = None, **options: Unpack[ClientOptions]
) -> ServiceAdapter:
    """Returns an adapter to mount: `session.mount("http://", requests_adapter())` makes `http://NAME.service/…` a call.

    Calls go through `client`, or through one made with `options`, or else through the process's own. Redirects within
    the service are followed, others are returned. `stream=True` works, but the response has been read by then.
    """
    return ServiceAdapter(client, **options)


def _to_session_response(
    response: ServiceResponse, request: requests.PreparedRequest, adapter: ServiceAdapter
) -> requests.Response:
    """Returns the response with the URL of the service; a Location on the instance becomes one on the service."""
    parts = urlsplit(request.url or "")
    service_url = f"{parts.scheme}://{parts.netloc}"
    converted = SessionResponse()
    converted.status_code, converted.reason, converted.elapsed = response.status_code, response.reason, response.elapsed
    converted.headers, converted.encoding = response.headers, response.encoding
    converted.url, converted.request = request.url or "", request
    converted.connection = adapter
    converted.raw = RawResponse(response.content, response.header_pairs)
    set_content(converted, response.content)
    extract_cookies_to_jar(converted.cookies, request, converted.raw)  # type: ignore[no-untyped-call]
    location = response.headers.get("Location", "")
    if location:
        location = service_location(location, instance_url=response.base_url, service_url=service_url)
        converted.headers["Location"] = location
    converted.leaves_service = not _is_within(urljoin(converted.url, location), service_url)
    return converted


def _refuse_port(url: str) -> None:
    """Raises InvalidValueError for a URL with a port: the instance's own is used."""
    try:
        port = urlsplit(url).port
    except ValueError:
        port = -1
    if port is not None:
        raise InvalidValueError("url", url, "leave the port out: each instance of the service has its own")


def _is_within(location: str, service_url: str) -> bool:
    try:
        parts = urlsplit(location)
    except ValueError:
        return False
    return f"{parts.scheme}://{parts.netloc}".lower() == service_url.lower()


def _to_text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _read_body(body: Any) -> bytes | None:
    """Reads a file or an iterator to its end, because a retry sends it again."""
    if body is None or isinstance(body, bytes):
        return body
    if isinstance(body, str):
        return body.encode()
    if hasattr(body, "read"):
        content = body.read()
        return content if isinstance(content, bytes) else str(content).encode()
    return b"".join(part if isinstance(part, bytes) else str(part).encode() for part in body)


def _total_timeout_s(timeout: Any) -> float | None:
    """Returns the seconds of `requests`' timeout, which may be a pair for connecting and reading.

    None, also within a pair, means the client's own timeout.
    """
    if isinstance(timeout, Timeout):
        timeout = (timeout.connect_timeout, timeout.read_timeout)
    if isinstance(timeout, tuple):
        return sum(timeout) if all(isinstance(part, int | float) for part in timeout) else None
    return timeout  # type: ignore[no-any-return]  # checked by the client


def _to_requests_error(error: RegistryError, request: requests.PreparedRequest) -> requests.RequestException:
    if isinstance(error, InvalidValueError):
        is_header = error.field.partition(".")[0] == "headers"
        kind = requests.exceptions.InvalidHeader if is_header else requests.exceptions.InvalidURL
        return kind(str(error), request=request)
    if isinstance(error, DeadlineExceededError):
        return requests.exceptions.ReadTimeout(str(error), request=request)
    return requests.exceptions.ConnectionError(str(error), request=request)
