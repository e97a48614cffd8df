"""Hostile arguments, addresses and redirects: each is refused with a typed error and reaches no other host."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from registry_admin.consul import ConsulConfig, ServiceRegistry
from registry_admin.discovery.http.request import build_request
from registry_admin.errors import (
    CallFailedError,
    ConsulUnavailableError,
    InvalidValueError,
    NoHealthyInstanceError,
)
from tests.parts.raw_service import FINE, RawService

through_requests = pytest.mark.parametrize("make_client", ["adapter"], indirect=True)
many_times = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def trap(raw_service: Callable[..., RawService]) -> RawService:
    """A service that no request may reach."""
    return raw_service(FINE)


@pytest.fixture
def service(raw_instance: Callable[..., RawService]) -> RawService:
    return raw_instance(FINE)


# -- arguments -------------------------------------------------------------------------------------


def cycle() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


REFUSED: dict[str, list[dict[str, Any]]] = {
    "path": [
        {"path": path}
        for path in [
            "//evil/x", "https://evil/", "http:/evil", "evil", "", "/a/../../admin", "/%2e%2e/admin", "/..%2fadmin",
            "/%252e%252e/admin", "/%25252e%25252e/admin", "/..;/admin", "/a/./b", "/a\\..\\b", "/%5c%5cevil", "/\\evil",
            "/%2f/evil", "/@evil//x", "/%c0%ae%c0%ae/", "/\uff0e\uff0e/", "/\u2025/", "/\x00", "/%00", "/a\r\nX: y",
            "/a%0d%0aX:%20y", "/a?x=%0d%0a", "/a\n", "/\x85", "/a b", "/#x", "/%zz", "/%", "/\u202e", "\t/x", " /x",
            "/\ud800", "/" + "a" * 100_000, "/?" + "a" * 100_000, b"/x", 7, None,
        ]
    ],
    "headers": [
        {"headers": headers}
        for headers in [
            {"X": "a\r\nY: b"}, {"X": "a\nb"}, {"X": "a\rb"}, {"X": "a\0b"}, {"X\r\nY": "b"}, {"X Y": "b"}, {"": "b"},
            {"X:": "b"}, {"Host": "evil"}, {"hOST": "evil"}, {"Transfer-Encoding": "chunked"}, {"Content-Length": "0"},
            {"Content_Length": "0"}, {"X-Consul-Token": "t"}, {"Connection": "close"}, {"Expect": "100-continue"},
            {"X": 1}, {"X": b"x"}, {"X": "\u20ac"}, {"X": "\xe4"}, {1: "x"}, ["X"], "X: y", {"A": "1", "a": "2"},
        ]
    ],
    "json": [{"method": "POST", "json": value} for value in (math.nan, [-math.inf], cycle(), {1, 2}, object)],
    "data": [{"method": "POST", "data": value} for value in (5, [1, 2], {"a": {"b": 1}}, "\ud800")],
    "params": [{"params": value} for value in (5, "a=b", [1], {"a": {}}, {"a": "\ud800"})],
    "method": [{"method": method} for method in ("GET /x", "GET\r\n", "GET ", "", "CONNECT", "TRACE", "G\u00c9T")],
    "timeout": [{"timeout": timeout} for timeout in (0, -1, math.nan, math.inf, "10", True, 1e9)],
    "tag": [{"tag": tag} for tag in ("", "a,b", "a\n", 7)],
    "service": [
        {"service": name}
        for name in ("", "../../leave", "a/b", "a%2Fb", "a?x#y", "a b", "..", "x" * 10_000, "\u202eapi", "a@b", None)
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "arguments"), [(field, arguments) for field, cases in REFUSED.items() for arguments in cases], ids=ascii
)
def test_malformed_argument_is_refused_before_anything_is_sent(make_client, raw_service, field, arguments):
    consul = raw_service(b"")
    caller = make_client(registry=ServiceRegistry(config=ConsulConfig(host=consul.host, port=consul.port)))
    with pytest.raises(InvalidValueError) as caught:
        caller.call_service(**{"service": "api", "path": "/"} | arguments)
    assert caught.value.field.partition(".")[0] == field
    assert consul.connections == 0


def nasty_paths() -> st.SearchStrategy[str]:
    parts = [
        "/", "//", ".", "..", "%2e", "%2F", "%5c", "\\", "@", ":", "a", "?", "#", ";", "[", "%00", "%25", "~", "%0d%0a",
        "http://", "127.0.0.1", "TRAP", " ", "\t", "&", "=", "\uff0f", "\uff0e",
    ]  # fmt: skip
    mixed = st.lists(st.sampled_from(parts)).map("".join)
    return st.text() | mixed | mixed.map("/{}".format) | st.text().map("/{}".format)


@given(path=nasty_paths())
@example(path="/a[1]?b=[%2f]")
@example(path="/%41%7e'()*!$,")
@example(path="/?")
@example(path="/??")
@example(path="/a%2fb;c=1/@x:1")
@example(path="//TRAP/")
@example(path="http://TRAP/")
@example(path="@TRAP/")
@example(path="/\\TRAP/")
@many_times
def test_path_of_any_text_is_refused_or_reaches_the_chosen_instance(caller, service, trap, path):
    path = path.replace("TRAP", f"127.0.0.1:{trap.port}")
    service.heads.clear()
    try:
        caller.get("api", path)
    except InvalidValueError:
        assert not service.heads
        return
    finally:
        assert trap.connections == 0
    (head,) = service.heads
    target, headers = sent(head, "GET", service)
    assert target == build_request("api", path).target
    assert target.startswith("/")
    assert requests.utils.unquote(target.rstrip("?")) == requests.utils.unquote(path.rstrip("?"))
    decoded = target.partition("?")[0]
    for _ in range(5):
        assert not decoded.startswith("//")
        assert not {".", ".."} & {segment.partition(";")[0] for segment in re.split(r"[/\\]", decoded)}
        decoded = requests.utils.unquote(decoded)
    assert headers["host"] == f"127.0.0.1:{service.port}"


@through_requests
@given(path=nasty_paths().map("/{}".format))
@example(path="/\\TRAP/")
@example(path="/@TRAP/")
@example(path="/../../admin")
@many_times
def test_path_of_a_session_is_refused_or_reaches_the_chosen_instance(caller, service, trap, path):
    service.heads.clear()
    with suppress(InvalidValueError, requests.RequestException):
        caller.get("api", path.replace("TRAP", f"127.0.0.1:{trap.port}"))
    assert trap.connections == 0
    for head in service.heads:
        target, _ = sent(head, "GET", service)
        decoded = requests.utils.unquote(target.partition("?")[0])
        assert decoded.startswith("/")
        assert not {".", ".."} & set(re.split(r"[/\\]", decoded))


def sent(head: bytes, method: str, service: RawService) -> tuple[str, dict[str, str]]:
    """Returns the target and the headers of a received head; asserts that no header is repeated."""
    first, *lines = head.decode("latin-1").split("\r\n")
    sent_method, target, version = first.split(" ")
    assert (sent_method, version) == (method, "HTTP/1.1")
    pairs = [line.split(": ", 1) for line in lines]
    headers = {name.lower(): value for name, value in pairs}
    assert len(headers) == len(pairs)
    assert headers["host"] == f"127.0.0.1:{service.port}"
    return target, headers


@given(params=st.dictionaries(st.text(), st.text() | st.lists(st.text())) | st.lists(st.tuples(st.text(), st.text())))
@many_times
def test_params_of_any_text_stay_within_the_query(caller, service, params):
    service.heads.clear()
    with suppress(InvalidValueError):
        caller.get("api", "/x", params=params)
    for head in service.heads:
        target, _ = sent(head, "GET", service)
        assert re.fullmatch(r"/x(\?[A-Za-z0-9._~%&=+-]*)?", target)


CLIENT_HEADERS = {
    "host", "accept", "accept-encoding", "user-agent", "content-length", "x-request-id", "x-request-timeout-ms",
    "traceparent", "tracestate", "x-service-instance",
}  # fmt: skip
HEADER_NAMES = st.sampled_from(
    [
        "X-A",
        "Cookie",
        "Content-Type",
        "Host",
        "content-length",
        "Transfer-Encoding",
        "X-Consul-Token",
        "X A",
        "X\r\nEvil",
    ]
)
HEADER_VALUES = st.sampled_from(["1", "a\r\nEvil: 1", "a\nEvil: 1", "a\0", "\xe4", "\u20ac", " x ", "a\tb"])


@given(headers=st.dictionaries(HEADER_NAMES | st.text(), HEADER_VALUES | st.text()))
@many_times
def test_header_of_any_text_adds_no_other_header(caller, service, headers):
    service.heads.clear()
    try:
        caller.post("api", headers=headers)
    except InvalidValueError:
        assert not service.heads
        return
    (head,) = service.heads
    _, received = sent(head, "POST", service)
    assert received.keys() - CLIENT_HEADERS <= {name.lower() for name in headers}
    for name, value in headers.items():
        assert received[name.lower()] == value.strip(" \t")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_body_that_looks_like_a_request_is_sent_as_a_body(caller, add, http_service, method):
    service = http_service()
    add(service)
    body = b"0\r\n\r\nGET /evil HTTP/1.1\r\nHost: evil\r\n\r\n"
    for _ in range(2):
        caller.call_service("api", "/x", method=method, data=body)
    assert [(request.method, request.path, request.body) for request in service.requests] == [(method, "/x", body)] * 2


def test_error_of_a_failed_call_shows_no_secret(caller, raw_instance):
    raw_instance(b"")
    with pytest.raises(CallFailedError) as caught:
        # pragma: allowlist nextline secret - only for tests
        caller.post("api", "/x?key=s3cret", headers={"Authorization": "Bearer s3cret"}, json={"password": "s3cret"})
    text = f"{caught.value} {caught.value!r} {caught.value.attempts} {caught.value.__cause__!r}"
    assert "closed the connection" in text
    assert "s3cret" not in text


# -- addresses of instances --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "evil@127.0.0.1", "a:b@127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1/x",
        "127.0.0.1?x", "127.0.0.1#", "127.0.0.1:1", "127.0.0.1\\x", "[127.0.0.1]", "127.0.0.1%00", "http://127.0.0.1",
        "a b", "127.0.0.1\r\nX: y", "\u202e127.0.0.1", "\uff11\uff12\uff17.0.0.1", "::1%lo", "[::1]",
    ],
)  # fmt: skip
def test_instance_with_a_malformed_address_is_not_called(caller, consul_agent, registry, trap, address):
    body = {"ID": "bad", "Name": "api", "Address": address, "Port": trap.port}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    with pytest.raises(NoHealthyInstanceError, match="can't be called"):
        caller.get("api")
    assert trap.connections == 0


@pytest.mark.parametrize("port", [0, -1, 65536, 99999])
def test_instance_with_an_impossible_port_is_not_called(caller, consul_agent, registry, port):
    body = {"ID": "bad", "Name": "api", "Address": "127.0.0.1", "Port": port}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    with pytest.raises(NoHealthyInstanceError, match="can't be called"):
        caller.get("api")


def test_instance_that_can_not_be_called_leaves_the_calls_to_others(caller, consul_agent, service):
    for number, address in enumerate(["evil@host", "a b", "127.1"]):
        body = {"ID": f"bad-{number}", "Name": "api", "Address": address, "Port": service.port}
        consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    assert [caller.get("api").text for _ in range(6)] == ["fine"] * 6


def test_instance_without_an_address_is_called_at_its_node(caller, consul_agent, registry, service):
    body = {"ID": "plain", "Name": "plain", "Port": service.port}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    assert caller.get("plain").text == "fine"


def test_ipv6_instance_is_called_with_brackets_in_host(caller, add, http_service):
    try:
        service = http_service(host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    add(service)
    assert caller.get("api").status_code == 200
    assert service.requests[0].headers["Host"] == f"[::1]:{service.port}"


@pytest.mark.parametrize("port", [b'"80"', b"80.5", b"null", b"1e400", b"[80]"])
def test_instance_with_a_port_that_is_no_number_is_not_called(make_client, recording_proxy, consul_agent, port):
    proxy = recording_proxy(consul_agent)
    entry = b'{"Node":{"Node":"n","Address":"127.0.0.1"},"Service":{"ID":"a","Service":"api","Port":%s},"Checks":[]}'
    proxy.inject_fault(
        "/v1/health/service/api", status=200, body=b"[%s]" % (entry % port), headers={"X-Consul-Index": "7"}
    )
    with pytest.raises((NoHealthyInstanceError, ConsulUnavailableError)):
        make_client(registry=ServiceRegistry(config=proxy.config)).get("api")


# -- redirects -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["http://TRAP/", "//TRAP/x", "http://u:p@TRAP/", "/again", "", "\\\\TRAP", "x:y"])
def test_redirect_is_returned_and_not_followed(caller, raw_instance, trap, status, location):
    location = location.replace("TRAP", f"127.0.0.1:{trap.port}")
    head = f"HTTP/1.1 {status} See\r\nConnection: close\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    service = raw_instance(head.encode())
    response = caller.get("api", "/again", headers={"Authorization": "Bearer s3cret", "Cookie": "a=s3cret"})
    assert (response.status_code, response.headers["Location"]) == (status, location)
    assert (service.requests, trap.connections) == (1, 0)


@through_requests
@pytest.mark.parametrize("location", ["http://TRAP/", "//TRAP/x", "http://u:p@TRAP/", "http://other.service/"])
def test_session_follows_no_redirect_to_another_host(caller, raw_instance, trap, location):
    location = location.replace("TRAP", f"127.0.0.1:{trap.port}")
    raw_instance(f"HTTP/1.1 307 See\r\nConnection: close\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
    response = caller.get("api", headers={"Authorization": "Bearer s3cret"})
    assert (response.status_code, response.history, trap.connections) == (307, [], 0)


@through_requests
def test_session_ends_a_loop_of_redirects(caller, raw_instance):
    service = raw_instance(b"HTTP/1.1 302 See\r\nConnection: close\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(requests.TooManyRedirects):
        caller.get("api")
    assert service.requests == 31


@pytest.mark.parametrize("status", [401, 407])
def test_request_for_credentials_is_not_answered(caller, raw_instance, monkeypatch, tmp_path, status):
    (tmp_path / "netrc").write_text("default login a password s3cret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    head = f"HTTP/1.1 {status} No\r\nConnection: close\r\nContent-Length: 0\r\nWWW-Authenticate: Basic\r\n"
    service = raw_instance((head + "Proxy-Authenticate: Basic\r\n\r\n").encode())
    assert caller.get("api").status_code == status
    assert service.requests == 1
    assert b"authorization" not in service.heads[0].lower()
