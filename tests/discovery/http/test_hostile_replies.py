"""Hostile responses: a typed error in time and within limits, and never the response of another call."""

from __future__ import annotations

import gzip
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest

from registry_admin.errors import (
    CallFailedError,
    DeadlineExceededError,
)
from tests.parts import wait_until
from tests.parts.raw_service import OK, RawService, endless, trickle

through_requests = pytest.mark.parametrize("make_client", ["adapter"], indirect=True)
OPEN_CONNECTION = OK + b"Content-Length: 4\r\n\r\nfine"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LIMIT = 100_000
every_client = pytest.mark.parametrize("make_client", ["sync", "async", "adapter"], indirect=True)


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
@every_client
def test_slow_response_meets_the_deadline(caller, raw_instance, method, answer):
    service = raw_instance(answer)
    with pytest.raises(DeadlineExceededError, match=r"within 0\.5 s"):
        caller.call_service("api", method=method, timeout=0.5)
    wait_until(lambda: service.ended == service.connections, what="the client to hang up")


def test_call_to_a_service_that_reads_nothing_meets_the_deadline(caller, add):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        add(Listening(listener))
        with pytest.raises(DeadlineExceededError):
            caller.post("api", data=bytes(20_000_000), timeout=0.5)


def test_call_to_a_service_that_accepts_nothing_meets_the_deadline(caller, add):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = [socket.socket() for _ in range(3)]  # more than the kernel queues for it
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        add(Listening(listener))
        with pytest.raises(DeadlineExceededError):
            caller.get("api", timeout=0.5)
        for client in waiting:
            client.close()


class Listening:
    """Host and port of a socket, to register as an instance."""

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
@every_client
def test_retry_after_of_any_text_does_not_hold_up_a_call(caller, raw_instance, status, retry_after):
    head = f"HTTP/1.1 {status} No\r\nConnection: close\r\nRetry-After: {retry_after}\r\nContent-Length: 0\r\n\r\n"
    services = [raw_instance(head.encode("latin-1")) for _ in range(2)]
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
@every_client
def test_endless_body_is_cut_off(make_client, raw_instance, head, part):
    service = raw_instance(endless(head, part=part))
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
@every_client
def test_endless_head_is_cut_off(caller, raw_instance, head, part):
    """The head would be 100 MB long; `ended` is reached earlier if the client hangs up."""
    sent_parts = []

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in range(100_000_000 // len(part)):
            connection.sendall(part)
            sent_parts.append(len(part))

    service = raw_instance(answer)
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
@every_client
def test_decompression_bomb_is_cut_off(make_client, raw_instance, encoding, body):
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
    service = raw_instance(head.encode() + body)
    with pytest.raises(CallFailedError):
        make_client(body_limit=LIMIT).post("api")
    assert service.requests == 1


# -- malformed responses ----------------------------------------------------------------------------------------

HELLO = b"\r\n\r\nhello"
MALFORMED = {
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


@pytest.mark.parametrize("reply", MALFORMED.values(), ids=MALFORMED)
@every_client
def test_malformed_response_to_a_post_is_not_retried(caller, raw_instance, reply):
    services = [raw_instance(reply), raw_instance(reply)]
    with pytest.raises(CallFailedError) as caught:
        caller.post("api", json={})
    assert not isinstance(caught.value, DeadlineExceededError)
    assert sum(service.requests for service in services) == 1
    assert len(caught.value.attempts) == 1
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("part", [b"", OK + b"Content-", OK + b"Content-Length: 5\r\n\r\nhe", CHUNKED + b"5\r\nhe"])
@every_client
def test_reset_connection_fails_a_post_without_a_retry(caller, raw_instance, part):
    def answer(connection: socket.socket) -> None:
        connection.sendall(part)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    services = [raw_instance(answer), raw_instance(answer)]
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
@every_client
def test_unusual_response_is_the_same_for_every_client(caller, raw_instance, reply, status):
    raw_instance(reply)
    response = caller.get("api")
    assert (response.status_code, response.content, response.text) == (status, b"hello", "hello")
    assert response.headers.get("X-Name", "\xe4") == "\xe4"
    assert "\r" not in str(response.headers)


# -- several responses on a connection ---------------------------------------------------------------------------------

EVIL = OK + b"Content-Length: 4\r\n\r\nevil"
LEAVE_MORE = {
    "two replies": ("GET", OPEN_CONNECTION + EVIL),
    "a reply and a part": ("GET", OPEN_CONNECTION + EVIL[:20]),
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
def poisoned(raw_instance: Callable[..., RawService]) -> Callable[..., RawService]:
    """`poisoned(first)`: a service that answers the first request by `first`, later ones well."""

    def make(first: Callable[[socket.socket], None]) -> RawService:
        def answer(connection: socket.socket) -> None:
            if service.requests == 1:
                first(connection)
            else:
                connection.sendall(OPEN_CONNECTION)

        service = raw_instance(answer, keep_open=True)
        return service

    return make


@pytest.mark.parametrize(("method", "first"), LEAVE_MORE.values(), ids=LEAVE_MORE)
@every_client
def test_surplus_bytes_are_not_taken_for_the_next_response(caller, poisoned, method, first):
    service = poisoned(lambda connection: connection.sendall(first))
    with suppress(CallFailedError):
        caller.call_service("api", method=method)
    assert [caller.get("api").text for _ in range(3)] == ["fine"] * 3
    assert service.requests == 4


@every_client
def test_unrequested_response_is_not_read(caller, poisoned):
    requested, sent = threading.Event(), threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.sendall(OPEN_CONNECTION)
        requested.wait(10)
        connection.sendall(EVIL)
        sent.set()

    poisoned(answer)
    assert caller.get("api").text == "fine"
    requested.set()
    assert sent.wait(10)
    assert [caller.get("api").text for _ in range(3)] == ["fine"] * 3


@every_client
def test_late_response_is_not_read(caller, poisoned):
    late = threading.Event()

    def answer(connection: socket.socket) -> None:
        late.wait(10)
        connection.sendall(EVIL)

    poisoned(answer)
    with pytest.raises(DeadlineExceededError):
        caller.post("api", timeout=0.3)
    late.set()
    assert [caller.get("api").text for _ in range(3)] == ["fine"] * 3
