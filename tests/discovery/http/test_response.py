"""Bodies within a limit, and the response that both clients return."""

from __future__ import annotations

import gzip
import pickle
import zlib

import pytest
import requests

from registry_admin.discovery.http.request import build_request
from registry_admin.discovery.http.response import ResponseBody, ServiceResponse, parse_length
from registry_admin.errors import AttemptError, Outcome

LIMIT = 100_000


def body(*parts: bytes, limit: int = LIMIT) -> ResponseBody:
    collected = ResponseBody(limit)
    for part in parts:
        collected.add(part)
    return collected


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)  # without a time, so that the tests' IDs are the same in every process


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "sent"),
    [
        ("", b"text"),
        ("identity", b"text"),
        ("gzip", packed(b"text")),
        ("X-GZIP", packed(b"text")),
        ("gzip", packed(b"te") + packed(b"xt")),
        ("deflate", zlib.compress(b"text")),
        ("deflate", raw_deflate(b"text")),
        ("gzip, deflate", zlib.compress(packed(b"text"))),
    ],
)
def test_body_is_decompressed_by_its_encoding(encoding, sent):
    assert body(sent).decode(encoding) == b"text"


def test_body_with_an_unknown_encoding_is_not_decompressed():
    assert body(b"\x00\x01").decode("zstd") == b"\x00\x01"


def test_empty_body_is_not_decompressed():
    assert body().decode("gzip") == b""


@pytest.mark.parametrize(("size", "fits"), [(LIMIT, True), (LIMIT + 1, False)])
@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_body_limit_is_for_the_decompressed_body(size, fits, encoding):
    sent = packed(bytes(size)) if encoding else bytes(size)
    if fits:
        assert len(body(sent).decode(encoding)) == size
        return
    with pytest.raises(AttemptError, match="larger than 100000 bytes") as caught:
        body(sent).decode(encoding)
    assert caught.value.outcome is Outcome.UNUSABLE


def test_announced_length_above_the_limit_is_refused_before_reading():
    with pytest.raises(AttemptError, match="larger than"):
        ResponseBody(LIMIT).announce(10 * 1024**3)
    ResponseBody(LIMIT).announce(LIMIT)


@pytest.mark.parametrize(
    ("text", "length"), [("7", 7), (None, None), ("", None), ("nonsense", None), ("-1", None), ("٣", None)]
)
def test_parse_length_reads_only_digits(text, length):
    assert parse_length(text) == length


def test_body_part_above_the_limit_is_refused_at_once():
    growing = body(bytes(LIMIT))
    with pytest.raises(AttemptError, match="larger than"):
        growing.add(b"x")


@pytest.mark.parametrize(
    ("sent", "encoding", "outcome"),
    [
        (b"no gzip at all", "gzip", Outcome.UNUSABLE),
        (packed(b"text" * 1000)[:-12], "gzip", Outcome.MAYBE_RECEIVED),
        (packed(b"") * 1000, "gzip", Outcome.UNUSABLE),
        (packed(b"x"), "gzip, gzip, gzip, gzip", Outcome.UNUSABLE),
    ],
)
def test_malformed_body_is_refused(sent, encoding, outcome):
    with pytest.raises(AttemptError) as caught:
        body(sent).decode(encoding)
    assert caught.value.outcome is outcome


def test_service_response_is_a_whole_response_of_requests():
    headers = [("Content-Type", "application/json; charset=utf-8"), ("Set-Cookie", "a=1"), ("set-cookie", "b=2")]
    original = ServiceResponse(
        build_request("api", "/x"),
        "http://10.0.0.1:80",
        sent_headers={"X-Request-ID": "7"},
        status=404,
        reason="Not Found",
        headers=headers,
        content=b'{"a": 1}',
        elapsed_s=0.25,
    )
    response = pickle.loads(pickle.dumps(original))
    assert isinstance(original, requests.Response)
    assert (original.request.method, original.request.url) == ("GET", "http://10.0.0.1:80/x")
    assert original.request.headers["x-request-id"] == "7"
    assert (response.request.headers["x-request-id"], response.history) == ("7", [])
    assert dict(response.cookies) == {"a": "1", "b": "2"}
    with pytest.raises(requests.HTTPError, match="404 Client Error"):
        response.raise_for_status()
    assert (response.status_code, response.ok, response.url) == (404, False, "http://10.0.0.1:80/x")
    assert (response.json(), response.text, response.encoding) == ({"a": 1}, '{"a": 1}', "utf-8")
    assert response.headers["set-cookie"] == "a=1, b=2"
    assert response.elapsed.total_seconds() == 0.25
    assert list(original.iter_content(4)) == [b'{"a"', b": 1}"]
    original.close()
