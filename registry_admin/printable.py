"""Text from outside, made fit for messages, logs and terminals."""

from __future__ import annotations

MAX_REPR = 80


def escape_unprintable(text: str) -> str:
    """Returns `text` with each control, line-breaking or invisible character as an escape (`\\n`, `\\x1b`, `\\u202e`).

    The result is a single line that no terminal obeys.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def to_single_line(text: str, *, max_length: int | None = None) -> str:
    """Returns `text` on a single line: white space collapsed, the rest escaped, and cut to `max_length` characters."""
    line = " ".join(text.split())
    if max_length is not None:
        line = line[: max_length + 1]  # a reply of megabytes is not escaped whole
    line = escape_unprintable(line)
    return line if max_length is None or len(line) <= max_length else f"{line[: max_length - 1]}…"


def escape_lines(text: str) -> str:
    """Returns `text` escaped line by line; its line breaks stay."""
    if text.isprintable():
        return text
    return "\n".join(escape_unprintable(line) for line in text.splitlines())


def safe_repr(value: object) -> str:
    """Returns the repr of `value` on a single line of at most 80 characters. Never raises."""
    try:
        text = repr(value[:MAX_REPR] if isinstance(value, str | bytes) else value)
    except Exception:  # noqa: BLE001 - a number of 5,000 digits, or a __repr__ of the caller's own
        return f"a {type(value).__name__}"
    text = escape_unprintable(text)
    return text if len(text) <= MAX_REPR else f"{text[: MAX_REPR - 3]}..."
