"""A Session of `requests` that calls services by URLs such as `http://api.service/`."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from registry_admin.discovery import requests_adapter
from registry_admin.discovery.calls.client import SyncServiceDiscoveryClient
from registry_admin.errors import InvalidValueError, NoSuchServiceError
from tests.parts import free_port


@pytest.fixture
def session(registry: Any) -> Iterator[requests.Session]:
    """A Session with the adapter."""
    with requests.Session() as session, SyncServiceDiscoveryClient(registry) as client:
        session.trust_env = False
        session.mount("http://", requests_adapter(client))
        yield session


def test_session_reaches_a_healthy_instance_with_its_arguments(session, add, http_service):
    service = http_service(body=b'{"id": 7}', headers={"Content-Type": "application/json"})
    add(service)
    response = session.post("http://api.service/publish?q=a", json={"title": "Test"}, headers={"X-Own": "1"}, timeout=5)
    assert (response.status_code, response.json(), response.url) == (200, {"id": 7}, "http://api.service/publish?q=a")
    (received,) = service.requests
    sent = {name.lower(): value for name, value in received.headers.items()}
    assert (received.method, received.path, received.body) == ("POST", "/publish?q=a", b'{"title": "Test"}')
    assert (sent["x-own"], sent["host"]) == ("1", f"127.0.0.1:{service.port}")
    assert 0 < int(sent["x-request-timeout-ms"]) <= 5000


def test_dead_instance_costs_no_call(session, add, http_service):
    service = http_service()
    add(service)

    class Dead:
        host, port = "127.0.0.1", free_port()

    add(Dead)
    assert [session.get("http://api.service/").status_code for _ in range(10)] == [200] * 10
    assert len(service.requests) == 10


def test_session_calls_other_hosts_as_usual(session, http_service):
    service = http_service(body=b"plain")
    assert session.get(f"{service.url}/x").text == "plain"
    assert "X-Request-ID" not in service.requests[0].headers


@pytest.mark.parametrize("data", [b"raw", "raw", iter([b"r", b"aw"])])
def test_body_of_any_form_is_sent(session, add, http_service, data):
    service = http_service()
    add(service)
    session.post("http://api.service/", data=data)
    assert service.requests[0].body == b"raw"


def test_file_is_sent(session, add, http_service, tmp_path):
    service = http_service()
    add(service)
    (tmp_path / "card.txt").write_bytes(b"in a file")
    with (tmp_path / "card.txt").open("rb") as file:
        session.put("http://api.service/", data=file)
    assert service.requests[0].body == b"in a file"


def test_streamed_response_can_be_read_in_lines(session, add, http_service):
    add(http_service(body=b"first\nsecond\n"))
    with session.get("http://api.service/", stream=True) as response:
        assert list(response.iter_lines()) == [b"first", b"second"]


def test_session_sends_cookies_back(session, add, http_service):
    service = http_service(headers={"Set-Cookie": "token=abc; Path=/"})
    add(service)
    session.get("http://api.service/")
    session.get("http://api.service/")
    assert [request.headers.get("Cookie") for request in service.requests] == [None, "token=abc"]


@pytest.mark.parametrize("location", ["/new", "http://api.service/new", "{instance}/new", "new"])
def test_redirect_within_the_service_is_followed(session, add, http_service, location):
    def answer(handler: Any, request: Any) -> None:
        moved = request.path == "/old"
        handler.send_response(302 if moved else 200)
        if moved:
            handler.send_header("Location", location.format(instance=service.url))
        handler.send_header("Content-Length", "0" if moved else "5")
        handler.end_headers()
        handler.wfile.write(b"" if moved else b"moved")

    service = http_service(answer=answer)
    add(service)
    response = session.get("http://api.service/old")
    assert (response.text, response.url) == ("moved", "http://api.service/new")


def test_redirect_below_a_base_path_is_followed(session, add, http_service):
    def answer(handler, request):
        if request.path == "/shop/a":
            handler.send_response(302)
            handler.send_header("Location", "/shop/b")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        else:
            service.plain_answer(handler, request)

    service = http_service(answer=answer)
    add(service, meta={"base_path": "/shop"})
    assert session.get("http://api.service/a").url == "http://api.service/b"
    assert [request.path for request in service.requests] == ["/shop/a", "/shop/b"]


@pytest.mark.parametrize("location", ["http://127.0.0.1:{port}/x", "//127.0.0.1:{port}/x", "https://evil.example/"])
def test_redirect_to_another_host_is_returned_and_not_followed(session, add, http_service, location):
    elsewhere = http_service()
    service = http_service(status=302, headers={"Location": location.format(port=elsewhere.port)})
    add(service)
    response = session.get("http://api.service/", auth=("user", "secret"), headers={"X-Token": "secret"})
    assert (response.status_code, response.history, elsewhere.requests) == (302, [], [])


def test_error_is_one_of_requests_with_the_registry_error_as_its_cause(session, add, http_service):
    with pytest.raises(requests.ConnectionError, match="knows no service 'nobody'") as caught:
        session.get("http://nobody.service/")
    assert isinstance(caught.value.__cause__, NoSuchServiceError)
    with pytest.raises(requests.exceptions.InvalidURL) as refused:
        session.get("http://api.service/a/%2e%2e/%00")
    assert isinstance(refused.value.__cause__, InvalidValueError)


def test_timeout_is_the_deadline_of_the_whole_call(session, add, raw_service):
    add(raw_service(lambda connection: connection.recv(1)))
    for timeout in (0.2, (0.1, 0.1)):
        with pytest.raises(requests.Timeout, match=r"within 0\.2 s"):
            session.get("http://api.service/", timeout=timeout)


# -- headers, ports, pickling ------------------------------------------------------------------------------------------


def test_session_asks_for_no_coding_that_the_client_does_not_decode(session, add, http_service):
    service = http_service()
    add(service)
    session.headers["Accept-Encoding"] = requests.utils.default_headers()["Accept-Encoding"]
    session.get("http://api.service/")
    assert service.requests[-1].headers["Accept-Encoding"] == "identity"
    session.get("http://api.service/", headers={"Accept-Encoding": "gzip;q=0.5"})
    assert service.requests[-1].headers["Accept-Encoding"] == "gzip;q=0.5"


def test_head_of_a_large_resource_returns_its_length(registry, add, http_service):
    service = http_service(headers={"Content-Length": "1000000"}, body=b"")
    add(service)
    with requests.Session() as session, SyncServiceDiscoveryClient(registry, body_limit=1000) as client:
        session.mount("http://", requests_adapter(client))
        assert session.head("http://api.service/").headers["Content-Length"] == "1000000"


def test_file_is_sent_as_it_is(session, add, http_service):
    service = http_service()
    add(service)
    session.post("http://api.service/", data=io.BytesIO(b"a\nb\n"))
    assert service.requests[-1].body == b"a\nb\n"
    assert "Content-Type" not in service.requests[-1].headers


@pytest.mark.parametrize(
    ("url", "headers", "error"),
    [
        ("http://api.service:8080/", {}, requests.exceptions.InvalidURL),
        ("http://api.service:80/", {}, requests.exceptions.InvalidURL),
        ("http://api.service/", {"X-Consul-Token": "secret"}, requests.exceptions.InvalidHeader),
    ],
)
def test_url_or_header_that_can_not_be_sent_is_refused_as_such(session, url, headers, error):
    with pytest.raises(error):
        session.get(url, headers=headers)


def test_pickled_session_keeps_its_options(registry, add, http_service, monkeypatch):
    monkeypatch.setenv("CONSUL_HTTP_ADDR", f"{registry.api.config.host}:{registry.api.config.port}")
    service = http_service(body=b"x" * 100)
    add(service)
    with requests.Session() as session:
        session.mount("http://", requests_adapter(body_limit=10))
        with (
            pickle.loads(pickle.dumps(session)) as copy,
            pytest.raises(requests.ConnectionError, match="larger than 10"),
        ):
            copy.get("http://api.service/")
        session.mount("http://", requests_adapter(body_limit=100))
        with pickle.loads(pickle.dumps(session)) as copy:
            assert copy.get("http://api.service/").content == b"x" * 100


def test_session_whose_adapter_was_given_a_client_refuses_to_be_pickled(session):
    with pytest.raises(TypeError, match="make it with options"):
        pickle.dumps(session)
