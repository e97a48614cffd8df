"""What a hostile service may send back."""

from __future__ import annotations

import gzip
import pickle
import zlib

import pytest
import requests

from registry_admin.discovery.policy import AttemptError, Outcome
from registry_admin.discovery.reply import Body, Reply
from registry_admin.discovery.request import build_request

LIMIT = 100_000


def body(*parts: bytes, limit: int = LIMIT) -> Body:
    made = Body(limit)
    for part in parts:
        made.add(part)
    return made


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "sent"),
    [
        ("", b"text"),
        ("identity", b"text"),
        ("gzip", gzip.compress(b"text")),
        ("X-GZIP", gzip.compress(b"text")),
        ("gzip", gzip.compress(b"te") + gzip.compress(b"xt")),
        ("deflate", zlib.compress(b"text")),
        ("deflate", raw_deflate(b"text")),
        ("gzip, deflate", zlib.compress(gzip.compress(b"text"))),
    ],
)
def test_bodies_are_decompressed(encoding, sent):
    assert body(sent).content(encoding) == b"text"


def test_an_unknown_encoding_is_left_to_the_caller():
    assert body(b"\x00\x01").content("zstd") == b"\x00\x01"


def test_an_empty_body_has_nothing_to_decompress():
    assert body().content("gzip") == b""


@pytest.mark.parametrize(("size", "fits"), [(LIMIT, True), (LIMIT + 1, False)])
@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_the_limit_is_for_the_decompressed_body(size, fits, encoding):
    sent = gzip.compress(bytes(size)) if encoding else bytes(size)
    if fits:
        assert len(body(sent).content(encoding)) == size
        return
    with pytest.raises(AttemptError, match="larger than 100000 bytes") as caught:
        body(sent).content(encoding)
    assert caught.value.outcome is Outcome.UNUSABLE


def test_an_announced_length_above_the_limit_is_refused_before_reading():
    with pytest.raises(AttemptError, match="larger than"):
        Body(LIMIT, announced=str(10 * 1024**3))
    Body(LIMIT, announced="nonsense")


def test_growing_past_the_limit_is_refused_at_once():
    growing = body(bytes(LIMIT))
    with pytest.raises(AttemptError, match="larger than"):
        growing.add(b"x")


@pytest.mark.parametrize(
    ("sent", "encoding", "outcome"),
    [
        (b"no gzip at all", "gzip", Outcome.UNUSABLE),
        (gzip.compress(b"text" * 1000)[:-12], "gzip", Outcome.MAYBE_RECEIVED),
        (gzip.compress(b"") * 1000, "gzip", Outcome.UNUSABLE),
        (gzip.compress(b"x"), "gzip, gzip, gzip, gzip", Outcome.UNUSABLE),
    ],
)
def test_a_broken_body_is_no_reply(sent, encoding, outcome):
    with pytest.raises(AttemptError) as caught:
        body(sent).content(encoding)
    assert caught.value.outcome is outcome


def test_the_response_is_whole_and_holds_no_connection():
    headers = [("Content-Type", "application/json; charset=utf-8"), ("Set-Cookie", "a=1"), ("set-cookie", "b=2")]
    made = Reply(
        build_request("api", "/x"),
        "http://10.0.0.1:80",
        sent={"X-Request-ID": "7"},
        status=404,
        reason="Not Found",
        headers=headers,
        content=b'{"a": 1}',
        elapsed_s=0.25,
    )
    response = pickle.loads(pickle.dumps(made))
    assert isinstance(made, requests.Response)
    assert (made.request.method, made.request.url) == ("GET", "http://10.0.0.1:80/x")
    assert made.request.headers["x-request-id"] == "7"
    assert (response.request.headers["x-request-id"], list(response.cookies), response.history) == ("7", [], [])
    with pytest.raises(requests.HTTPError, match="404 Client Error"):
        response.raise_for_status()
    assert (response.status_code, response.ok, response.url) == (404, False, "http://10.0.0.1:80/x")
    assert (response.json(), response.text, response.encoding) == ({"a": 1}, '{"a": 1}', "utf-8")
    assert response.headers["set-cookie"] == "a=1, b=2"
    assert response.elapsed.total_seconds() == 0.25
    assert list(made.iter_content(4)) == [b'{"a"', b": 1}"]
    made.close()
