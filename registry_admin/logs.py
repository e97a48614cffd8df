"""Log lines with their facts apart from the sentence: `key=value` for people, a JSON object a line for machines."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

# What every record has; the rest came by `extra={…}` and is what the line is about.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LineFormatter(logging.Formatter):
    """`2026-11-23T12:03:07.123Z INFO registered instance=api-1 seconds=0.004`"""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows on lines of its own."""
        head = f"{_time(record)} {record.levelname} {_escaped(record.getMessage())}"
        facts = "".join(f" {key}={_value(value)}" for key, value in _facts(record).items())
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return head + facts + trace


class JsonFormatter(logging.Formatter):
    """`{"time": "…", "level": "INFO", "logger": "…", "message": "registered", "instance": "api-1"}`"""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in it."""
        content = {
            **_facts(record),
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str)


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _USUAL}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else _escaped(str(value))
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=') else text


def _escaped(text: str) -> str:
    """On one line, and nothing in it that a terminal would obey: names and reasons come from outside."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
