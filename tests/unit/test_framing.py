"""A reply that can be read in two ways is not read at all."""

from __future__ import annotations

import http.client
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.discovery.framing import MAX_HEAD, StrictReply, UnreadableReplyError, checked, read_head

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Wire:
    """A socket from which `sent` is read."""

    def __init__(self, sent: bytes) -> None:
        self.sent = sent

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self.sent))


def read(sent: bytes, *, method: str = "GET") -> tuple[StrictReply, bytes]:
    reply = StrictReply(Wire(sent), method=method)
    reply.begin()
    parts = list(iter(lambda: reply.read(3), b""))
    return reply, b"".join(parts)


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello more", b"hello"),
        (OK + b"\r\nuntil it closes", b"until it closes"),
        (b"HTTP/1.0 200\r\n\r\nhello", b"hello"),
        (CHUNKED + b"2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\n\r\n", b"hello"),
        (CHUNKED + b"A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n", b"0123456789"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK + b"\r\nhello", b"hello"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", b""),
        (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", b""),
    ],
)
def test_a_clear_reply_is_read_to_its_end(sent, body):
    assert read(sent)[1] == body


def test_a_reply_to_head_has_no_body():
    reply, body = read(OK + b"Content-Length: 5\r\n\r\n", method="HEAD")
    assert (body, reply.headers["Content-Length"]) == (b"", "5")


def test_headers_keep_their_order_and_number_and_are_latin_1():
    head = read_head(io.BufferedReader(io.BytesIO(OK + b"A: 1\r\nB:\xe4 \r\nA: 2\r\n\tmore\r\n\r\n")))
    assert (head.version, head.status, head.reason) == (11, 200, "OK")
    assert head.headers == [("A", "1"), ("B", "\xe4"), ("A", "2 more")]


@pytest.mark.parametrize(
    ("version", "connection", "closes"),
    [(b"1.1", b"keep-alive", False), (b"1.1", b"close", True), (b"1.0", b"x", True), (b"1.0", b"keep-alive", False)],
)
def test_whether_the_connection_lasts_is_as_the_reply_says(version, connection, closes):
    sent = b"HTTP/" + version + b" 200 OK\r\nConnection: " + connection + b"\r\nContent-Length: 0\r\n\r\n"
    assert read(sent)[0].will_close is closes


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: -5", b"Content-Length: +5", b"Content-Length: 5, 5", b"Content-Length: five",
        b"Content-Length: 0x5", b"Content-Length: 1_0", b"Content-Length:", b"Content-Length: " + b"9" * 5000,
        b"Content-Length: 5\r\nContent-Length: 3", b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: gzip", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"no colon", b"Space : x", b": x",
        b" first: continued", b"X: a\0b", b"X: a\rY: b", b"X\x01: a",
    ],
)  # fmt: skip
def test_an_ambiguous_head_is_refused(headers):
    with pytest.raises(UnreadableReplyError):
        read(OK + headers + b"\r\n\r\nhello")


@pytest.mark.parametrize(
    "line",
    [b"SSH-2.0-OpenSSH", b"HTTP/2.0 200 OK", b"HTTP/1.7 200 OK", b"HTTP/1.1 99 OK", b"HTTP/1.1 1000 OK", b"HTTP/1.1",
     b"HTTP/1.1 2x0 OK", b"HTTP/1.1 200OK", b"HTTP/1.1 -20 OK", b"<html>", b"", b"HTTP/1.1 200 a\rb"],
)  # fmt: skip
def test_another_protocol_is_refused(line):
    with pytest.raises(http.client.BadStatusLine):
        read(line + b"\r\n\r\n")


def test_a_switch_of_protocols_that_nobody_asked_for_is_refused():
    with pytest.raises(UnreadableReplyError):
        read(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")


@pytest.mark.parametrize("size", [b"-5", b"+5", b"0x5", b"0_5", b" 5", b"", b"xyz", b"f" * 16, b"5\0"])
def test_a_chunk_without_a_clear_size_is_refused(size):
    with pytest.raises(UnreadableReplyError):
        read(CHUNKED + size + b"\r\nhello\r\n0\r\n\r\n")


def test_a_chunk_longer_than_its_size_is_refused():
    with pytest.raises(UnreadableReplyError):
        read(CHUNKED + b"5\r\nhelloXX0\r\n\r\n")


WHOLE = CHUNKED + b"5\r\nhello\r\n0\r\nTrailer: x\r\n\r\n"


@pytest.mark.parametrize("kept", range(1, len(WHOLE)))
def test_what_breaks_off_is_not_whole_wherever_it_does(kept):
    with pytest.raises(http.client.IncompleteRead):
        read(WHOLE[:kept])


def test_no_reply_at_all_is_a_closed_connection():
    with pytest.raises(http.client.RemoteDisconnected):
        read(b"")


@pytest.mark.parametrize("part", [b"X: " + b"a" * MAX_HEAD, b"X: a\r\n" * (MAX_HEAD // 6 + 1)])
@pytest.mark.parametrize("before", [OK, CHUNKED + b"0\r\n"], ids=["headers", "trailers"])
def test_a_head_has_a_limit(before, part):
    with pytest.raises(http.client.LineTooLong):
        read(before + part + b"\r\n\r\n")


@given(st.binary())
def test_any_bytes_are_a_reply_or_a_fault_of_http(sent):
    for prefix in (b"", OK, CHUNKED, OK + b"Content-Length: "):
        try:
            read(prefix + sent)
        except http.client.HTTPException:
            continue


@given(st.lists(st.tuples(st.binary(), st.binary())))
def test_no_header_that_passed_can_split_a_reply(headers):
    try:
        passed = checked(headers)
    except UnreadableReplyError:
        return
    assert len(passed) == len(headers)
    assert not set("\r\n\0") & set("".join(name + value for name, value in passed))
