"""Fake services, for unit tests of code that calls services: no Consul, no sockets, the real client.

    with fake_services({"backend-api": app}):
        assert publish_card("Test") == 7  # calls call_service("backend-api", "/publish", …)

A fake is a WSGI or ASGI application, a function of a request, or a URL where the service really is. Only the named
services exist within the block: a call to any other one raises NoSuchServiceError, which lists those that there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import json
import sys
import time
from collections.abc import Awaitable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest import mock
from urllib.parse import unquote_to_bytes, urlsplit

from requests.structures import CaseInsensitiveDict

from registry_admin.consul.health import Health
from registry_admin.consul.types import ServiceInstance
from registry_admin.discovery.http import in_process
from registry_admin.discovery.http.in_process import Answer, SentRequest
from registry_admin.discovery.instances.load_balancing import InstanceGroup
from registry_admin.discovery.instances.outlier_detection import Endpoint, OutlierDetector
from registry_admin.discovery.instances.registry_cache import RegistryCache
from registry_admin.discovery.instances.response_times import ResponseTimes
from registry_admin.discovery.instances.retry_budget import RetryBudget
from registry_admin.errors import InvalidValueError, NoHealthyInstanceError, NoSuchServiceError

Fake = Any  # a WSGI or ASGI application, a function of a FakeRequest, or a URL
_PARAMETERS = {1: "function", 2: "WSGI", 3: "ASGI"}


@dataclass(frozen=True, kw_only=True)
class FakeRequest:
    """A request that a fake function answers. `path` is decoded, `query` is as it was sent."""

    service: str
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class FakeResponse:
    """A response of a fake function: a body of bytes, text or anything that JSON can hold."""

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self, method: str) -> bytes:
        """Returns the reply as it would come over a connection."""
        headers = CaseInsensitiveDict(self.headers)
        body = self.body
        if isinstance(body, str):
            body = body.encode()
            headers.setdefault("Content-Type", "text/plain; charset=utf-8")
        elif not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        return _encode_reply(self.status, list(headers.items()), body, method=method)


class Unreachable:
    """A fake whose only instance refuses connections: `fake_services({"backend-api": Unreachable()})`."""


class Unhealthy:
    """A fake without a healthy instance: calls raise NoHealthyInstanceError."""


@contextlib.contextmanager
def fake_services(services: Mapping[str, Fake]) -> Iterator[None]:
    """Makes these the only services within the block, for all clients of the process, new and old.

    Raises InvalidValueError for a fake of another kind.
    """
    fakes = {name: _FakeService(name, fake) for name, fake in services.items()}

    def service_cache(_registry_cache: RegistryCache, service: str) -> _FakeService:
        fake = fakes.get(service)
        if fake is None:
            names = ", ".join(sorted(fakes)) or "none"
            raise NoSuchServiceError(service, f"There is no fake of {service!r} in this test. There are: {names}.")
        return fake

    answers = {fake.url: fake.answer for fake in fakes.values() if fake.answer is not None}
    with mock.patch.object(RegistryCache, "service_cache", service_cache), mock.patch.dict(in_process.answers, answers):
        yield


class _FakeService:
    """Stands in for a ServiceCache: one instance, which is known at once."""

    def __init__(self, service: str, fake: Fake) -> None:
        self.url, self.answer, self._health = f"http://{service}.fake:80", None, Health.PASSING
        if isinstance(fake, str):
            self.url = _check_url(service, fake)
        elif isinstance(fake, Unhealthy):
            self._health = Health.CRITICAL
        else:
            self.answer = _refuse if isinstance(fake, Unreachable) else _answer_of(service, fake)
        parts = urlsplit(self.url)
        self.instance = ServiceInstance(
            service=service,
            id=f"{service}-fake",
            address=parts.hostname or "",
            port=parts.port or (443 if parts.scheme == "https" else 80),
            meta={"scheme": parts.scheme},
            health=self._health,
        )
        endpoint = Endpoint(self.instance, OutlierDetector(), now=time.monotonic(), warm=True)
        endpoint.url = self.url
        self._group = InstanceGroup([endpoint])
        self.retry_budget = RetryBudget(clock=time.monotonic)
        self.response_times = ResponseTimes()

    def cached_group(self, tag: str | None, *, same_node: bool) -> InstanceGroup:  # noqa: ARG002 - as ServiceCache
        """Returns the group of the one instance. Raises NoHealthyInstanceError where it is Unhealthy."""
        if self._health is not Health.PASSING:
            service = self.instance.service
            raise NoHealthyInstanceError(service, instances=[f"{self.instance.id} is critical: it is fake"])
        return self._group


def _check_url(service: str, url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/"):
        raise InvalidValueError(service, url, "give the root URL of the service, such as http://127.0.0.1:8000")
    return url.rstrip("/")


def _answer_of(service: str, fake: Fake) -> Answer:
    if not callable(fake):
        reason = "give a WSGI or ASGI application, a function of a request, or a URL"
        raise InvalidValueError(service, f"({type(fake).__name__})", reason)
    positional = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    parameters = inspect.signature(fake).parameters.values()
    required = [entry for entry in parameters if entry.default is entry.empty and entry.kind in positional]
    kind = _PARAMETERS.get(len(required))
    if kind == "ASGI":
        return lambda request: _answer_by_asgi(fake, request)
    if kind == "WSGI":
        return lambda request: _answer_by_wsgi(fake, request)
    if kind == "function":
        return lambda request: _answer_by_function(fake, service, request)
    raise InvalidValueError(service, "(a callable)", "give a function with one argument, or a WSGI or ASGI application")


def _refuse(_request: SentRequest) -> bytes:
    raise ConnectionRefusedError("this fake is unreachable")


def _answer_by_function(function: Any, service: str, request: SentRequest) -> bytes | Coroutine[Any, Any, bytes]:
    path, _, query = request.target.partition("?")
    result = function(
        FakeRequest(
            service=service,
            method=request.method,
            path=unquote_to_bytes(path).decode("utf-8", "replace"),
            query=query,
            headers=CaseInsensitiveDict(request.headers),
            body=request.body,
        )
    )
    return _encode_awaited(result, request) if inspect.isawaitable(result) else _encode_result(result, request)


async def _encode_awaited(result: Awaitable[Any], request: SentRequest) -> bytes:
    return _encode_result(await result, request)


def _encode_result(result: Any, request: SentRequest) -> bytes:
    response = result if isinstance(result, FakeResponse) else FakeResponse(body=result)
    return response.encode(request.method)


def _answer_by_wsgi(app: Any, request: SentRequest) -> bytes | Coroutine[Any, Any, bytes]:
    """Answers on the caller's thread, so that it sees the test's database; beside an event loop on another one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _call_wsgi(app, request)
    return asyncio.to_thread(_call_wsgi, app, request)


