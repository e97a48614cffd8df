"""Text from outside can neither begin a line of its own nor speak to a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.printable import escape_lines, escape_unprintable, safe_repr, to_single_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Größe 10 €", "Größe 10 €"),
        ("a\nb", "a\\nb"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("", ""),
    ],
)
def test_escape_unprintable_writes_out_what_a_terminal_obeys(text, expected):
    assert escape_unprintable(text) == expected


@given(st.text())
def test_escape_unprintable_returns_a_printable_line(text):
    assert escape_unprintable(text).isprintable()


def test_escape_lines_keeps_line_breaks_only():
    assert escape_lines("first\nsecond\x07\r\nthird") == "first\nsecond\\x07\nthird"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("  two\n word ", "two word"), ("bell\x07", "bell\\x07"), ("12345678", "12345678"), ("123456789", "1234567…")],
)
def test_to_single_line_collapses_escapes_and_cuts(text, expected):
    assert to_single_line(text, max_length=8) == expected


@given(st.text(), st.integers(1, 50))
def test_to_single_line_is_never_longer_than_allowed(text, max_length):
    line = to_single_line(text, max_length=max_length)
    assert line.isprintable()
    assert len(line) <= max_length


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError


class Multiline:
    def __repr__(self) -> str:
        return "first\nsecond"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x", "'x'"),
        ("x" * 200, "'" + "x" * 76 + "..."),
        (Unshowable(), "a Unshowable"),
        (Multiline(), "first\\nsecond"),
        (10**5000, "a int"),
    ],
    ids=["text", "long text", "raising", "several lines", "huge number"],
)
def test_safe_repr_is_short_and_on_one_line(value, expected):
    assert safe_repr(value) == expected
