"""Output of a long sync: a progress bar at a terminal, plain lines in a file or a pipe."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from tests.parts import ConsulAgent, RecordingProxy
from tests.parts.manage_process import ROOT

pytestmark = pytest.mark.django_db(transaction=True)

BAR = "━"


@pytest.fixture
def recorder(own_agent: ConsulAgent, recording_proxy, use_consul) -> RecordingProxy:
    """Proxy between the product and its agent; can replace replies."""
    proxy: RecordingProxy = recording_proxy(own_agent)
    use_consul(proxy)
    return proxy


@pytest.fixture
def sixty_declared(recorder: RecordingProxy, manage) -> RecordingProxy:
    """Declares sixty instances; Consul refuses api-127.0.0.1-8007."""
    places = ",".join(f"127.0.0.1:{port}" for port in range(8001, 8061))
    manage("seed_inventory", f"api={places}", REGISTRY_SYNC_ON_SAVE="0")
    recorder.inject_fault("^PUT /v1/agent/service/register", containing='"api-127.0.0.1-8007"', status=500)
    return recorder


def run_at_terminal(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Runs a sync at a pseudo-terminal, with this process's Consul, and returns its exit code and output."""
    terminal, process_end = pty.openpty()
    consul = {"CONSUL_HTTP_ADDR": os.environ["CONSUL_HTTP_ADDR"], "TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "manage.py", "sync_registry", *arguments],
        cwd=ROOT, env=environment | consul, stdout=process_end, stderr=process_end,
    )  # fmt: skip
    os.close(process_end)
    output = b""
    try:
        while piece := os.read(terminal, 65536):
            output += piece
    except OSError:  # the process has ended, and its side of the terminal with it
        pass
    code = process.wait(30)
    os.close(terminal)
    return code, output.decode()


def test_terminal_shows_progress_bar_and_failures_of_long_sync(sixty_declared, environment):
    code, output = run_at_terminal(environment)
    assert code == 1
    assert BAR in output
    assert "60/60" in output
    after = output[output.rindex("60/60") :]
    assert "failed to register  api-127.0.0.1-8007: " in after
    assert "59 of 60 done." in after
    assert "registered  api-" not in output


def test_terminal_shows_no_progress_bar_with_json(sixty_declared, environment):
    code, output = run_at_terminal(environment, "--json")
    assert (code, BAR in output) == (1, False)
    assert len(json.loads(output)["results"]) == 60


def test_output_without_terminal_has_one_line_per_result(sixty_declared, manage):
    ended = manage("sync_registry", CONSUL_HTTP_ADDR=os.environ["CONSUL_HTTP_ADDR"])
    assert ended.code == 1
    assert BAR not in ended.out + ended.err
    assert ended.out.count("  registered  api-127.0.0.1-") == 59
    assert "failed to register  api-127.0.0.1-8007: " in ended.out
