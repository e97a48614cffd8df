"""A Session of `requests`, with URLs that end in `.service`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from registry_admin.discovery import requests_adapter
from registry_admin.discovery.client import SyncServiceDiscoveryClient
from registry_admin.errors import InvalidValueError, NoSuchServiceError
from tests.parts import free_port


@pytest.fixture
def session(registry: Any) -> Iterator[requests.Session]:
    """What existing code has, with one line more."""
    with requests.Session() as session, SyncServiceDiscoveryClient(registry) as client:
        session.trust_env = False
        session.mount("http://", requests_adapter(client))
        yield session


def test_existing_code_reaches_a_healthy_instance(session, add, http_service):
    service = http_service(body=b'{"id": 7}', headers={"Content-Type": "application/json"})
    add(service)
    response = session.post("http://api.service/publish?q=a", json={"title": "Test"}, headers={"X-Own": "1"}, timeout=5)
    assert (response.status_code, response.json(), response.url) == (200, {"id": 7}, "http://api.service/publish?q=a")
    (received,) = service.requests
    sent = {name.lower(): value for name, value in received.headers.items()}
    assert (received.method, received.path, received.body) == ("POST", "/publish?q=a", b'{"title": "Test"}')
    assert (sent["x-own"], sent["host"]) == ("1", f"127.0.0.1:{service.port}")
    assert 0 < int(sent["x-request-timeout-ms"]) <= 5000


def test_a_dead_instance_is_walked_around(session, add, http_service):
    service = http_service()
    add(service)

    class Dead:
        host, port = "127.0.0.1", free_port()

    add(Dead)
    assert [session.get("http://api.service/").status_code for _ in range(10)] == [200] * 10
    assert len(service.requests) == 10


def test_other_hosts_are_called_as_usual(session, http_service):
    service = http_service(body=b"plain")
    assert session.get(f"{service.url}/x").text == "plain"
    assert "X-Request-ID" not in service.requests[0].headers


@pytest.mark.parametrize("data", [b"raw", "raw", iter([b"r", b"aw"])])
def test_a_body_is_sent_in_whatever_form_it_comes(session, add, http_service, data):
    service = http_service()
    add(service)
    session.post("http://api.service/", data=data)
    assert service.requests[0].body == b"raw"


def test_a_file_is_sent(session, add, http_service, tmp_path):
    service = http_service()
    add(service)
    (tmp_path / "card.txt").write_bytes(b"in a file")
    with (tmp_path / "card.txt").open("rb") as file:
        session.put("http://api.service/", data=file)
    assert service.requests[0].body == b"in a file"


def test_a_stream_can_be_read_in_pieces(session, add, http_service):
    add(http_service(body=b"one\ntwo\n"))
    with session.get("http://api.service/", stream=True) as response:
        assert list(response.iter_lines()) == [b"one", b"two"]


def test_cookies_are_kept_by_the_session(session, add, http_service):
    service = http_service(headers={"Set-Cookie": "token=abc; Path=/"})
    add(service)
    session.get("http://api.service/")
    session.get("http://api.service/")
    assert [request.headers.get("Cookie") for request in service.requests] == [None, "token=abc"]


@pytest.mark.parametrize("location", ["/new", "http://api.service/new", "{instance}/new", "new"])
def test_a_redirect_within_the_service_is_followed(session, add, http_service, location):
    def answer(handler: Any, request: Any) -> None:
        moved = request.path == "/old"
        handler.send_response(302 if moved else 200)
        if moved:
            handler.send_header("Location", location.format(instance=service.url))
        handler.send_header("Content-Length", "0" if moved else "4")
        handler.end_headers()
        handler.wfile.write(b"" if moved else b"here")

    service = http_service(answer=answer)
    add(service)
    response = session.get("http://api.service/old")
    assert (response.text, response.url) == ("here", "http://api.service/new")


@pytest.mark.parametrize("location", ["http://127.0.0.1:{port}/x", "//127.0.0.1:{port}/x", "https://evil.example/"])
def test_a_redirect_to_elsewhere_is_returned_and_no_credentials_leave(session, add, http_service, location):
    elsewhere = http_service()
    service = http_service(status=302, headers={"Location": location.format(port=elsewhere.port)})
    add(service)
    response = session.get("http://api.service/", auth=("user", "secret"), headers={"X-Token": "secret"})
    assert (response.status_code, response.history, elsewhere.requests) == (302, [], [])


def test_errors_are_those_of_requests_with_ours_as_their_cause(session, add, http_service):
    with pytest.raises(requests.ConnectionError, match="knows no service 'nobody'") as caught:
        session.get("http://nobody.service/")
    assert isinstance(caught.value.__cause__, NoSuchServiceError)
    with pytest.raises(requests.exceptions.InvalidURL) as refused:
        session.get("http://api.service/a/%2e%2e/%00")
    assert isinstance(refused.value.__cause__, InvalidValueError)


def test_a_timeout_is_the_deadline_of_the_whole_call(session, add, raw_service):
    add(raw_service(lambda connection: connection.recv(1)))
    for timeout in (0.2, (0.1, 0.1)):
        with pytest.raises(requests.Timeout, match=r"within 0\.2 s"):
            session.get("http://api.service/", timeout=timeout)
