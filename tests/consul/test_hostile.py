"""Whatever a caller gives, and whatever a service says: a typed error in time, and nothing goes where it must not."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable

import pytest
import requests
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from registry_admin.discovery.request import build_request
from registry_admin.errors import (
    CallFailedError,
    DeadlineExceededError,
    InvalidValueError,
    NoHealthyInstanceError,
)
from tests.consul.raw_service import OK, endless, trickle
from tests.parts import HttpService

# -- what a call is ------------------------------------------------------------------------------------------


# -- where it may go -----------------------------------------------------------------------------------------


@pytest.fixture
def service(add: Callable[..., str], http_service: Callable[..., HttpService]) -> HttpService:
    """The only instance of `api`."""
    made = http_service()
    add(made)
    return made


def nasty_paths() -> st.SearchStrategy[str]:
    parts = [
        "/",
        "//",
        ".",
        "..",
        "%2e",
        "%2F",
        "%5c",
        "\\",
        "@",
        ":",
        "evil",
        "a",
        "?",
        "#",
        ";",
        "[",
        "%00",
        "%25",
        "~",
    ]
    return st.text() | st.lists(st.sampled_from(parts)).map("".join).map("/{}".format) | st.text().map("/{}".format)


@given(path=nasty_paths())
@example(path="/a[1]?b=[%2f]")
@example(path="/%41%7e'()*!$,")
@example(path="/?")
@example(path="/??")
@example(path="/a%2fb;c=1/@x:1")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_path_is_refused_or_reaches_exactly_the_chosen_host_beneath_its_root(caller, service, path):
    service.requests.clear()
    try:
        caller.get("api", path)
    except InvalidValueError:
        assert not service.requests
        return
    (received,) = service.requests
    assert received.headers["Host"] == f"127.0.0.1:{service.port}"
    assert received.path == build_request("api", path).target
    assert received.path.startswith("/")
    assert not re.search(r"(^|/)\.{1,2}(/|$)", received.path.partition("?")[0])
    assert requests.utils.unquote(received.path.rstrip("?")) == requests.utils.unquote(path.rstrip("?"))


@pytest.mark.parametrize("location", ["http://evil.example/", "//evil.example/x", "/again"])
def test_a_redirect_is_returned_and_not_followed(caller, add, http_service, location):
    service = http_service(status=302, headers={"Location": location})
    add(service)
    response = caller.get("api", headers={"Authorization": "Bearer secret"})
    assert (response.status_code, response.headers["Location"]) == (302, location)
    assert len(service.requests) == 1


@pytest.mark.parametrize(("address", "port"), [("evil@host", 80), ("127.1", 80), ("a b", 80), ("127.0.0.1", 0)])
def test_an_instance_at_an_address_that_is_none_is_never_called(caller, consul_agent, registry, address, port):
    body = {"ID": "bad", "Name": "api", "Address": address, "Port": port}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    with pytest.raises(NoHealthyInstanceError, match="can't be called"):
        caller.get("api")


def test_an_ipv6_instance_is_called_by_its_own_name(caller, add, http_service):
    try:
        service = http_service(host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    add(service)
    assert caller.get("api").status_code == 200
    assert service.requests[0].headers["Host"] == f"[::1]:{service.port}"


# -- hostile services ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        trickle(OK + b"Content-Length: 300\r\n\r\n"),
        trickle(OK + b"\r\n"),
        trickle(OK + b"X-Slow: "),
        trickle(b"HTTP/1.1 200 "),
        trickle(OK + b"Transfer-Encoding: chunked\r\n\r\n12c\r\n"),
        trickle(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: "),
        lambda connection: [connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n") for _ in iter(int, 1)],
        lambda connection: connection.recv(1),
    ],
    ids=["body", "body without length", "header", "status", "chunk", "trailer", "endless 100", "silence"],
)
def test_a_slow_reply_meets_the_deadline(caller, add, raw_service, answer):
    add(raw_service(answer))
    with pytest.raises(DeadlineExceededError, match=r"within 0\.5 s"):
        caller.post("api", timeout=0.5)


@pytest.mark.parametrize(
    "head",
    [
        OK + b"Content-Length: 10737418240\r\n\r\n",
        OK + b"\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"ffffffff\r\n",
    ],
    ids=["announced", "unannounced", "chunked"],
)
def test_an_endless_body_is_cut_off(make_client, add, raw_service, head):
    service = raw_service(endless(head))
    add(service)
    with pytest.raises(CallFailedError, match="larger than 1000000 bytes"):
        make_client(body_limit=1_000_000).get("api")
    assert service.requests == 1


def test_a_decompression_bomb_is_cut_off(make_client, add, http_service):
    add(http_service(body=gzip.compress(bytes(50_000_000)), headers={"Content-Encoding": "gzip"}))
    with pytest.raises(CallFailedError, match="larger than 1000000 bytes"):
        make_client(body_limit=1_000_000).get("api")


BROKEN = {
    "truncated chunked": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
    "truncated body": OK + b"Content-Length: 10\r\n\r\nhel",
    "truncated head": OK + b"Content-",
    "head without an end": OK + b"X: y\r\n",
    "bad chunk": OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "nothing": b"",
    "huge header": OK + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
    "many headers": OK + b"X: a\r\n" * 100_000 + b"\r\n",
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
def test_a_broken_reply_to_a_post_is_not_asked_for_again(caller, add, raw_service, reply):
    services = [raw_service(reply), raw_service(reply)]
    for service in services:
        add(service)
    with pytest.raises(CallFailedError) as caught:
        caller.post("api", json={})
    assert sum(service.requests for service in services) == 1
    assert len(caught.value.attempts) == 1
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("retry_after", ["31536000", "-1", "nonsense", "Fri, 31 Dec 2999 23:59:59 GMT"])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_for_the_caller_to_judge(caller, add, http_service, status, retry_after):
    add(http_service(status=status, headers={"Retry-After": retry_after}))
    response = caller.get("api")
    assert (response.status_code, response.headers["Retry-After"]) == (status, retry_after)
