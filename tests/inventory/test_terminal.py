"""What a person at a terminal sees of a long sync, and what a file or a program gets instead."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from tests.inventory.processes import ROOT
from tests.parts import ConsulAgent, RecordingProxy

pytestmark = pytest.mark.django_db(transaction=True)

BAR = "━"


@pytest.fixture
def recorder(own_agent: ConsulAgent, recording_proxy, use_consul) -> RecordingProxy:
    """The product reaches its agent through this, which can spoil answers."""
    proxy: RecordingProxy = recording_proxy(own_agent)
    use_consul(proxy)
    return proxy


@pytest.fixture
def sixty_declared(recorder: RecordingProxy, manage) -> RecordingProxy:
    """Sixty instances are to be registered, of which Consul refuses one."""
    places = ",".join(f"127.0.0.1:{port}" for port in range(8001, 8061))
    manage("seed_inventory", f"api={places}", REGISTRY_SYNC_ON_SAVE="0")
    recorder.spoil("^PUT /v1/agent/service/register", containing='"api-127.0.0.1-8007"', status=500)
    return recorder


def at_a_terminal(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Its exit code, and all that is shown while it runs; Consul is where it is for this process."""
    ours, theirs = pty.openpty()
    consul = {"CONSUL_HTTP_ADDR": os.environ["CONSUL_HTTP_ADDR"], "TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "manage.py", "sync_registry", *arguments],
        cwd=ROOT, env=environment | consul, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # the process has ended, and its side of the terminal with it
        pass
    code = process.wait(30)
    os.close(ours)
    return code, shown.decode()


def test_a_long_sync_shows_a_bar_and_afterwards_only_what_failed(sixty_declared, environment):
    code, shown = at_a_terminal(environment)
    assert code == 1
    assert BAR in shown
    assert "60/60" in shown
    after = shown[shown.rindex("60/60") :]
    assert "failed to register  api-127.0.0.1-8007: " in after
    assert "59 of 60 done." in after
    assert "registered  api-" not in shown


def test_as_json_there_is_no_bar_on_a_terminal_either(sixty_declared, environment):
    code, shown = at_a_terminal(environment, "--json")
    assert (code, BAR in shown) == (1, False)
    assert len(json.loads(shown)["results"]) == 60


def test_without_a_terminal_there_is_a_line_for_each_and_no_bar(sixty_declared, manage):
    ended = manage("sync_registry", CONSUL_HTTP_ADDR=os.environ["CONSUL_HTTP_ADDR"])
    assert ended.code == 1
    assert BAR not in ended.out + ended.err
    assert ended.out.count("  registered  api-127.0.0.1-") == 59
    assert "failed to register  api-127.0.0.1-8007: " in ended.out
