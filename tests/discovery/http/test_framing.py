"""Heads of responses, and the caches of their lines."""

from __future__ import annotations

import pytest

from registry_admin.discovery.http import framing
from registry_admin.discovery.http.framing import parse_head

OK = b"HTTP/1.1 200 OK\r\n"


def test_headers_are_in_order_with_repetitions_and_in_latin_1():
    head = parse_head(b"HTTP/1.1 200 D\xe9j\xe0 vu\r\nA: 1\r\nB:\xe4 \r\nA: 2\r\n\tmore")
    assert (head.version, head.status, head.reason) == (11, 200, "D\xe9j\xe0 vu")
    assert list(head.headers) == [("A", "1"), ("B", "\xe4"), ("A", "2 more")]


@pytest.mark.parametrize(
    ("hint", "seconds"),
    [(b"timeout=5", 5), (b"max=100, Timeout = 5", 5), (b'timeout="5"', 5), (b"timeout=-5", None), (b"xtimeout=5", None),
     (b"", None), (b"timeout=5s", None), (b"timeout=" + b"9" * 50, None)],
)  # fmt: skip
def test_idle_hint_is_the_timeout_of_keep_alive(hint, seconds):
    assert parse_head(OK + b"Keep-Alive: " + hint).idle_hint_s == seconds


def test_content_codings_of_several_headers_are_joined():
    assert parse_head(OK + b"Content-Encoding: gzip\r\nContent-Encoding: deflate").content_encoding == "gzip,deflate"


def test_caches_of_heads_and_lines_are_bounded():
    for number in range(3 * framing._MAX_CACHED):
        head = parse_head(b"HTTP/1.1 200 OK %d\r\nX: %d\r\nY: %s" % (number, number, b"y" * 500))
        assert head.headers[0] == ("X", str(number))
    for cache in (framing._heads, framing._status_lines, framing._fields):
        assert 0 < len(cache) <= framing._MAX_CACHED
    assert max(map(len, framing._fields)) <= framing._MAX_CACHED_LINE


def test_head_that_is_known_is_the_same_as_a_new_one():
    block = OK + b"Content-Length: 5\r\nConnection: close"
    framing._heads.clear()
    assert parse_head(block) == parse_head(block)
