"""Whatever a caller gives, and whatever a service says: a typed error in time, and nothing goes where it must not."""

from __future__ import annotations

import gzip
import math
import re
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from registry_admin.consul import ConsulConfig, ServiceRegistry
from registry_admin.discovery.request import build_request
from registry_admin.errors import (
    CallFailedError,
    ConsulUnavailableError,
    DeadlineExceededError,
    InvalidValueError,
    NoHealthyInstanceError,
)
from tests.consul.raw_service import OK, RawService, endless, trickle
from tests.parts import wait_until

FINE = OK + b"Connection: close\r\nContent-Length: 4\r\n\r\nfine"
KEPT = OK + b"Content-Length: 4\r\n\r\nfine"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LIMIT = 100_000
every_way = pytest.mark.parametrize("make_client", ["sync", "async", "adapter"], indirect=True)
through_requests = pytest.mark.parametrize("make_client", ["adapter"], indirect=True)
many_times = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def trap(raw_service: Callable[..., RawService]) -> RawService:
    """Where nothing may ever arrive."""
    return raw_service(FINE)


@pytest.fixture
def only(add: Callable[..., str], raw_service: Callable[..., RawService]) -> Callable[..., RawService]:
    """`only(answer)`: an instance of `api`, the only one where this is called once."""

    def make(answer: Any, **options: Any) -> RawService:
        service = raw_service(answer, **options)
        add(service)
        return service

    return make


@pytest.fixture
def service(only: Callable[..., RawService]) -> RawService:
    return only(FINE)


# -- what a caller gives -------------------------------------------------------------------------------------


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
    "json": [{"method": "POST", "json": value} for value in (math.nan, [-math.inf], cycle(), {1, 2}, object())],
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
    ("field", "given"), [(field, given) for field, several in REFUSED.items() for given in several], ids=ascii
)
def test_bad_input_is_refused_before_anything_is_sent(make_client, raw_service, field, given):
    consul = raw_service(b"")
    caller = make_client(registry=ServiceRegistry(config=ConsulConfig(host=consul.host, port=consul.port)))
    with pytest.raises(InvalidValueError) as caught:
        caller.call_service(**{"service": "api", "path": "/"} | given)
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
def test_any_path_is_refused_or_reaches_exactly_the_chosen_host_beneath_its_root(caller, service, trap, path):
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
def test_any_path_of_a_session_too(caller, service, trap, path):
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
    """The target and the headers that came, each of which may come once only."""
    first, *lines = head.decode("latin-1").split("\r\n")
    named, target, version = first.split(" ")
    assert (named, version) == (method, "HTTP/1.1")
    pairs = [line.split(": ", 1) for line in lines]
    headers = {name.lower(): value for name, value in pairs}
    assert len(headers) == len(pairs)
    assert headers["host"] == f"127.0.0.1:{service.port}"
    return target, headers


@given(params=st.dictionaries(st.text(), st.text() | st.lists(st.text())) | st.lists(st.tuples(st.text(), st.text())))
@many_times
def test_no_parameter_leaves_the_query(caller, service, params):
    service.heads.clear()
    with suppress(InvalidValueError):
        caller.get("api", "/x", params=params)
    for head in service.heads:
        target, _ = sent(head, "GET", service)
        assert re.fullmatch(r"/x(\?[A-Za-z0-9._~%&=+-]*)?", target)


