"""Responses are read however their bytes are split, and ambiguous ones are refused."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry_admin.discovery.http.framing import ReplyError
from registry_admin.discovery.http.reader import ResponseReader
from registry_admin.errors import AttemptError
from tests.discovery.http.replies import CHUNKED, OK, READ, REFUSED, REPLIES, Reply

LIMIT = 100_000
Result = tuple[str, bytes, bool] | str


def read(parts: Iterable[bytes], *, method: str = "GET", hangs_up: bool = True) -> Result:
    """Returns status, body and whether the connection is kept; or the error's name."""
    reader = ResponseReader(method, body_limit=LIMIT)
    try:
        for part in parts:
            reader.feed(part)
        if hangs_up and not reader.is_complete:
            reader.feed_eof()
    except (ReplyError, AttemptError) as error:
        return type(error).__name__
    assert reader.is_complete
    return f"{reader.head.status} {reader.head.headers}", reader.body.decode(""), reader.keeps_connection


def in_parts(sent: bytes, size: int = 1) -> list[bytes]:
    return [sent[position : position + size] for position in range(0, len(sent), size)]


@pytest.mark.parametrize("reply", READ.values(), ids=READ)
def test_unambiguous_response_is_read_to_its_end(reply: Reply):
    result = read([reply.sent], method=reply.method)
    assert result[1:] == (reply.body, reply.reusable)


@pytest.mark.parametrize("reply", REFUSED.values(), ids=REFUSED)
def test_ambiguous_or_broken_response_is_refused(reply: Reply):
    assert reply.error is not None
    assert read([reply.sent], method=reply.method) == reply.error.__name__


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
def test_response_split_at_any_byte_is_read_the_same(reply: Reply):
    whole = read([reply.sent], method=reply.method)
    size = len(reply.sent)
    assert read(in_parts(reply.sent, 1 if size < 10_000 else 97), method=reply.method) == whole
    for position in range(1, size, 1 if size < 500 else size // 30):
        assert read([reply.sent[:position], reply.sent[position:]], method=reply.method) == whole, position


@given(st.sampled_from([b"", OK, CHUNKED, OK + b"Content-Length: "]), st.binary(), st.lists(st.integers(0, 80)))
def test_any_bytes_split_anywhere_are_read_the_same(prefix: bytes, sent: bytes, cuts: list[int]):
    sent = prefix + sent
    ends = sorted({min(cut, len(sent)) for cut in cuts} | {len(sent)})
    parts = [sent[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert read(part for part in parts if part) == read([sent])


PIECES = [b"HTTP/1.1 200 OK", b"Content-Length: 2", b"Transfer-Encoding: chunked", b"Connection: close", b"\r\n", b"\n",
          b"\r", b"a:", b" b", b"\0", b"5", b"0", b";x"]  # fmt: skip


@example([b"HTTP/1.1 200 OK", b"\r", b"\r\n", b"\r\n"])
@given(st.lists(st.sampled_from(PIECES)))
def test_any_sequence_of_pieces_is_read_the_same_byte_by_byte(pieces: list[bytes]):
    sent = b"".join(pieces)
    assert read(in_parts(sent)) == read([sent])


def test_reader_without_a_byte_has_not_begun():
    reader = ResponseReader("GET")
    assert not reader.has_begun
    reader.feed(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert reader.has_begun


def test_response_is_complete_before_the_connection_ends():
    reader = ResponseReader("GET")
    assert not reader.feed(CHUNKED + b"0\r\n\r")
    assert reader.feed(b"\n")
    assert reader.keeps_connection
    assert reader.feed(b"more")
    assert not reader.keeps_connection


@pytest.mark.parametrize("head", [OK + b"Content-Length: 100001\r\n\r\n", CHUNKED + b"186a1\r\n" + bytes(100_001),
                                  OK + b"\r\n" + bytes(100_001)], ids=["length", "chunk", "until close"])  # fmt: skip
def test_body_above_its_limit_is_refused(head: bytes):
    assert read([head]) == "AttemptError"


def test_body_of_tiny_parts_costs_no_object_for_each():
    reader = ResponseReader("GET")
    reader.feed(CHUNKED + b"1\r\na\r\n" * 100_000 + b"0\r\n\r\n")
    assert reader.body.decode("") == b"a" * 100_000
    assert isinstance(reader.body._data, bytearray)
