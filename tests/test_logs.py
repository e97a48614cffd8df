"""Log lines as people and machines read them."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from registry_admin.logs import JsonFormatter, LineFormatter


def record(message: str, *arguments: object, **facts: object) -> logging.LogRecord:
    return logging.getLogger("registry_admin.test").makeRecord(
        "registry_admin.test", logging.INFO, __file__, 1, message, arguments, None, extra=facts
    )


def test_a_line_has_the_time_the_level_the_sentence_and_the_facts():
    line = LineFormatter().format(
        record("registered %s", "x", instance="api-1", seconds=0.00412, reason="not there yet")
    )
    time, rest = line.split(" ", 1)
    assert time.endswith("Z")
    assert "T" in time
    assert rest == 'INFO registered x instance=api-1 seconds=0.004 reason="not there yet"'


def test_log_text_from_outside_stays_on_its_line_without_escapes():
    line = LineFormatter().format(record("bad\nINFO forged", instance="a\x1b[31m\nb"))
    assert "\n" not in line
    assert "\x1b" not in line


def test_json_is_one_object_a_line_with_the_facts_beside_the_message():
    line = JsonFormatter().format(
        record(
            "registered",
            instance="api-1",
            seconds=0.004,
            odd={
                "a",
            },
        )
    )
    content = json.loads(line)
    assert "\n" not in line
    assert (content["message"], content["level"], content["instance"]) == ("registered", "INFO", "api-1")
    assert content["seconds"] == 0.004


@pytest.mark.parametrize("formatter", [LineFormatter(), JsonFormatter()])
def test_a_traceback_is_kept(formatter):
    broken = record("it failed")
    try:
        int("because")
    except ValueError:
        broken.exc_info = sys.exc_info()
    assert "ValueError: invalid literal" in formatter.format(broken)


def test_a_fact_never_hides_what_every_line_has():
    facts = {"time": "forged", "level": "forged", "logger": "forged"}
    content = json.loads(JsonFormatter().format(record("true", **facts)))
    assert "forged" not in content.values()
