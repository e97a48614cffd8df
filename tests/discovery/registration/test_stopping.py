"""Leaving Consul before a server stops accepting: no call is lost, with real servers under load.

With TEST_SERVERS=all, every server and mode is stopped in every way, for the table in docs/reference/servers.md.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from registry_admin.consul import ServiceRegistry
from tests.parts import wait_until
from tests.parts.load import load_on
from tests.parts.server_cases import ALL, BIN, CORE, INT, RELOADS, RELOADS_CORE, TERM, ReloadCase, ServerCase
from tests.parts.servers import Server, children_of, has_joined, has_threads

pytestmark = pytest.mark.system

STOPS = [(TERM, "main"), (INT, "group"), (TERM, "group"), (INT, "main")]
if os.environ.get("TEST_SERVERS") == "all":
    STOPPED, RELOADED = list(itertools.product(ALL, STOPS)), RELOADS
else:
    STOPPED, RELOADED = list(zip(CORE, itertools.cycle(STOPS), strict=False)), RELOADS_CORE


@pytest.mark.parametrize(
    ("case", "signum", "target"),
    [
        pytest.param(case, signum, target, id=f"{case.name}-{signum.name}-{target}")
        for case, (signum, target) in STOPPED
    ],
)
def test_server_stopped_under_load_loses_no_call(
    serve: Callable[..., Server], registry: ServiceRegistry, case: ServerCase, signum: signal.Signals, target: str
) -> None:
    server = serve(*case.command.split())
    wait_until(server.is_registered, 30, "the registration")
    wait_until(server.answers, 30, "an answer")
    # Before a worker has imported its module, it can miss a signal.
    wait_until(lambda: sum(map(has_threads, server.workers())) >= case.workers, 30, "all workers")
    with load_on(registry, "module") as load:
        wait_until(lambda: load.done >= 10, 10, "calls")
        if signum not in case.cuts:
            load.call("/slow")
        done = load.done
        wait_until(lambda: load.done >= done + 5, 10, "more calls")
        if target == "main":
            server.process.send_signal(signum)
        else:
            os.killpg(server.process.pid, signum)
        server.process.wait(30)
        wait_until(lambda: load.unlisted, 10, "the end of the registration")
    assert not server.is_registered()
    assert (load.lost, server.count("register"), server.count("deregister")) == ([], 1, 1)


@pytest.mark.parametrize("case", RELOADED, ids=lambda case: case.name)
def test_server_reloaded_under_load_loses_no_call_and_stays_registered(
    serve: Callable[..., Server], registry: ServiceRegistry, case: ReloadCase
) -> None:
    server = serve(*case.command.split())
    wait_until(server.is_registered, 30, "the registration")
    wait_until(server.answers, 30, "an answer")
    former = set(filter(has_threads, server.workers()))
    with load_on(registry, "module") as load:
        wait_until(lambda: load.done >= 5, 10, "calls")
        load.call("/slow")
        if case.signum is not None:
            server.process.send_signal(case.signum)
        wait_until(lambda: not server.workers() & former, 30, "other workers")
        done = load.done
        wait_until(lambda: load.done >= done + 50, 30, "more calls")
    assert server.is_registered()
    assert (load.lost, load.unlisted, server.count("register"), server.count("deregister")) == ([], 0, 1, 0)


def test_gunicorn_scaled_down_under_load_loses_no_call_and_stays_registered(
    serve: Callable[..., Server], registry: ServiceRegistry
) -> None:
    server = serve(*CORE[0].command.split())
    wait_until(server.is_registered, 30, "the registration")
    wait_until(lambda: len(server.workers()) == 2, 30, "both workers")
    with load_on(registry, "module") as load:
        wait_until(lambda: load.done >= 5, 10, "calls")
        server.process.send_signal(signal.SIGTTOU)
        wait_until(lambda: len(server.workers()) == 1, 30, "one worker less")
        done = load.done
        wait_until(lambda: load.done >= done + 20, 30, "more calls")
    assert server.is_registered()
    assert (load.lost, load.unlisted, server.count("register"), server.count("deregister")) == ([], 0, 1, 0)


def test_gunicorn_replaced_by_a_new_master_under_load_loses_no_call_and_stays_registered(
    serve: Callable[..., Server], registry: ServiceRegistry, tmp_path: Path
) -> None:
    pid_file = tmp_path / "gunicorn.pid"
    # As a module, gunicorn starts its successor with its own folder first on the path.
    server = serve(str(BIN / "gunicorn"), *CORE[0].command.split()[1:], "--pid", str(pid_file))
    wait_until(server.is_registered, 30, "the registration")
    wait_until(server.answers, 30, "an answer")
    with load_on(registry, "module") as load:
        wait_until(lambda: load.done >= 5, 10, "calls")
        server.process.send_signal(signal.SIGUSR2)
        new_pid_file = pid_file.with_name("gunicorn.pid.2")
        new_master = wait_until(lambda: new_pid_file.exists() and int(new_pid_file.read_text() or 0), 30, "its file")
        wait_until(lambda: len(children_of(new_master)) == 2, 30, "its workers")
        wait_until(lambda: all(map(has_joined, children_of(new_master))), 30, "their share in the registration")
        server.process.terminate()
        server.process.wait(30)
        done = load.done
        wait_until(lambda: load.done >= done + 20, 30, "more calls")
        assert server.is_registered()
        assert (load.lost, server.count("register"), server.count("deregister")) == ([], 1, 0)
        os.kill(new_master, signal.SIGTERM)
        wait_until(lambda: not server.is_registered(), 30, "the end of the registration")
    assert (load.lost, server.count("register"), server.count("deregister")) == ([], 1, 1)
