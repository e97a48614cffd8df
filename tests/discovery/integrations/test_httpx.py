"""httpx code whose requests become calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from registry_admin.discovery import ServiceDiscoveryClient, SyncServiceDiscoveryClient
from registry_admin.discovery.testing import FakeResponse, Unreachable, fake_services
from registry_admin.errors import CallFailedError, DeadlineExceededError, NoSuchServiceError
from tests.parts import refusing_port

httpx = pytest.importorskip("httpx")
transports = pytest.importorskip("registry_admin.discovery.integrations.httpx")


class AnyHttpx:
    """An httpx client of either kind over the transport."""

    def __init__(self, kind: str, registry: Any) -> None:
        self._runner = asyncio.Runner()
        if kind == "sync":
            self._close = lambda: None
            self._client = httpx.Client(transport=transports.ServiceTransport(SyncServiceDiscoveryClient(registry)))
        else:
            client = ServiceDiscoveryClient(registry)
            self._client = httpx.AsyncClient(transport=transports.AsyncServiceTransport(client))
            self._close = client.close

    def run(self, result: Any) -> Any:
        return self._runner.run(result) if asyncio.iscoroutine(result) else result

    def request(self, method: str, url: str, **options: Any) -> Any:
        return self.run(self._client.request(method, url, **options))

    def close(self) -> None:
        self.run(self._client.aclose() if hasattr(self._client, "aclose") else self._client.close())
        self.run(self._close())
        self._runner.close()


@pytest.fixture(params=["sync", "async"])
def code(request: pytest.FixtureRequest, registry: Any) -> Iterator[AnyHttpx]:
    client = AnyHttpx(request.param, registry)
    yield client
    client.close()


def test_request_reaches_a_healthy_instance_with_its_arguments(code, add, http_service):
    service = http_service(body=b"fine", headers={"X-Answer": "1"})
    add(service)
    for _ in range(2):
        response = code.request(
            "POST", "http://api.service/publish", params={"a": "b c"}, json={"t": 1}, headers={"X-Own": "2"}
        )
    assert (response.status_code, response.text, response.headers["X-Answer"]) == (200, "fine", "1")
    sent = service.requests[1]
    assert (sent.method, sent.path, sent.body) == ("POST", "/publish?a=b+c", b'{"t":1}')
    headers = {name.lower(): value for name, value in sent.headers.items()}
    assert (headers["x-own"], headers["host"]) == ("2", f"127.0.0.1:{service.port}")
    assert "x-request-timeout-ms" in headers


def test_dead_instance_costs_no_request(code, add, http_service):
    class Dead:
        host, port = "127.0.0.1", refusing_port()

    add(Dead)
    add(http_service(body=b"fine"))
    assert [code.request("GET", "http://api.service/").text for _ in range(10)] == ["fine"] * 10


def test_other_host_is_asked_as_usual(code, http_service):
    service = http_service(body=b"plain")
    assert code.request("GET", service.url).text == "plain"
    assert "x-request-timeout-ms" not in str(service.requests[0].headers).lower()


def test_redirect_within_the_service_is_followed(code, add, http_service):
    def answer(handler: Any, request: Any) -> None:
        if request.path == "/shop/a":
            handler.send_response(302)
            handler.send_header("Location", f"{service.url}/shop/b")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        else:
            service.plain_answer(handler, request)

    service = http_service(answer=answer)
    add(service, meta={"base_path": "/shop"})
    response = code.request("GET", "http://api.service/a", follow_redirects=True)
    assert str(response.url) == "http://api.service/b"
    assert [request.path for request in service.requests] == ["/shop/a", "/shop/b"]


def test_time_out_is_the_deadline_of_the_call(code, add, raw_service):
    add(raw_service(lambda connection: connection.recv(1)))
    with pytest.raises(httpx.ReadTimeout) as caught:
        code.request("GET", "http://api.service/", timeout=0.3)
    assert isinstance(caught.value.__cause__, DeadlineExceededError)
    assert "within 0.3 s" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "error", "cause"),
    [
        ("http://unknown.service/", "ConnectError", NoSuchServiceError),
        ("http://down.service/", "ConnectError", CallFailedError),
        ("http://api.service:80/", None, None),
        ("http://api.service:81/", "UnsupportedProtocol", type(None)),
    ],
)
def test_error_is_one_of_httpx(code, url: str, error: str | None, cause: Any):
    with fake_services({"api": lambda request: FakeResponse(body="fake", status=201), "down": Unreachable()}):
        if error is None:
            assert code.request("GET", url).status_code == 201
            return
        with pytest.raises(getattr(httpx, error)) as caught:
            code.request("GET", url)
    assert isinstance(caught.value.__cause__, cause)


def test_compressed_response_is_decoded_once(code, add, http_service, compressed: Callable[[bytes], bytes]):
    add(http_service(body=compressed(b"text" * 100), headers={"Content-Encoding": "gzip"}))
    assert code.request("GET", "http://api.service/").text == "text" * 100


@pytest.fixture
def compressed() -> Callable[[bytes], bytes]:
    import gzip

    return gzip.compress
