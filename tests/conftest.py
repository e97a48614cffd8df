"""Fixtures that several folders of tests share. The parts themselves are in tests/parts/."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from registry_admin.consul import ServiceRegistry
from tests.parts import Certificates, ConsulAgent, ConsulCluster, FlakyProxy, HttpService, RecordingProxy, consul_binary


@pytest.fixture(scope="session")
def consul_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """A real agent for the whole run, without ACLs. Don't stop it: `make_agent` gives one that a test may maltreat."""
    agent = ConsulAgent(tmp_path_factory.mktemp("consul"))
    try:
        yield agent.start()
    finally:
        agent.stop()


@pytest.fixture
def make_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ConsulAgent]]:
    """`make_agent(settings={…}, management_token=…, durable=…, tls=…)`: a running agent, to stop, start and freeze."""
    with ExitStack() as stack:

        def make(**options: Any) -> ConsulAgent:
            agent = ConsulAgent(tmp_path_factory.mktemp("consul"), **options)
            stack.callback(agent.stop)
            return agent.start()

        yield make


@pytest.fixture
def make_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ConsulCluster]]:
    """`make_cluster(settings={…}, …)`: three running servers and a client agent. It takes some 5 s: share it."""
    with ExitStack() as stack:

        def make(**options: Any) -> ConsulCluster:
            cluster = ConsulCluster(tmp_path_factory.mktemp("cluster"), **options)
            stack.callback(cluster.stop)
            return cluster.start()

        yield make


@pytest.fixture(scope="session")
def make_certificates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Certificates]:
    """`make_certificates()`: a new certificate authority with an agent's certificate and a client's."""
    return lambda: Certificates.make(tmp_path_factory.mktemp("certificates"), consul_binary())


@pytest.fixture
def recording_proxy() -> Iterator[Callable[[ConsulAgent], RecordingProxy]]:
    """`recording_proxy(agent)`: an HTTP proxy in front of it that notes each request and can spoil chosen answers."""
    with ExitStack() as stack:

        def make(agent: ConsulAgent) -> RecordingProxy:
            proxy = RecordingProxy(agent).start()
            stack.callback(proxy.stop)
            return proxy

        yield make


@pytest.fixture
def registry(consul_agent: ConsulAgent) -> Iterator[ServiceRegistry]:
    """A registry on the shared agent; whatever the test registered is gone after it."""
    registry = ServiceRegistry(config=consul_agent.config)
    yield registry
    registry.api.close()
    consul_agent.forget_services()


@pytest.fixture
def http_service() -> Iterator[Callable[..., HttpService]]:
    """`http_service(status=…, body=…, port=…)`: a running server whose attributes may be changed any time."""
    with ExitStack() as stack:

        def make(**options: Any) -> HttpService:
            service = HttpService(**options).start()
            stack.callback(service.stop)
            return service

        yield make


@pytest.fixture
def flaky_proxy() -> Iterator[Callable[..., FlakyProxy]]:
    """`flaky_proxy(host, port)`: a TCP proxy in front of it that can be cut, frozen and mended."""
    with ExitStack() as stack:

        def make(host: str, port: int) -> FlakyProxy:
            proxy = FlakyProxy((host, port))
            stack.callback(proxy.close)
            return proxy

        yield make


def pytest_make_parametrize_id(val: object) -> str | None:
    """A name for the test that fits on a line, whatever long thing it is given."""
    if isinstance(val, str | bytes) and len(val) > 60:
        return ascii(val[:60])
    return "a-huge-number" if isinstance(val, int) and abs(val) > 10**60 else None
