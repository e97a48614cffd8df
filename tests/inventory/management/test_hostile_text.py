"""Commands and log lines on a real Consul that holds everything hostile: each line stays one, and no terminal obeys."""

from __future__ import annotations

import itertools
import json
import re
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from registry_admin.inventory.models import HealthTransition
from tests.parts import wait_until
from tests.parts.hostile import SERVICE

pytestmark = pytest.mark.django_db(transaction=True)

LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) .+")
FORGED = "a\n2026-11-27T00:00:00.000Z ERROR forged\x1b[31m\u2028b"


def output_of(*command: str) -> str:
    out = StringIO()
    try:
        call_command(*command, stdout=out, stderr=out)
    except CommandError as error:
        return f"{out.getvalue()}{error}\n"
    except SystemExit:
        pass
    return out.getvalue()


@pytest.mark.parametrize(
    "command",
    [
        ["sync_registry", "--dry-run"],
        ["sync_registry", "--dry-run", "--json"],
        ["sync_registry", "--service", "a\nb"],
        ["export_registry"],
        ["export_registry", "--service", "a\x1b[31m"],
        ["take_over_registry", "--from-owner", "a\nb"],
        ["prune_history", "--older-than", "a\nb"],
        ["import_registry", "a\x1b[31m\nb"],
        ["seed_inventory"],
    ],
    ids=ascii,
)
def test_command_prints_only_printable_lines(hostile_consul, use_consul, declare, command):
    use_consul(hostile_consul.agent)
    declare("api", 8001)
    text = output_of(*command)
    assert text
    assert [line for line in text.split("\n") if not line.isprintable()] == []


@pytest.mark.parametrize("log_format", ["line", "json"])
def test_watcher_writes_a_single_line_for_each_event(watch, hostile_consul, log_format):
    watcher = watch(CONSUL_HTTP_ADDR=hostile_consul.agent.url, LOG_FORMAT=log_format)
    updates = itertools.cycle([{"Status": "passing", "Output": FORGED}, {"Status": "critical", "Output": FORGED}])

    def is_flapping_logged() -> bool:
        hostile_consul.agent.request("PUT", "/v1/agent/check/update/check-0", body=next(updates))
        return "forged" in watcher.log

    wait_until(is_flapping_logged, 30, "the watcher to log a change of health")
    lines = watcher.log.split("\n")
    assert [line for line in lines if not line.isprintable()] == []
    is_line = LOG_LINE.fullmatch if log_format == "line" else json.loads
    assert all(is_line(line) for line in lines if line)
    if connection.vendor == "postgresql":  # else the watcher has a database of its own
        assert HealthTransition.objects.filter(service_name=SERVICE, output__contains="\n2026").exists()
