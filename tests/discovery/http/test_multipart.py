"""Forms with files: the same parts as those of `requests`, read while they are sent."""

from __future__ import annotations

import io
from email import message_from_bytes
from typing import Any

import pytest
import requests

from registry_admin.discovery.http.request import build_request
from registry_admin.discovery.http.upload import UPLOAD_PART, JoinedBody, Upload
from registry_admin.errors import InvalidValueError

Part = tuple[dict[str, str], bytes]


def parse(content_type: str, body: bytes) -> list[Part]:
    """Returns headers and content of each part, as Python's mail parser reads them."""
    message = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    return [(dict(part.items()), part.get_payload(decode=True)) for part in message.get_payload()]


def our_parts(**arguments: Any) -> list[Part]:
    request = build_request("api", "/", method="POST", **arguments)
    body = request.body.read_all() if isinstance(request.body, Upload) else request.body
    assert len(request.body) == len(body)
    return parse(request.headers["Content-Type"], body)


def named_file(content: bytes, name: str) -> io.BytesIO:
    file = io.BytesIO(content)
    file.name = name
    return file


@pytest.mark.parametrize(
    "make_arguments",
    [
        lambda: {"files": {"report": ("a.txt", b"text", "text/plain", {"X-Own": "1"})}},
        lambda: {"files": {"report": io.BytesIO(b"content")}},
        lambda: {"files": {"report": named_file(b"content", "/tmp/report.csv")}},
        lambda: {"files": {"report": "text"}},
        lambda: {"files": [("page", ("1", b"one")), ("page", ("2", b"two"))]},
        lambda: {"files": {"report": ('na"me\r\n.txt', b"x")}},
        lambda: {"files": {"report": (None, b'{"a": 1}', "application/json")}},
        lambda: {"files": {"report": b"x", "missing": None}, "data": {"title": "Déjà vu", "tags": ["a", "b"]}},
        lambda: {"files": {"empty": b""}, "data": [("n", 7)]},
    ],
    ids=["all of a part", "file", "named file", "text", "same name", "quotes", "no filename", "fields", "empty"],
)
def test_form_has_the_parts_that_requests_would_send(make_arguments):
    arguments = make_arguments()
    expected = requests.Request("POST", "http://api/", **make_arguments()).prepare()
    assert our_parts(**arguments) == parse(expected.headers["Content-Type"], expected.body)


def test_file_is_read_in_parts_and_again_for_another_attempt():
    content = bytes(range(256)) * (UPLOAD_PART // 100)
    request = build_request("api", "/", method="POST", files={"a": io.BytesIO(content), "b": io.BytesIO(b"")})
    assert isinstance(request.body, JoinedBody)
    for _ in range(2):
        (_, first), (_, second) = parse(request.headers["Content-Type"], request.body.read_all())
        assert (first, second) == (content, b"")
    assert request.body.file.read() == request.body.read_all()
    assert max(len(request.body.read_part(sent)) for sent in range(0, len(request.body), 99_999)) <= UPLOAD_PART


@pytest.mark.parametrize(
    "files",
    [
        b"x", "x", [b"ab"], 7, {"a": ("n",)}, {"a": 7}, {"a": ("n", io.StringIO("x"))}, {"a": (7, b"x")},
        {"a": ("n", b"x", "text/plain\r\nX: y")}, {"a": ("n", b"x", None, {"X": "a\r\nb"})}, {"a": "\ud800"},
        {"a": ("\ud800", b"x")},
    ],
    ids=range(12),
)  # fmt: skip
def test_part_that_is_no_file_is_refused_by_its_name(files):
    with pytest.raises(InvalidValueError, match=r"^files"):
        build_request("api", "/", method="POST", files=files)


@pytest.mark.parametrize("other", [{"json": {}}, {"data": b"raw"}, {"data": "text"}, {"data": io.BytesIO()}])
def test_files_beside_a_whole_body_are_refused(other):
    with pytest.raises(InvalidValueError, match=r"^(json|data)"):
        build_request("api", "/", method="POST", files={"a": b"x"}, **other)
