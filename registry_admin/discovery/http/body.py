"""Bodies of requests: what a caller gives as `data`, `json` and `files`, encoded before anything is sent."""

from __future__ import annotations

import datetime as dt
import json as json_codec
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, BinaryIO
from urllib.parse import urlencode
from uuid import UUID

from registry_admin.discovery.http.multipart import Files, encode_form
from registry_admin.discovery.http.upload import FileBody, Upload
from registry_admin.errors import InvalidValueError

Params = Mapping[str, Any] | Iterable[tuple[str, Any]]
Data = str | bytes | BinaryIO | Mapping[str, Any] | Iterable[tuple[str, Any]]
_PARAM_TYPES = (str, int, float, bytes, Decimal, UUID, dt.date, dt.time)


def encode_body(data: Data | None, json: Any, files: Files | None) -> tuple[bytes | Upload | None, str]:
    """Returns the body and its content type, or "" where that is the caller's affair."""
    if json is not None:
        if data is not None or files is not None:
            raise InvalidValueError("json", "(not shown)", "give either `json`, or `data` and `files`, not both")
        return _encode_json(json), "application/json"
    if files is None:
        return _encode_data(data)
    if isinstance(data, (str, bytes)) or hasattr(data, "read"):
        raise InvalidValueError("data", f"({type(data).__name__})", "beside `files` it is a mapping, or pairs")
    return encode_form(to_pairs(data or {}, "data"), files)


def _encode_data(data: Data | None) -> tuple[bytes | Upload | None, str]:
    if data is None or isinstance(data, bytes):
        return data, ""
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data), ""
    if isinstance(data, str):
        return _encode_utf8(data, "data"), ""
    if hasattr(data, "read"):
        return FileBody(data), ""
    return urlencode(to_pairs(data, "data")).encode(), "application/x-www-form-urlencoded"


def to_pairs(params: Params, field: str) -> list[tuple[str, str]]:
    """Returns pairs of text; a list of values makes several pairs with the same name, and None makes no pair."""
    refusal = InvalidValueError(field, f"({type(params).__name__})", "give a mapping, or pairs of a name and a value")
    if isinstance(params, (str, bytes)) or not isinstance(params, Iterable):
        raise refusal
    pairs: list[tuple[str, str]] = []
    try:
        items = [_to_pair(item) for item in (params.items() if isinstance(params, Mapping) else params)]
    except (TypeError, ValueError):
        raise refusal from None
    for name, value in items:
        for single in value if isinstance(value, (list, tuple)) else [value]:
            if single is None:
                continue
            if not isinstance(single, _PARAM_TYPES):
                reason = "a value is text, a number, a date, a time or a UUID"
                raise InvalidValueError(f"{field}.{name}", f"({type(single).__name__})", reason)
            text = single.decode("latin-1") if isinstance(single, bytes) else _to_text(single)
            _encode_utf8(f"{name}{text}", field)
            pairs.append((str(name), text))
    return pairs


def _to_pair(item: Any) -> tuple[Any, Any]:
    """Returns the two parts of a pair; raises TypeError for two letters or bytes, such as a line of a file."""
    if isinstance(item, (str, bytes)):
        raise TypeError("not a pair")
    name, value = item
    return name, value


def _to_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, (dt.date, dt.time)) else str(value)


def _encode_utf8(text: str, field: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidValueError(field, "(not shown)", "half of a surrogate pair is not text") from None


def _encode_json(value: Any) -> bytes:
    try:
        return json_codec.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise InvalidValueError("json", "(not shown)", f"this can't be written as JSON: {error}") from None
    except RecursionError:
        raise InvalidValueError("json", "(not shown)", "this is nested too deeply for JSON") from None
