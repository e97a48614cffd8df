"""An address that leads to several agents: refused before anything is written, however the balancer chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from registry_admin.consul import ConsulApi, ConsulConfig, ServiceSpec, SnapshotReader
from registry_admin.consul.checks import CheckKind, CheckSpec
from registry_admin.consul.one_agent import on_one_agent
from registry_admin.errors import DifferentAgentsError
from tests.parts import ConsulAgent
from tests.parts.balancer import KINDS, Balancer, address, make_balancer, stop_balancer
from tests.parts.tcp import FlakyProxy

SPEC = ServiceSpec(name="api", address="127.0.0.1", port=8001, check=CheckSpec(kind=CheckKind.NONE))


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ConsulAgent, ConsulAgent]]:
    """A server and a client agent of one cluster, named n1 and n2."""
    with ExitStack() as stack:
        first = ConsulAgent(tmp_path_factory.mktemp("n1"), settings={"node_name": "n1"}).start()
        stack.callback(first.stop)
        join = {
            "node_name": "n2", "server": False, "bootstrap_expect": 0,
            "retry_join": [f"127.0.0.1:{first.ports['serf_lan']}"], "retry_interval": "1s",
        }  # fmt: skip
        second = ConsulAgent(tmp_path_factory.mktemp("n2"), durable=True, settings=join).start()
        stack.callback(second.stop)
        yield first, second


@pytest.fixture
def balancer(request: pytest.FixtureRequest, agents) -> Iterator[Balancer]:
    running = make_balancer(request.param, *agents)
    yield running
    stop_balancer(running)
    for agent in agents:
        agent.forget_services()


@pytest.fixture
def api_of() -> Iterator[Callable[..., ConsulApi]]:
    """`api_of(proxy)`: an API that leads there."""
    with ExitStack() as stack:

        def make(where: Balancer | ConsulAgent) -> ConsulApi:
            api = ConsulApi(ConsulConfig(host=where.host, port=where.port))
            stack.callback(api.close)
            return api

        yield make


def registered(agents: tuple[ConsulAgent, ConsulAgent]) -> list[str]:
    return [key for agent in agents for key in agent.request("GET", "/v1/agent/services")]


@pytest.mark.parametrize("balancer", KINDS, indirect=True)
def test_snapshot_through_balancer_is_refused_naming_both_agents(balancer, api_of):
    with pytest.raises(DifferentAgentsError, match="this address leads to different agents: n1, n2") as caught:
        SnapshotReader(api_of(balancer)).read()
    assert caught.value.agents == ("n1", "n2")


@pytest.mark.parametrize("balancer", KINDS, indirect=True)
def test_write_through_balancer_reaches_the_expected_agent_or_none(balancer, agents, api_of):
    """Also where the look was lucky: each connection of the writes is asked again."""
    expected = api_of(agents[0]).agent_node()
    for _ in range(10):
        with suppress(DifferentAgentsError), on_one_agent(api_of(balancer), expected) as api:
            api.register(SPEC, marks={})
    assert agents[1].request("GET", "/v1/agent/services") == {}


def test_snapshot_is_refused_when_the_agent_changes_meanwhile_and_the_next_one_goes_on(agents, api_of):
    current = [agents[0]]
    proxy = FlakyProxy(("", 0), choose=lambda: address(current[0]))
    try:
        reader = SnapshotReader(api_of(proxy))
        assert reader.read().node == "n1"
        look = on_one_agent(api_of(proxy))
        api = look.__enter__()
        assert api.identity.name == "n1"
        current[0] = agents[1]  # what is connected stays so; what is opened now leads to the other
        assert api.agent_node().name == "n1"
        with pytest.raises(DifferentAgentsError):
            look.__exit__(None, None, None)
        assert reader.read().node == "n2"
    finally:
        proxy.close()


def test_each_connection_asks_once(agents, api_of, recording_proxy):
    proxy = recording_proxy(agents[0])
    api = api_of(proxy)
    SnapshotReader(api).read()
    proxy.forget()
    SnapshotReader(api).read()
    assert len(proxy.exchanges_matching("/v1/agent/self")) == 4  # two at the beginning, two at the end
    compared = [f"/v1/health/state/{state}" for state in ("critical", "warning")]
    assert [exchange.path for exchange in proxy.exchanges if exchange.path in compared] == compared
    # An empty node is read a second time to make sure, and the other agent's node once it has joined.
    assert 10 <= len(proxy.exchanges) <= 15


def test_before_write_prevents_the_write(agents, api_of):
    class StopError(Exception): ...

    def stop() -> None:
        raise StopError

    with suppress(StopError), on_one_agent(api_of(agents[0]), before_write=stop) as api:
        assert api.agent_instances() == {}
        api.register(SPEC, marks={})
    assert registered(agents) == []
