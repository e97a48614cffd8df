"""Tests of scripts/run with real parts: everything starts, survives the loss of a backend, and ends completely."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from scripts.run_everything.settings import DEFAULT_PORTS, RunError, Settings
from tests.parts import consul_binary, free_ports, wait_until

ROOT = Path(__file__).parent.parent.parent
READY = "Ctrl-C ends everything"
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in /proc"),
]


@dataclass
class Run:
    """A process of scripts/run under test."""

    process: subprocess.Popen[bytes]
    ports: Mapping[str, int]
    folder: Path
    output: Path

    @property
    def text(self) -> str:
        return self.output.read_text()

    def await_ready(self) -> Run:
        wait_until(lambda: READY in self.text or self.process.poll() is not None, 120, "scripts/run to be ready")
        assert READY in self.text, self.text
        return self

    def descendants(self) -> dict[int, str]:
        """Returns the process IDs of all descendants with their command lines."""
        commands: dict[int, str] = {}
        waiting = [self.process.pid]
        while waiting:
            pid = waiting.pop()
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                commands[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
                waiting.extend(map(int, children))
        commands.pop(self.process.pid, None)
        return commands

    def enrich(self) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            url = f"http://127.0.0.1:{self.ports['RESEARCH_PORT']}/enrich"
            return session.post(url, json={"title": "Test"}, timeout=30)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """State folder of the module, so that only the first start creates a database."""
    from scripts import embedded_postgres

    folder = tmp_path_factory.mktemp("run")
    yield folder
    embedded_postgres.remove(folder / "postgres")


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return dict(zip(DEFAULT_PORTS, free_ports(len(DEFAULT_PORTS)), strict=True))


@pytest.fixture
def run(folder: Path, ports: dict[str, int], tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Returns `run(folder=…, ports=…)`: starts scripts/run, which ends with the test."""
    with ExitStack() as stack:

        def start(**options: object) -> Run:
            own_folder, own_ports = (
                Path(str(options.get("folder", folder))),
                dict(ports) | dict(options.get("ports", {})),
            )  # type: ignore[call-overload]
            output = tmp_path / f"output-{time.monotonic_ns()}"
            env = os.environ | {name: str(port) for name, port in own_ports.items()}
            env |= {"RUN_DIR": str(own_folder), "CONSUL_BIN": str(consul_binary())}
            with output.open("wb") as file:
                process = subprocess.Popen(
                    [sys.executable, "-m", "scripts.run_everything"],
                    cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
                )  # fmt: skip
            made = Run(process, own_ports, own_folder, output)
            stack.callback(made.kill)
            return made

        yield start


def test_calls_reach_both_backends_and_none_is_lost_when_a_backend_is_killed(run: Callable[..., Run]) -> None:
    running = run().await_ready()
    replies = [running.enrich() for _ in range(10)]
    backends = {f"backend-api-127.0.0.1-{running.ports[name]}" for name in ("BACKEND_PORT", "BACKEND2_PORT")}
    assert {reply.status_code for reply in replies} == {200}
    assert {reply.json()["served_by"] for reply in replies} == backends
    assert replies[0].json()["card"]["title"] == "Test"

    place = f"127.0.0.1:{running.ports['BACKEND_PORT']}"
    master = min(pid for pid, command in running.descendants().items() if place in command)
    group = [pid for pid in running.descendants() if os.getpgid(pid) == master]
    os.killpg(master, signal.SIGKILL)
    # Until the process has ended, a request can be lost there: a POST that may have been received isn't repeated.
    wait_until(lambda: not any(map(_is_alive, group)), 10, "the backend to be gone")
    replies = [running.enrich() for _ in range(100)]
    assert [reply.text for reply in replies if reply.status_code != 200] == []
    assert {reply.json()["served_by"] for reply in replies} == {
        f"backend-api-127.0.0.1-{running.ports['BACKEND2_PORT']}"
    }
    wait_until(lambda: "backend-1 has ended (signal SIGKILL); the rest goes on" in running.text, 10)


