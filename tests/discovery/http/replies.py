"""Replies of a service, byte for byte, and what each is to be: one table for the reader and for both transports."""

from __future__ import annotations

from dataclasses import dataclass

from registry_admin.discovery.http.framing import (
    MAX_HEAD,
    HeadTooLargeError,
    NoReplyError,
    ReplyError,
    TruncatedReplyError,
    UnreadableReplyError,
)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
HELLO = b"\r\n\r\nhello"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Bytes after which the service hangs up: a response with `body`, or else `error`.

    `reusable` tells whether another request might follow if it didn't hang up.
    """

    sent: bytes
    body: bytes = b"hello"
    error: type[ReplyError] | None = None
    method: str = "GET"
    reusable: bool = True


def refused(sent: bytes, error: type[ReplyError] = UnreadableReplyError) -> Reply:
    return Reply(sent=sent, error=error)


READ = {
    "length": Reply(sent=OK + b"Content-Length: 5" + HELLO),
    "length 0": Reply(sent=OK + b"Content-Length: 0\r\n\r\n", body=b""),
    "length and more": Reply(sent=OK + b"Content-Length: 5" + HELLO + OK, reusable=False),
    "until it closes": Reply(sent=OK + b"X: y" + HELLO, reusable=False),
    "chunks": Reply(sent=CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
    "chunks with leading zeros": Reply(sent=CHUNKED + b"0005\r\nhello\r\n000\r\n\r\n"),
    "chunk extension": Reply(sent=CHUNKED + b'5 ;a=b;c="d"\r\nhello\r\n0;x\r\n\r\n'),
    "trailers": Reply(sent=CHUNKED + b"5\r\nhello\r\n0\r\nTrailer: x\r\nContent-Length: 9\r\n\r\n"),
    "chunks and more": Reply(sent=CHUNKED + b"5\r\nhello\r\n0\r\n\r\n" + OK, reusable=False),
    "interim replies": Reply(
        sent=b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        + OK
        + b"Content-Length: 5"
        + HELLO
    ),
    "HEAD": Reply(sent=OK + b"Content-Length: 5\r\n\r\n", method="HEAD", body=b""),
    "HEAD with chunks": Reply(sent=CHUNKED, method="HEAD", body=b""),
    "HEAD with a body": Reply(sent=OK + b"Content-Length: 5" + HELLO, method="HEAD", body=b"", reusable=False),
    "204 with a length": Reply(sent=b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", body=b""),
    "204 with a body": Reply(sent=b"HTTP/1.1 204 No Content\r\nX: y" + HELLO, body=b"", reusable=False),
    "304 with chunks": Reply(sent=b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", body=b""),
    "close": Reply(sent=OK + b"Connection: x, Close\r\nContent-Length: 5" + HELLO, reusable=False),
    "keep-alive and close": Reply(
        sent=OK + b"Connection: keep-alive\r\nConnection: close\r\nContent-Length: 5" + HELLO, reusable=False
    ),
    "HTTP/1.0": Reply(sent=b"HTTP/1.0 200\r\nContent-Length: 5" + HELLO, reusable=False),
    "HTTP/1.0 kept alive": Reply(sent=b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5" + HELLO),
    "HTTP/1.0 without a length": Reply(sent=b"HTTP/1.0 200 OK\r\nConnection: keep-alive" + HELLO, reusable=False),
    "HTTP/1.0 with chunks": Reply(
        sent=b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        reusable=False,
    ),
    "no reason": Reply(sent=b"HTTP/1.1 200\r\nContent-Length: 5" + HELLO),
    "lines ended by LF": Reply(sent=b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"),
    "a folded header": Reply(sent=OK + b"X: a\r\n\t b\r\nContent-Length: 5" + HELLO),
    "spaces around a value": Reply(sent=OK + b"Content-Length: \t 5 \t" + HELLO),
    "a head of 60 KiB": Reply(sent=OK + b"X: " + b"a" * 60 * 1024 + b"\r\nContent-Length: 5" + HELLO),
}

REFUSED = {
    **{
        f"header {header!r}": refused(OK + header + HELLO)
        for header in (
            b"Content-Length: -5", b"Content-Length: +5", b"Content-Length: 5, 5", b"Content-Length: five",
            b"Content-Length: 0x5", b"Content-Length: 1_0", b"Content-Length:", b"Content-Length: " + b"9" * 5000,
            b"Content-Length: 5\r\nContent-Length: 5", b"Content-Length: 5\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"Content-Length: \xb25",
            b"Transfer-Encoding: gzip", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: xchunked",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"no colon", b"Space : x", b": x",
            b" first: continued", b"X: a\0b", b"X: a\rY: b", b"X: a\r\r", b"X\x01: a", b"X\xe4: a",
        )
    },
    **{
        f"status line {line!r}": refused(line + b"\r\nContent-Length: 5" + HELLO)
        for line in (
            b"SSH-2.0-OpenSSH", b"HTTP/2.0 200 OK", b"HTTP/1.7 200 OK", b"HTTP/1.1 99 OK", b"HTTP/1.1 1000 OK",
            b"HTTP/1.1", b"HTTP/1.1 2x0 OK", b"HTTP/1.1 200OK", b"HTTP/1.1 -20 OK", b"<html>", b"", b" HTTP/1.1 200 OK",
            b"HTTP/1.1 200 a\rb", b"HTTP/1.1 200 a\0b", b"http/1.1 200 OK", b"HTTP/1.1  200 OK",
        )
    },
    **{
        f"chunk size {size!r}": refused(CHUNKED + size + b"\r\nhello\r\n0\r\n\r\n")
        for size in (
            b"-5", b"+5", b"0x5", b"0_5", b" 5", b"", b"xyz", b"f" * 16, b"5\0", b"5\r", b"5;a\0", b"5;a\r",
            b"5;" + b"a" * 5000,
        )
    },
    "101": refused(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
    "a chunk size ended by LF": refused(CHUNKED + b"5\nhello\r\n0\r\n\r\n"),
    "an extension ended by LF": refused(CHUNKED + b"5;a\nhello\r\n0\r\n\r\n"),
    "a chunk ended by LF": refused(CHUNKED + b"5\r\nhello\n0\r\n\r\n"),
    "a chunk longer than its size": refused(CHUNKED + b"5\r\nhelloXX0\r\n\r\n"),
    "a trailer ended by LF": refused(CHUNKED + b"5\r\nhello\r\n0\r\nX: a\n\r\n"),
    "chunks ended by LF": refused(CHUNKED + b"5\r\nhello\r\n0\r\n\n"),
    "a trailer with CR": refused(CHUNKED + b"5\r\nhello\r\n0\r\nX: a\rb\r\n\r\n"),
    "many extensions": refused(CHUNKED + (b"1;" + b"a" * 1000 + b"\r\nx\r\n") * 70 + b"0\r\n\r\n"),
    "a huge header": refused(OK + b"X: " + b"a" * MAX_HEAD + b"\r\nContent-Length: 5" + HELLO, HeadTooLargeError),
    "many headers": refused(OK + b"X: a\r\n" * (MAX_HEAD // 6 + 1) + b"\r\nhello", HeadTooLargeError),
    "a huge trailer": refused(CHUNKED + b"0\r\nX: " + b"a" * MAX_HEAD + b"\r\n\r\n", HeadTooLargeError),
    "many trailers": refused(CHUNKED + b"0\r\n" + b"X: a\r\n" * (MAX_HEAD // 6 + 1) + b"\r\n", HeadTooLargeError),
    "nothing": refused(b"", NoReplyError),
    "an interim reply alone": refused(b"HTTP/1.1 103 Early Hints\r\n\r\n", TruncatedReplyError),
    "a truncated status line": refused(b"HTTP/1.1 2", TruncatedReplyError),
    "a truncated head": refused(OK + b"Content-", TruncatedReplyError),
    "a truncated body": refused(OK + b"Content-Length: 6" + HELLO, TruncatedReplyError),
    "a truncated chunk": refused(CHUNKED + b"6\r\nhello", TruncatedReplyError),
    "a chunk without its end": refused(CHUNKED + b"5\r\nhello\r", TruncatedReplyError),
    "chunks without the last one": refused(CHUNKED + b"5\r\nhello\r\n", TruncatedReplyError),
    "a last chunk without its end": refused(CHUNKED + b"5\r\nhello\r\n0\r\nX: a\r\n", TruncatedReplyError),
}  # fmt: skip

REPLIES = READ | REFUSED
