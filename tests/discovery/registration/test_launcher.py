"""The launcher, run as people do: what it starts, passes on and returns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parts import ConsulAgent, wait_until
from tests.parts.server_cases import BIN, LAUNCHER, STARLETTE
from tests.parts.servers import Server

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[3]


def launch(consul_agent: ConsulAgent, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | consul_agent.env | {"SERVICE_NAME": "job", "SERVICE_PORT": "1"}
    command = [sys.executable, "-m", "registry_admin.discovery", "run", *arguments]
    return subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("program", "code"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_launcher_returns_the_code_of_its_command(consul_agent: ConsulAgent, program: str, code: int) -> None:
    assert launch(consul_agent, "--", sys.executable, "-c", program).returncode == code


def test_launcher_passes_arguments_and_output_on_unchanged(consul_agent: ConsulAgent) -> None:
    program = "import sys; print(sys.argv[1:])"
    done = launch(consul_agent, "--", sys.executable, "-c", program, "--json", "--", "-h", "a b")
    assert done.stdout == "['--json', '--', '-h', 'a b']\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [([], 2, "Give the command"), (["--", "/no/such/server"], 127, "/no/such/server can't be started")],
    ids=["no command", "missing program"],
)
def test_launcher_without_a_program_says_what_to_do(
    consul_agent: ConsulAgent, arguments: list[str], code: int, message: str
) -> None:
    done = launch(consul_agent, *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert message in done.stderr


def test_launcher_registers_once_and_ends_with_its_command(serve: Callable[..., Server]) -> None:
    server = serve("registry_admin.discovery", "run", "--", sys.executable, "-m", "tests.modules.script", "handler")
    wait_until(server.is_registered, 30, "the registration")
    (command,) = server.workers()
    os.kill(command, signal.SIGTERM)
    assert server.process.wait(30) == 0
    assert (server.is_registered(), server.count("register"), server.count("deregister")) == (False, 1, 1)


def test_launcher_reload_of_hypercorn_keeps_the_registration(serve: Callable[..., Server]) -> None:
    server = serve(*f"{LAUNCHER} {BIN}/hypercorn -b 127.0.0.1:{{port}} {STARLETTE}".split())
    wait_until(server.is_registered, 30, "the registration")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.log.read_text().count("Running on") == 2, 30, "the reload")
    wait_until(server.answers, 30, "an answer of the new worker")
    assert (server.count("register"), server.count("deregister")) == (1, 0)
