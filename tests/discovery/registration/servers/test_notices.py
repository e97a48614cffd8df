"""Lines of the log about what a server needs beside the application."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from registry_admin.discovery.registration.servers import notices
from tests.parts import free_port, wait_until
from tests.parts.server_cases import DJANGO, STARLETTE, UWSGI
from tests.parts.servers import Server

ROOT = Path(__file__).parents[4]


def handler_of_an_event_loop() -> object:
    async def set_handler() -> object:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, print)
        return signal.getsignal(signal.SIGUSR2)

    return asyncio.run(set_handler())


def test_notices_event_loop_without_a_hook_is_named():
    handler = handler_of_an_event_loop()
    assert list(notices.notices(handler, has_hook=False)) == [notices.EVENT_LOOP]
    assert list(notices.notices(handler, has_hook=True)) == []


def test_notices_ordinary_handler_needs_nothing():
    assert list(notices.notices(signal.default_int_handler, has_hook=False)) == []
    assert list(notices.notices(signal.SIG_DFL, has_hook=False)) == []


@pytest.mark.system
def test_uwsgi_without_the_launcher_is_told_about_it(tmp_path: Path):
    port, log = free_port(), tmp_path / "log"
    command = [*UWSGI.format(port=port).split(), DJANGO, "--die-on-term"]
    environ = os.environ | {"SERVICE_NAME": "module", "SERVICE_PORT": str(port)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environ, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_until(lambda: "spawned uWSGI worker 2" in log.read_text(), 30, "its start")
        assert notices.UWSGI in log.read_text()
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # how it stops without the launcher isn't tried here
        process.wait(30)


@pytest.mark.system
def test_lifespan_under_daphne_is_told_about_what_registers(serve: Callable[..., Server]):
    server = serve("daphne", "-p", "{port}", STARLETTE)
    wait_until(lambda: notices.DAPHNE in server.log.read_text(), 30, "the line in the log")
