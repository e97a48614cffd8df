"""Forms with files (`multipart/form-data`, RFC 7578), in the forms that `requests` takes as `files=`."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from requests.utils import guess_filename
from urllib3.fields import RequestField

from registry_admin.consul import validation
from registry_admin.discovery.http.upload import FileBody, JoinedBody
from registry_admin.errors import InvalidValueError

FileContent = str | bytes | BinaryIO
FilePart = (
    FileContent
    | tuple[str | None, FileContent]
    | tuple[str | None, FileContent, str | None]
    | tuple[str | None, FileContent, str | None, Mapping[str, str]]
)
Files = Mapping[str, FilePart] | Iterable[tuple[str, FilePart]]


def encode_form(fields: Iterable[tuple[str, str]], files: Files) -> tuple[bytes | JoinedBody, str]:
    """Returns the body with these fields and files, and its content type. Files are read while they are sent.

    A file is text, bytes or a binary file that can seek, by itself or as `(filename, file, content type, headers)`, of
    which the last two may be left out. Raises InvalidValueError, which names the file.
    """
    boundary = secrets.token_hex(16)
    segments: list[bytes | FileBody] = []
    for name, value in fields:
        segments += _encode_part(boundary, RequestField(name, b""), value.encode())
    for name, part in _file_pairs(files):
        try:
            segments += _encode_part(boundary, *_read_file_part(name, part))
        except UnicodeEncodeError:
            raise InvalidValueError("files", "(not shown)", "half of a surrogate pair is not text") from None
    segments.append(f"--{boundary}--\r\n".encode())
    content_type = f"multipart/form-data; boundary={boundary}"
    in_memory = [segment for segment in segments if isinstance(segment, bytes)]
    return (b"".join(in_memory) if len(in_memory) == len(segments) else JoinedBody(segments)), content_type


def _encode_part(boundary: str, field: RequestField, content: bytes | FileBody) -> list[bytes | FileBody]:
    if "Content-Disposition" not in field.headers:
        field.make_multipart()
    return [f"--{boundary}\r\n{field.render_headers()}".encode(), content, b"\r\n"]


def _file_pairs(files: Files) -> list[tuple[str, Any]]:
    reason = "give a mapping, or pairs of a name and a file"
    if isinstance(files, (str, bytes)) or not isinstance(files, Iterable):
        raise InvalidValueError("files", f"({type(files).__name__})", reason)
    pairs = list(files.items() if isinstance(files, Mapping) else files)
    if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
        raise InvalidValueError("files", "(not shown)", reason)
    return [(name, part) for name, part in pairs if part is not None]


def _read_file_part(name: str, part: Any) -> tuple[RequestField, bytes | FileBody]:
    argument = f"files.{name}"
    content_type, headers = None, {}
    if isinstance(part, (tuple, list)):
        if not 2 <= len(part) <= 4:
            raise InvalidValueError(argument, "(not shown)", "give (filename, file, content type, headers)")
        filename, content, content_type, headers = (*part, None, None)[:4]
    else:
        filename, content = guess_filename(part) or name, part  # type: ignore[no-untyped-call]
    if not isinstance(filename, str | None):
        raise InvalidValueError(argument, f"({type(filename).__name__})", "a filename is text")
    if content_type is not None:
        headers = {**(headers or {}), "Content-Type": content_type}
    checked = validation.headers(headers or {}, argument)
    field = RequestField(name, b"", filename, headers=dict(checked))
    field.make_multipart(content_type=checked.get("Content-Type"))
    if isinstance(content, str):
        return field, content.encode()
    if isinstance(content, (bytes, bytearray, memoryview)):
        return field, bytes(content)
    return field, FileBody(content, argument)
