"""Bodies that are read from files while they are sent."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from registry_admin.discovery.http.request import build_request
from registry_admin.discovery.http.upload import UPLOAD_PART, FileBody
from registry_admin.errors import AttemptError, InvalidValueError, Outcome


def parts_of(body: FileBody) -> list[bytes]:
    parts: list[bytes] = []
    while (sent := sum(map(len, parts))) < len(body):
        parts.append(body.read_part(sent))
    return parts


def test_file_is_read_in_parts_from_its_position_and_again_after_a_rewind():
    file = io.BytesIO(b"skipped" + bytes(2 * UPLOAD_PART) + b"end")
    file.seek(7)
    body = FileBody(file)
    for _ in range(2):
        parts = parts_of(body)
        assert b"".join(parts) == bytes(2 * UPLOAD_PART) + b"end"
        assert max(map(len, parts)) == UPLOAD_PART


@pytest.mark.parametrize("change", [-1, 1])
def test_file_that_changes_its_size_meanwhile_ends_the_attempt(tmp_path: Path, change: int):
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    with path.open("rb") as file:
        body = FileBody(file)
        path.write_bytes(bytes(1000 + change))
        with pytest.raises(AttemptError, match="changed its size") as caught:
            parts_of(body)
    assert caught.value.outcome is Outcome.UNUSABLE


class Pipe:
    """A file that can't seek."""

    def read(self, _size: int = -1) -> bytes:
        return b""


@pytest.mark.parametrize("file", [io.StringIO("text"), Pipe()], ids=["text", "pipe"])
def test_file_that_can_not_be_sent_twice_is_refused(file):
    with pytest.raises(InvalidValueError, match=r"^data"):
        build_request("api", "/", method="POST", data=file)


def test_file_is_sent_as_it_is_and_with_its_length():
    request = build_request("api", "/", method="POST", data=io.BytesIO(b"a\nb\n"))
    head = request.encode_head("http://10.0.0.1:80", {})
    assert b"Content-Length: 4\r\n" in head
    assert b"form" not in head
    assert isinstance(request.body, FileBody)
    assert request.prepare("http://10.0.0.1:80", {}).headers["Content-Length"] == "4"