def _call_wsgi(app: Any, request: SentRequest) -> bytes:
    path, _, query = request.target.partition("?")
    started: list[Any] = []
    parts: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], _error: object = None) -> Any:
        started[:] = [int(status.split(maxsplit=1)[0]), headers]
        return parts.append

    environ = {
        "REQUEST_METHOD": request.method, "SCRIPT_NAME": "", "QUERY_STRING": query,
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"), "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "testserver", "SERVER_PORT": "80", "REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "testserver",
        "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr, "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False,
    }  # fmt: skip
    for name, value in request.headers.items():
        key = name.upper().replace("-", "_")
        environ[key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}"] = value
    result = app(environ, start_response)
    try:
        parts.extend(result)
    finally:
        if hasattr(result, "close"):
            result.close()
    status, headers = started
    return _encode_reply(status, headers, b"".join(parts), method=request.method)


async def _answer_by_asgi(app: Any, request: SentRequest) -> bytes:
    path, _, query = request.target.partition("?")
    started: dict[str, Any] = {}
    body = bytearray()
    received = False

    async def receive() -> dict[str, Any]:
        nonlocal received
        if received:
            return {"type": "http.disconnect"}
        received = True
        return {"type": "http.request", "body": request.body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        elif message["type"] == "http.response.body":
            body.extend(message.get("body", b""))

    sent = {"host": "testserver", **{name.lower(): value for name, value in request.headers.items()}}
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": request.method, "scheme": "http",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"), "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"), "root_path": "", "server": ("testserver", 80),
        "client": ("127.0.0.1", 1), "headers": headers,
    }  # fmt: skip
    await app(scope, receive, send)
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in started.get("headers", ())]
    return _encode_reply(started["status"], pairs, bytes(body), method=request.method)


def _encode_reply(status: int, headers: list[tuple[str, str]], body: bytes, *, method: str) -> bytes:
    lines = [f"HTTP/1.1 {status} ", *(f"{name}: {value}" for name, value in headers)]
    if not any(name.lower() in {"content-length", "transfer-encoding"} for name, _ in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if method == "HEAD" else body)