OURS = {
    "host", "accept", "accept-encoding", "user-agent", "content-length", "x-request-id", "x-request-timeout-ms",
    "traceparent", "tracestate",
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
def test_no_header_adds_another_one(caller, service, headers):
    service.heads.clear()
    try:
        caller.post("api", headers=headers)
    except InvalidValueError:
        assert not service.heads
        return
    (head,) = service.heads
    _, received = sent(head, "POST", service)
    assert received.keys() - OURS <= {name.lower() for name in headers}
    for name, value in headers.items():
        assert received[name.lower()] == value.strip(" \t")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_body_that_looks_like_a_request_stays_a_body(caller, add, http_service, method):
    service = http_service()
    add(service)
    body = b"0\r\n\r\nGET /evil HTTP/1.1\r\nHost: evil\r\n\r\n"
    for _ in range(2):
        caller.call_service("api", "/x", method=method, data=body)
    assert [(one.method, one.path, one.body) for one in service.requests] == [(method, "/x", body)] * 2


def test_no_secret_is_in_what_a_failed_call_says(caller, only):
    only(b"")
    with pytest.raises(CallFailedError) as caught:
        caller.post("api", "/x?key=s3cret", headers={"Authorization": "Bearer s3cret"}, json={"password": "s3cret"})
    shown = f"{caught.value} {caught.value!r} {caught.value.attempts} {caught.value.__cause__!r}"
    assert "s3cret" not in shown


# -- where an instance may be --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "evil@127.0.0.1", "a:b@127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1/x",
        "127.0.0.1?x", "127.0.0.1#", "127.0.0.1:1", "127.0.0.1\\x", "[127.0.0.1]", "127.0.0.1%00", "http://127.0.0.1",
        "a b", "127.0.0.1\r\nX: y", "\u202e127.0.0.1", "\uff11\uff12\uff17.0.0.1", "::1%lo", "[::1]",
    ],
)  # fmt: skip
def test_an_instance_at_an_address_that_is_none_is_never_called(caller, consul_agent, registry, trap, address):
    body = {"ID": "bad", "Name": "api", "Address": address, "Port": trap.port}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    with pytest.raises(NoHealthyInstanceError, match="can't be called"):
        caller.get("api")
    assert trap.connections == 0


@pytest.mark.parametrize("port", [0, -1, 65536, 99999])
def test_an_instance_at_a_port_that_is_none_is_never_called(caller, consul_agent, registry, port):
    body = {"ID": "bad", "Name": "api", "Address": "127.0.0.1", "Port": port}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    with pytest.raises(NoHealthyInstanceError, match="can't be called"):
        caller.get("api")


def test_an_instance_that_can_not_be_called_takes_nothing_from_the_others(caller, consul_agent, service):
    for number, address in enumerate(["evil@host", "a b", "127.1"]):
        body = {"ID": f"bad-{number}", "Name": "api", "Address": address, "Port": service.port}
        consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    assert [caller.get("api").text for _ in range(6)] == ["fine"] * 6


def test_an_instance_without_an_address_is_at_its_node(caller, consul_agent, registry, service):
    body = {"ID": "plain", "Name": "plain", "Port": service.port}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    assert caller.get("plain").text == "fine"


