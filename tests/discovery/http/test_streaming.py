"""Bodies in parts and lines, however they are cut."""

from __future__ import annotations

import gzip
import itertools
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.discovery.http.framing import TruncatedReplyError
from registry_admin.discovery.http.streaming import PART, LineSplitter, StreamDecoder
from registry_admin.errors import AttemptError

TEXT = b"some text that repeats " * 20_000


def bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKED = {
    "gzip": gzip.compress(TEXT),
    "deflate": zlib.compress(TEXT),
    "Deflate ": bare_deflate(TEXT),
    "x-gzip": gzip.compress(TEXT[:1000]) + gzip.compress(TEXT[1000:]),
    "": TEXT,
    "br": TEXT,
}


def decode(decoder: StreamDecoder, data: bytes, size: int) -> list[bytes]:
    parts = []
    for position in range(0, len(data), size):
        parts += decoder.decode(data[position : position + size])
    decoder.check_end()
    return parts


@pytest.mark.parametrize("size", [1, 7, 1000, 10_000_000])
@pytest.mark.parametrize("encoding", PACKED)
def test_body_is_decoded_however_it_is_cut(encoding, size):
    data = PACKED[encoding] if size > 1 else PACKED[encoding][:50_000]
    expected = TEXT if data == PACKED[encoding] else TEXT[:50_000]
    parts = decode(StreamDecoder(encoding), data, size)
    assert b"".join(parts) == expected
    assert max(map(len, parts)) <= PART


def test_bomb_is_handed_out_in_small_parts():
    parts = StreamDecoder("gzip").decode(gzip.compress(bytes(50_000_000)))
    assert len(next(parts)) == PART


@pytest.mark.parametrize(
    "packed", [gzip.compress(TEXT)[:-9], gzip.compress(TEXT)[:1]], ids=["trailer", "all but a byte"]
)
def test_end_in_the_middle_of_what_is_compressed_is_noticed(packed):
    with pytest.raises(TruncatedReplyError):
        decode(StreamDecoder("gzip"), packed, 100)


@pytest.mark.parametrize(
    "data",
    [b"no gzip at all", gzip.compress(TEXT) + b"garbage", b"\x1f\x8bxxxxxxxxxxxxx"],
    ids=["other", "followed", "magic only"],
)
def test_decode_data_that_is_not_compressed_is_refused(data):
    with pytest.raises(AttemptError, match="decompressed"):
        decode(StreamDecoder("gzip"), data, 5)


def lines(splitter: LineSplitter, data: bytes, cuts: list[int]) -> list[bytes]:
    split_lines = []
    positions = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(positions):
        split_lines += splitter.split(data[start:end])
    return split_lines + splitter.finish()


@given(st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\r\n", b"\x0b", b"\x85"])), st.lists(st.integers(0, 40)))
def test_lines_are_those_of_the_whole_body(pieces, cuts):
    data = b"".join(pieces)
    assert lines(LineSplitter(1000), data, cuts) == data.splitlines()


@given(st.lists(st.sampled_from([b"a", b"-", b"--", b"\n"])), st.lists(st.integers(0, 40)))
def test_delimited_lines_are_those_of_the_whole_body(pieces, cuts):
    data = b"".join(pieces)
    expected = data.split(b"--")
    assert lines(LineSplitter(1000, b"--"), data, cuts) == (expected if expected[-1] else expected[:-1])


def test_line_without_an_end_is_refused_above_the_limit():
    splitter = LineSplitter(1000)
    assert splitter.split(b"x" * 1000) == []
    with pytest.raises(AttemptError, match="longer than 1000 bytes"):
        splitter.split(b"x")
