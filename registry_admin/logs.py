"""Log lines with their facts apart from the sentence: `key=value` for people, a JSON object a line for machines.

An event is a single line, tracebacks included, so that no text from outside can look like a line of its own.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from registry_admin.printable import escape_unprintable
from registry_admin.request_context import current_request

# What every record has; the rest came by `extra={…}` and is what the line is about.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LineFormatter(logging.Formatter):
    """`2026-11-23T12:03:07.123Z INFO registered instance=api-1 seconds=0.004`"""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record on a single line."""
        head = f"{_time(record)} {record.levelname} {escape_unprintable(_message(record))}"
        return head + "".join(f" {key}={_value(value)}" for key, value in _facts(self, record).items())


class JsonFormatter(logging.Formatter):
    """`{"time": "…", "level": "INFO", "logger": "…", "message": "registered", "instance": "api-1"}`"""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record on a single line."""
        content = {
            **_facts(self, record),
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        return json.dumps(content, default=_text)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a line with the wrong arguments is better than none
        return f"{record.msg} {record.args!r}"


def _facts(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, Any]:
    facts = {key: value for key, value in vars(record).items() if key not in _USUAL}
    request = facts.pop("request", None)  # Django's own lines have the request; its query may hold what is no log's
    if hasattr(request, "method"):
        facts |= {"method": request.method, "path": getattr(request, "path", "")}
    if request_id := current_request().request_id:
        facts["request_id"] = request_id
    if record.exc_info:
        facts["exception"] = formatter.formatException(record.exc_info)
    return facts


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - of a class that we don't know
        return f"a {type(value).__name__}"


def _value(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else escape_unprintable(_text(value))
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=') else text
