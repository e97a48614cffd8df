"""scripts/run for real: everything starts, survives losing a backend, and ends without leaving anything behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from scripts.run_everything.settings import DEFAULT_PORTS, RunError, Settings
from tests.parts import consul_binary, free_ports, wait_until

ROOT = Path(__file__).parent.parent.parent
READY = "Ctrl-C ends everything"
pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in /proc")


@dataclass
class Run:
    """One scripts/run under test."""

    process: subprocess.Popen[bytes]
    ports: Mapping[str, int]
    folder: Path
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text()

    def await_ready(self) -> Run:
        wait_until(lambda: READY in self.said or self.process.poll() is not None, 120, "scripts/run to be ready")
        assert READY in self.said, self.said
        return self

    def descendants(self) -> dict[int, str]:
        """All processes below it with their command lines."""
        found: dict[int, str] = {}
        waiting = [self.process.pid]
        while waiting:
            pid = waiting.pop()
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            for child in map(int, children):
                found[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
                waiting.append(child)
        return found

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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, so that only the first start has to make a database."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return dict(zip(DEFAULT_PORTS, free_ports(len(DEFAULT_PORTS)), strict=True))


@pytest.fixture
def run(folder: Path, ports: dict[str, int], tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """`run(folder=…, ports=…)`: starts it; it is ended with the test."""
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


def test_a_call_reaches_both_backends_and_none_is_lost_when_one_is_killed(run: Callable[..., Run]) -> None:
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
    # Until it is gone a request can still reach it and be lost, and a POST that may have been received isn't repeated.
    wait_until(lambda: not any(map(_is_alive, group)), 10, "the backend to be gone")
    replies = [running.enrich() for _ in range(100)]
    assert [reply.text for reply in replies if reply.status_code != 200] == []
    assert {reply.json()["served_by"] for reply in replies} == {
        f"backend-api-127.0.0.1-{running.ports['BACKEND2_PORT']}"
    }
    wait_until(lambda: "backend-1 has ended (signal SIGKILL); the rest goes on" in running.said, 10)


def test_what_is_announced_is_there(run: Callable[..., Run]) -> None:
    running = run().await_ready()
    login = re.search(r"user (\S+), password (\S+)", running.said)
    assert login, running.said
    page = f"http://localhost:{running.ports['WEB_PORT']}/admin/login/"
    assert page.removesuffix("admin/login/") in running.said
    with requests.Session() as session:
        session.get(page, timeout=30)
        form = {"username": login[1], "password": login[2], "csrfmiddlewaretoken": session.cookies["csrftoken"]}
        reply = session.post(f"{page}?next=/admin/", data=form, timeout=30)
    assert reply.url.endswith("/admin/"), "the login that was printed must be accepted"
    assert "Log out" in reply.text
    consul = re.search(r"Consul\s+(http\S+)/ui/", running.said)
    assert consul, running.said
    services = requests.get(f"{consul[1]}/v1/catalog/services", timeout=10).json()
    assert {"backend-api", "research-api", "registry-admin"} <= set(services)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_in_order(run: Callable[..., Run], number: signal.Signals) -> None:
    running = run().await_ready()
    # The watcher takes over a few seconds later where that of the test before was killed and left its lease behind.
    services = f"http://127.0.0.1:{running.ports['CONSUL_PORT']}/v1/catalog/services"
    wait_until(lambda: "postgres" in requests.get(services, timeout=10).json(), 20, "what is declared to be registered")
    processes = running.descendants()
    assert len(processes) >= 9
    running.process.send_signal(number)
    wait_until(lambda: "Ending everything" in running.said, 10)
    running.process.send_signal(number)  # whoever presses it twice gets the same orderly end
    assert running.process.wait(60) == 0
    assert "Everything has ended." in running.said
    assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []
    deregistered = re.findall(
        r"Deregistered service: service=\"?([a-z]+)", (running.folder / "logs/consul.log").read_text()
    )
    assert sorted(deregistered[:3]) == ["backend", "backend", "research"], "modules leave by themselves, and first"
    assert sorted(deregistered[3:]) == ["postgres", "registry"], "nothing stays registered"
    assert (running.folder / "logs/web.log").read_text().count("is deregistered.") == 1


def test_an_early_ctrl_c_ends_what_was_started_so_far(run: Callable[..., Run]) -> None:
    running = run()
    wait_until(lambda: "Starting PostgreSQL" in running.said and running.descendants(), 60)
    processes = running.descendants()
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(60) == 0
    assert READY not in running.said
    assert "Traceback" not in running.said
    assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []


def test_nothing_lingers_when_it_is_killed_itself(run: Callable[..., Run]) -> None:
    running = run().await_ready()
    processes = running.descendants()
    running.process.kill()
    wait_until(lambda: not [pid for pid in processes if _is_alive(pid)], 30, "its processes to end too")


def test_a_part_that_can_not_start_is_shown_with_its_last_words(run: Callable[..., Run], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    (broken / "postgres/data").mkdir(parents=True)
    (broken / "postgres/data").chmod(0o700)
    (broken / "postgres/password").write_text("x")
    if os.geteuid() == 0:
        from scripts.embedded_postgres import owner_id

        os.chown(broken / "postgres/data", owner_id(), -1)
    running = run(folder=broken, ports=dict(zip(DEFAULT_PORTS, free_ports(len(DEFAULT_PORTS)), strict=True)))
    assert running.process.wait(60) == 1
    assert "postgres ended while it was starting (exit code 2)" in running.said
    assert "does not contain" in running.said or "could not access the server configuration" in running.said
    assert "Everything has ended." in running.said
    assert "Traceback" not in running.said


def test_a_taken_port_is_named_with_the_variable_and_a_free_one(run: Callable[..., Run], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        running = run(folder=tmp_path / "other", ports={"BACKEND_PORT": port})
        assert running.process.wait(60) == 1
    assert f"Port {port} (BACKEND_PORT) is taken." in running.said
    assert re.search(r"choose another: BACKEND_PORT=\d+ scripts/run", running.said)
    assert "Starting" not in running.said


def test_a_second_one_is_told_of_the_first(run: Callable[..., Run]) -> None:
    first = run().await_ready()
    second = run()
    assert second.process.wait(60) == 1
    assert "It runs already" in second.said
    assert first.enrich().status_code == 200


@pytest.mark.parametrize("port", ["0", "65536", "-1", "eighty", "٨٠"])
def test_a_port_that_is_none_is_named(port: str) -> None:
    with pytest.raises(RunError, match="WEB_PORT"):
        Settings.from_env({"WEB_PORT": port, "CONSUL_BIN": "consul"})


def test_two_parts_can_not_have_one_port() -> None:
    with pytest.raises(RunError, match="WEB_PORT and CONSUL_PORT are both 8500"):
        Settings.from_env({"WEB_PORT": "8500", "CONSUL_BIN": "consul"})


def test_the_shells_own_consul_and_database_are_not_used() -> None:
    shell = {
        "CONSUL_HTTP_ADDR": "elsewhere:8500",
        "DATABASE_URL": "postgres://elsewhere",
        "SERVICE_NAME": "x",
        "HOME": "/",
    }
    assert Settings.from_env({**shell, "CONSUL_BIN": "consul"}).inherited == {"HOME": "/"}


def _is_alive(pid: int) -> bool:
    """Not so for a zombie, which nobody has taken notice of yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