def test_announced_addresses_and_login_work(run: Callable[..., Run]) -> None:
    running = run().await_ready()
    login = re.search(r"user (\S+), password (\S+)", running.text)
    assert login, running.text
    page = f"http://localhost:{running.ports['WEB_PORT']}/admin/login/"
    assert page.removesuffix("admin/login/") in running.text
    with requests.Session() as session:
        session.get(page, timeout=30)
        form = {"username": login[1], "password": login[2], "csrfmiddlewaretoken": session.cookies["csrftoken"]}
        reply = session.post(f"{page}?next=/admin/", data=form, timeout=30)
    assert reply.url.endswith("/admin/"), "the login that was printed must be accepted"
    assert "Log out" in reply.text
    consul = re.search(r"Consul\s+(http\S+)/ui/", running.text)
    assert consul, running.text
    services = requests.get(f"{consul[1]}/v1/catalog/services", timeout=10).json()
    assert {"backend-api", "research-api", "registry-admin"} <= set(services)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_everything_in_order(run: Callable[..., Run], number: signal.Signals) -> None:
    running = run().await_ready()
    # The watcher takes over a few seconds later where that of the test before was killed and left its lease behind.
    services = f"http://127.0.0.1:{running.ports['CONSUL_PORT']}/v1/catalog/services"
    wait_until(
        lambda: "postgres" in requests.get(services, timeout=10).json(), 20, "the registration of the declared services"
    )
    processes = running.descendants()
    assert len(processes) >= 9
    running.process.send_signal(number)
    wait_until(lambda: "Ending everything" in running.text, 10)
    running.process.send_signal(number)  # whoever presses it twice gets the same orderly end
    assert running.process.wait(60) == 0
    assert "Everything has ended." in running.text
    assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []
    deregistered = re.findall(
        r"Deregistered service: service=\"?([a-z]+)", (running.folder / "logs/consul.log").read_text()
    )
    assert sorted(deregistered[:3]) == ["backend", "backend", "research"], "modules leave by themselves, and first"
    assert sorted(deregistered[3:]) == ["postgres", "registry"], "nothing stays registered"
    assert (running.folder / "logs/web.log").read_text().count("is deregistered.") == 1


def test_early_ctrl_c_ends_the_processes_started_so_far(run: Callable[..., Run]) -> None:
    running = run()
    wait_until(lambda: "Starting PostgreSQL" in running.text and running.descendants(), 60)
    processes = running.descendants()
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(60) == 0
    assert READY not in running.text
    assert "Traceback" not in running.text
    assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []


def test_processes_end_when_the_command_is_killed(run: Callable[..., Run]) -> None:
    running = run().await_ready()
    processes = running.descendants()
    running.process.kill()
    wait_until(lambda: not [pid for pid in processes if _is_alive(pid)], 30, "its processes to end too")


def test_part_that_can_not_start_is_shown_with_the_end_of_its_log(
    run: Callable[..., Run], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from scripts import embedded_postgres

    invalid = tmp_path / "invalid"
    embedded_postgres.prepare(invalid / "postgres")
    request.addfinalizer(lambda: embedded_postgres.remove(invalid / "postgres"))
    (invalid / "postgres/data/postgresql.conf").unlink()
    running = run(folder=invalid, ports=dict(zip(DEFAULT_PORTS, free_ports(len(DEFAULT_PORTS)), strict=True)))
    assert running.process.wait(60) == 1
    assert "postgres ended while it was starting (exit code 2)" in running.text
    assert "does not contain" in running.text or "could not access the server configuration" in running.text
    assert "Everything has ended." in running.text
    assert "Traceback" not in running.text


def test_taken_port_is_named_with_its_variable_and_a_free_port(run: Callable[..., Run], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        running = run(folder=tmp_path / "other", ports={"BACKEND_PORT": port})
        assert running.process.wait(60) == 1
    assert f"Port {port} (BACKEND_PORT) is taken." in running.text
    assert re.search(r"choose another: BACKEND_PORT=\d+ scripts/run", running.text)
    assert "Starting" not in running.text


def test_second_run_in_the_same_folder_is_refused(run: Callable[..., Run]) -> None:
    first = run().await_ready()
    second = run()
    assert second.process.wait(60) == 1
    assert "It runs already" in second.text
    assert first.enrich().status_code == 200


@pytest.mark.parametrize("port", ["0", "65536", "-1", "eighty", "٨٠"])
def test_invalid_port_is_named(port: str) -> None:
    with pytest.raises(RunError, match="WEB_PORT"):
        Settings.from_env({"WEB_PORT": port, "CONSUL_BIN": "consul"})


def test_two_parts_with_the_same_port_are_refused() -> None:
    with pytest.raises(RunError, match="WEB_PORT and CONSUL_PORT are both 8500"):
        Settings.from_env({"WEB_PORT": "8500", "CONSUL_BIN": "consul"})


def test_consul_and_database_of_the_shell_are_not_used() -> None:
    shell = {
        "CONSUL_HTTP_ADDR": "elsewhere:8500",
        "DATABASE_URL": "postgres://elsewhere",
        "SERVICE_NAME": "x",
        "HOME": "/",
    }
    assert Settings.from_env({**shell, "CONSUL_BIN": "consul"}).inherited == {"HOME": "/"}


def _is_alive(pid: int) -> bool:
    """Returns whether the process runs; a zombie doesn't."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
