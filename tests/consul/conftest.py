"""Agents with and without ACLs, both clients, and services for them to call."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from registry_admin.consul import CheckKind, CheckSpec, ConsulApi, ServiceRegistry, ServiceSpec
from registry_admin.discovery import directory as directories
from tests.consul.calling import BothClients
from tests.consul.raw_service import Answer, RawService
from tests.parts import ConsulAgent, free_port, wait_until

POLICY = Path(__file__).parent.parent.parent / "docs" / "consul-policy.hcl"


@pytest.fixture(scope="session")
def guarded_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """A real agent with `default_policy = "deny"`; its `token` may do what docs/consul-policy.hcl says."""
    agent = ConsulAgent(tmp_path_factory.mktemp("consul"), management_token=str(uuid.uuid4()))
    try:
        agent.start()
        agent.token = agent.make_token(POLICY.read_text())
        yield agent
    finally:
        agent.stop()


@pytest.fixture(params=["open", "guarded"])
def agent(request: pytest.FixtureRequest) -> Iterator[ConsulAgent]:
    """Whatever uses this runs on both."""
    agent = request.getfixturevalue({"open": "consul_agent", "guarded": "guarded_agent"}[request.param])
    yield agent
    agent.forget_services()


@pytest.fixture
def api(agent: ConsulAgent) -> Iterator[ConsulApi]:
    api = ConsulApi(agent.config)
    yield api
    api.close()


@pytest.fixture(autouse=True, scope="package")
def _no_watch_is_left(consul_agent: ConsulAgent) -> Iterator[None]:
    """A watch ends with the next reply once its service is idle; in a test without sockets it would fail."""
    yield
    for directory in list(directories._all):
        directory.idle_s = -1
    for thread in watches():
        body = {"Name": thread.name.removeprefix("watch-"), "Port": 1}
        consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    consul_agent.forget_services()
    wait_until(lambda: not watches(), 90, "the end of every watch")  # a frozen Consul's lasts some 42 s


def watches() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("watch-")]


@pytest.fixture(autouse=True)
def _nothing_known_from_before() -> None:
    """What an earlier test's client knew lasts until it is collected; the next one is to begin without it."""
    directories._table.clear()


@pytest.fixture(params=["sync", "async"])
def make_client(request: pytest.FixtureRequest, registry: ServiceRegistry) -> Iterator[Callable[..., BothClients]]:
    """`make_client(registry=…, max_attempts=…)`: a client, once of each kind."""
    with ExitStack() as stack:

        def make(*, registry: ServiceRegistry = registry, **options: Any) -> BothClients:
            made = BothClients(request.param, registry, **options)
            stack.callback(made.end)
            return made

        yield make


@pytest.fixture
def caller(make_client: Callable[..., BothClients]) -> BothClients:
    return make_client()


@pytest.fixture
def raw_service() -> Iterator[Callable[..., RawService]]:
    with ExitStack() as stack:

        def make(answer: Answer, **options: Any) -> RawService:
            service = RawService(answer, **options)
            stack.callback(service.close)
            return service

        yield make


@pytest.fixture
def add(registry: ServiceRegistry) -> Callable[..., str]:
    """`add(service)`: registers it as a passing instance of `api`."""

    def register(service: Any, **options: Any) -> str:
        check = CheckSpec(kind=CheckKind.NONE)  # passing, and nobody but the test calls it
        spec = ServiceSpec(name="api", address=service.host, port=service.port, check=check, **options)
        registry.register(spec)
        return spec.id

    return register


@pytest.fixture
def only(add: Callable[..., str], raw_service: Callable[..., RawService]) -> Callable[..., RawService]:
    """`only(answer)`: an instance of `api`, the only one where this is called once."""

    def make(answer: Any, **options: Any) -> RawService:
        service = raw_service(answer, **options)
        add(service)
        return service

    return make


@pytest.fixture
def process() -> Iterator[Callable[[], Any]]:
    """`process()`: a service in a process of its own, with `host`, `port` and the `popen` to kill or freeze."""
    with ExitStack() as stack:

        class Process:
            host = "127.0.0.1"

            def __init__(self) -> None:
                self.port = free_port()
                command = [sys.executable, "-m", "tests.consul.echo_service", str(self.port)]
                self.popen = subprocess.Popen(command)
                stack.callback(self.popen.wait)
                stack.callback(self.popen.kill)
                wait_until(self._listens, 20, "the service to listen")

            def _listens(self) -> bool:
                with suppress(OSError), socket.create_connection((self.host, self.port), 1):
                    return True
                return False

        yield Process
