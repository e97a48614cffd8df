"""Paths of requests to Consul's API, quoted so that they reach the endpoint that was meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self
from urllib.parse import quote

from registry_admin.errors import InvalidValueError


class RequestPath(str):
    """Path of a request made of segments, of which the last is a valid ID: it may hold slashes."""

    __slots__ = ("segments",)
    segments: tuple[str, ...]

    def __new__(cls, segments: Iterable[str]) -> Self:
        """Joins the segments behind `/v1`."""
        pieces = ("", "v1", *segments)
        path = super().__new__(cls, "/".join(pieces))
        path.segments = pieces
        return path


def quoted(path: str) -> str:
    """Returns the path with each segment quoted. Refuses dot segments: they would reach another endpoint."""
    segments = list(path.segments) if isinstance(path, RequestPath) else path.split("/")
    if segments[:2] != ["", "v1"] or any(segment in ("", ".", "..") for segment in segments[1:-1]):
        raise InvalidValueError("path", path, "a name or ID must not be '.', '..' or hold them between slashes")
    if segments[-1] in (".", ".."):
        raise InvalidValueError("path", path, "a name or ID must not be '.' or '..'")
    return "/".join(quote(segment, safe=":@") for segment in segments)