def test_an_ipv6_instance_is_called_by_its_own_name(caller, add, http_service):
    try:
        service = http_service(host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    add(service)
    assert caller.get("api").status_code == 200
    assert service.requests[0].headers["Host"] == f"[::1]:{service.port}"


@pytest.mark.parametrize("port", [b'"80"', b"80.5", b"null", b"1e400", b"[80]"])
def test_a_port_that_is_no_number_is_never_called(make_client, recording_proxy, consul_agent, port):
    proxy = recording_proxy(consul_agent)
    entry = b'{"Node":{"Node":"n","Address":"127.0.0.1"},"Service":{"ID":"a","Service":"api","Port":%s},"Checks":[]}'
    proxy.spoil("/v1/health/service/api", status=200, body=b"[%s]" % (entry % port), headers={"X-Consul-Index": "7"})
    with pytest.raises((NoHealthyInstanceError, ConsulUnavailableError)):
        make_client(registry=ServiceRegistry(config=proxy.config)).get("api")


# -- where a service sends one -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["http://TRAP/", "//TRAP/x", "http://u:p@TRAP/", "/again", "", "\\\\TRAP", "x:y"])
def test_a_redirect_is_returned_and_not_followed(caller, only, trap, status, location):
    location = location.replace("TRAP", f"127.0.0.1:{trap.port}")
    head = f"HTTP/1.1 {status} See\r\nConnection: close\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    service = only(head.encode())
    response = caller.get("api", "/again", headers={"Authorization": "Bearer s3cret", "Cookie": "a=s3cret"})
    assert (response.status_code, response.headers["Location"]) == (status, location)
    assert (service.requests, trap.connections) == (1, 0)


@through_requests
@pytest.mark.parametrize("location", ["http://TRAP/", "//TRAP/x", "http://u:p@TRAP/", "http://other.service/"])
def test_a_session_takes_no_credentials_to_another_host(caller, only, trap, location):
    location = location.replace("TRAP", f"127.0.0.1:{trap.port}")
    only(f"HTTP/1.1 307 See\r\nConnection: close\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
    response = caller.get("api", headers={"Authorization": "Bearer s3cret"})
    assert (response.status_code, response.history, trap.connections) == (307, [], 0)


@through_requests
def test_a_session_leaves_a_loop_of_redirects(caller, only):
    service = only(b"HTTP/1.1 302 See\r\nConnection: close\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(requests.TooManyRedirects):
        caller.get("api")
    assert service.requests == 31


@pytest.mark.parametrize("status", [401, 407])
def test_nobody_is_given_credentials_for_the_asking(caller, only, monkeypatch, tmp_path, status):
    (tmp_path / "netrc").write_text("default login a password s3cret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    head = f"HTTP/1.1 {status} No\r\nConnection: close\r\nContent-Length: 0\r\nWWW-Authenticate: Basic\r\n"
    service = only((head + "Proxy-Authenticate: Basic\r\n\r\n").encode())
    assert caller.get("api").status_code == status
    assert service.requests == 1
    assert b"authorization" not in service.heads[0].lower()


# -- time ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "answer",
    [
        trickle(OK + b"Content-Length: 300\r\n\r\n"),
        trickle(OK + b"\r\n"),
        trickle(OK + b"X-Slow: "),
        trickle(b"HTTP/1.1 200 "),
        trickle(CHUNKED + b"12c\r\n"),
        trickle(CHUNKED + b"5;"),
        trickle(CHUNKED + b"0\r\nX-Trailer: "),
        endless(b"", part=b"HTTP/1.1 100 Continue\r\n\r\n"),
        endless(b"", part=b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
        lambda connection: connection.recv(1),
    ],
    ids=[
        "body",
        "no length",
        "header",
        "status",
        "chunk",
        "extension",
        "trailer",
        "endless 100",
        "endless 103",
        "silence",
    ],
)
@every_way
def test_a_slow_reply_meets_the_deadline(caller, only, method, answer):
    service = only(answer)
    with pytest.raises(DeadlineExceededError, match=r"within 0\.5 s"):
        caller.call_service("api", method=method, timeout=0.5)
    wait_until(lambda: service.ended == service.connections, what="the client to hang up")


def test_a_service_that_reads_nothing_meets_the_deadline(caller, add):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        add(_At(listener))
        with pytest.raises(DeadlineExceededError):
            caller.post("api", data=bytes(20_000_000), timeout=0.5)


def test_a_service_that_accepts_nobody_meets_the_deadline(caller, add):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = [socket.socket() for _ in range(3)]  # more than the kernel queues for it
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        add(_At(listener))
        with pytest.raises(DeadlineExceededError):
            caller.get("api", timeout=0.5)
        for one in waiting:
            one.close()


class _At:
    def __init__(self, listener: socket.socket) -> None:
        self.host, self.port = listener.getsockname()


RETRY_AFTER = [
    "31536000",
    "-1",
    "9" * 400,
    "1e9",
    "nonsense",
    "",
    "\xff",
    "Fri, 31 Dec 2999 23:59:59 GMT",
    "Fri, 31 Dec",
]


@pytest.mark.parametrize("retry_after", RETRY_AFTER)
@pytest.mark.parametrize("status", [429, 503])
@every_way
def test_no_retry_after_holds_up_a_call(caller, only, status, retry_after):
    head = f"HTTP/1.1 {status} No\r\nConnection: close\r\nRetry-After: {retry_after}\r\nContent-Length: 0\r\n\r\n"
    services = [only(head.encode("latin-1")) for _ in range(2)]
    for method in ("GET", "POST"):
        response = caller.call_service("api", method=method, timeout=5)
        assert (response.status_code, response.headers["Retry-After"]) == (status, retry_after)
    assert sum(service.requests for service in services) <= 6


# -- size ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (OK + b"Content-Length: 10737418240\r\n\r\n", bytes(65536)),
        (OK + b"\r\n", bytes(65536)),
        (OK + b"Content-Encoding: gzip\r\n\r\n", bytes(65536)),
        (CHUNKED + b"ffffffff\r\n", bytes(65536)),
        (CHUNKED, b"1\r\na\r\n" * 10_000),
    ],
    ids=["announced", "unannounced", "compressed", "one chunk", "tiny chunks"],
)
@every_way
def test_an_endless_body_is_cut_off(make_client, only, head, part):
    service = only(endless(head, part=part))
    with pytest.raises(CallFailedError, match=f"larger than {LIMIT} bytes"):
        make_client(body_limit=LIMIT).get("api")
    assert service.requests == 1
    wait_until(lambda: service.ended, what="the client to hang up")


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (b"", b"a" * 65536),
        (b"HTTP/1.1 200 ", b"a" * 65536),
        (OK + b"X: ", b"a" * 65536),
        (OK, b"X: a\r\n" * 10_000),
        (OK + b"X: a\r\n", b" a\r\n" * 10_000),
        (CHUNKED + b"0\r\n", b"X: a\r\n" * 10_000),
    ],
    ids=["no HTTP", "reason", "header", "headers", "folded", "trailers"],
)
@every_way
def test_an_endless_head_is_cut_off(caller, only, head, part):
    """100 MB of it, if anybody listened: `ended` is reached where the client has hung up before."""
    sent_parts = []

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in range(100_000_000 // len(part)):
            connection.sendall(part)
            sent_parts.append(len(part))

    service = only(answer)
    with pytest.raises(CallFailedError):
        caller.post("api")
    wait_until(lambda: service.ended, what="the client to hang up")
    assert sum(sent_parts) < 50_000_000


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


ZEROS = bytes(50_000_000)
BOMBS = {
    "gzip": ("gzip", gzip.compress(ZEROS)),
    "zlib": ("deflate", zlib.compress(ZEROS)),
    "deflate": ("deflate", raw_deflate(ZEROS)),
    "gzip twice": ("gzip, gzip", gzip.compress(gzip.compress(ZEROS))),
    "members": ("gzip", gzip.compress(bytes(60_000)) * 3),
    "many members": ("gzip", gzip.compress(b"") * 10_000),
    "nested": (", ".join(["gzip"] * 50), b"x"),
    "not packed": ("gzip", b"text"),
    "broken off": ("gzip", gzip.compress(b"text" * 1000)[:-10]),
    "empty window": ("deflate", b"\x00" * 1000),
}


@pytest.mark.parametrize(("encoding", "body"), BOMBS.values(), ids=BOMBS)
@every_way
def test_a_decompression_bomb_is_cut_off(make_client, only, encoding, body):
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
    service = only(head.encode() + body)
    with pytest.raises(CallFailedError):
        make_client(body_limit=LIMIT).post("api")
    assert service.requests == 1


# -- what is no reply ----------------------------------------------------------------------------------------

HELLO = b"\r\n\r\nhello"
BROKEN = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "HTTP/0.9": b"<html>hello</html>",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 5" + HELLO,
    "status 99": b"HTTP/1.1 99 No\r\nContent-Length: 5" + HELLO,
    "status 1000": b"HTTP/1.1 1000 No\r\nContent-Length: 5" + HELLO,
    "status of letters": b"HTTP/1.1 2x0 No\r\nContent-Length: 5" + HELLO,
    "no status": b"HTTP/1.1\r\nContent-Length: 5" + HELLO,
    "another protocol": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade" + HELLO,
    "a 103 alone": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "truncated head": OK + b"Content-",
    "head without an end": OK + b"X: y\r\n",
    "truncated body": OK + b"Content-Length: 10" + HELLO,
    "truncated chunk": CHUNKED + b"5\r\nhel",
    "no last chunk": CHUNKED + b"5\r\nhello\r\n",
    "last chunk without an end": CHUNKED + b"5\r\nhello\r\n0\r\n",
    "chunk of letters": CHUNKED + b"xyz\r\nhello\r\n0\r\n\r\n",
    "negative chunk": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "chunk with a sign": CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n",
    "chunk with a prefix": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "chunk without a size": CHUNKED + b"\r\nhello\r\n0\r\n\r\n",
    "huge chunk": CHUNKED + b"f" * 30 + b"\r\nhello\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"5\r\nhelloXX0\r\n\r\n",
    "negative length": OK + b"Content-Length: -5" + HELLO,
    "length with a sign": OK + b"Content-Length: +5" + HELLO,
    "length of letters": OK + b"Content-Length: five" + HELLO,
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 3" + HELLO,
    "two lengths in one": OK + b"Content-Length: 5, 3" + HELLO,
    "huge length": OK + b"Content-Length: " + b"9" * 5000 + HELLO,
    "length and chunks": OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "unknown coding": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "no coding": OK + b"Transfer-Encoding: xchunked" + HELLO,
    "no colon": OK + b"X\r\nContent-Length: 5" + HELLO,
    "no name": OK + b": x\r\nContent-Length: 5" + HELLO,
    "space before the colon": OK + b"Content-Length : 5" + HELLO,
    "a lone CR": OK + b"X: a\rSet-Cookie: b\r\nContent-Length: 5" + HELLO,
    "NUL in a header": OK + b"X: a\0b\r\nContent-Length: 5" + HELLO,
    "control character in a name": OK + b"X\x01: a\r\nContent-Length: 5" + HELLO,
    "huge header": OK + b"X: " + b"a" * 200_000 + HELLO,
    "many headers": OK + b"X: a\r\n" * 100_000 + HELLO,
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
@every_way
def test_a_broken_reply_to_a_post_is_not_asked_for_again(caller, only, reply):
    services = [only(reply), only(reply)]
    with pytest.raises(CallFailedError) as caught:
        caller.post("api", json={})
    assert not isinstance(caught.value, DeadlineExceededError)
    assert sum(service.requests for service in services) == 1
    assert len(caught.value.attempts) == 1
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("said", [b"", OK + b"Content-", OK + b"Content-Length: 5\r\n\r\nhe", CHUNKED + b"5\r\nhe"])
@every_way
def test_a_connection_that_is_reset_is_no_reply(caller, only, said):
    def answer(connection: socket.socket) -> None:
        connection.sendall(said)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    services = [only(answer), only(answer)]
    with pytest.raises(CallFailedError):
        caller.post("api")
    assert sum(service.requests for service in services) == 1


ODD = {
    "HTTP/1.0": (b"HTTP/1.0 200 OK" + HELLO, 200),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 5" + HELLO, 200),
    "status 999": (b"HTTP/1.1 999 Odd\r\nContent-Length: 5" + HELLO, 999),
    "103 before": (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 5" + HELLO, 200),
    "fifty 100s before": (b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + OK + b"Content-Length: 5" + HELLO, 200),
    "chunk extension": (CHUNKED + b"5;a=b\r\nhello\r\n0\r\nTrailer: x\r\n\r\n", 200),
    "lines ended by LF": (b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", 200),
    "Latin-1": (OK + b"X-Name: \xe4\r\nContent-Type: text/plain; charset=\xff\r\nContent-Length: 5" + HELLO, 200),
    "unknown encoding": (OK + b"Content-Encoding: x-own\r\nContent-Length: 5" + HELLO, 200),
    "unreadable cookie": (OK + b"Set-Cookie: ;;=;\x7f\r\nContent-Length: 5" + HELLO, 200),
}


@pytest.mark.parametrize(("reply", "status"), ODD.values(), ids=ODD)
@every_way
def test_an_odd_reply_is_the_same_for_every_client(caller, only, reply, status):
    only(reply)
    response = caller.get("api")
    assert (response.status_code, response.content, response.text) == (status, b"hello", "hello")
    assert response.headers.get("X-Name", "\xe4") == "\xe4"
    assert "\r" not in str(response.headers)


# -- one reply after another ---------------------------------------------------------------------------------

EVIL = OK + b"Content-Length: 4\r\n\r\nevil"
LEAVE_MORE = {
    "two replies": ("GET", KEPT + EVIL),
    "a reply and a part": ("GET", KEPT + EVIL[:20]),
    "HEAD with a body": ("HEAD", OK + b"Content-Length: %d\r\n\r\n" % len(EVIL) + EVIL),
    "204 with a body": ("GET", b"HTTP/1.1 204 No\r\nContent-Length: %d\r\n\r\n" % len(EVIL) + EVIL),
    "304 with a body": ("GET", b"HTTP/1.1 304 No\r\n\r\n" + EVIL),
    "more than its length": ("GET", OK + b"Content-Length: 1\r\n\r\nx" + EVIL),
    "more than its last chunk": ("GET", CHUNKED + b"0\r\n\r\n" + EVIL),
    "too large": ("GET", OK + b"Content-Length: 70000000\r\n\r\n" + EVIL),
    "a broken chunk": ("GET", CHUNKED + b"1\r\nxx" + EVIL),
    "a refused head": ("GET", OK + b"Content-Length: 0\r\nContent-Length: 1\r\n\r\n" + EVIL),
    "a bad encoding": ("GET", OK + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx" + EVIL),
}


@pytest.fixture
def poisoned(only: Callable[..., RawService]) -> Callable[..., RawService]:
    """`poisoned(first)`: says that to the first request, and what is fine to any other, on connections that last."""

    def make(first: Callable[[socket.socket], None]) -> RawService:
        def answer(connection: socket.socket) -> None:
            if service.requests == 1:
                first(connection)
            else:
                connection.sendall(KEPT)

        service = only(answer, keep_open=True)
        return service

    return make


@pytest.mark.parametrize(("method", "first"), LEAVE_MORE.values(), ids=LEAVE_MORE)
@every_way
def test_no_reply_is_taken_for_the_next_ones(caller, poisoned, method, first):
    service = poisoned(lambda connection: connection.sendall(first))
    with suppress(CallFailedError):
        caller.call_service("api", method=method)
    assert [caller.get("api").text for _ in range(3)] == ["fine"] * 3
    assert service.requests == 4


@every_way
def test_a_reply_that_nobody_asked_for_is_never_read(caller, poisoned):
    asked, said = threading.Event(), threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.sendall(KEPT)
        asked.wait(10)
        connection.sendall(EVIL)
        said.set()

    poisoned(answer)
    assert caller.get("api").text == "fine"
    asked.set()
    assert said.wait(10)
    assert [caller.get("api").text for _ in range(3)] == ["fine"] * 3


@every_way
def test_a_late_reply_is_never_read(caller, poisoned):
    late = threading.Event()

    def answer(connection: socket.socket) -> None:
        late.wait(10)
        connection.sendall(EVIL)

    poisoned(answer)
    with pytest.raises(DeadlineExceededError):
        caller.post("api", timeout=0.3)
    late.set()
    assert [caller.get("api").text for _ in range(3)] == ["fine"] * 3
