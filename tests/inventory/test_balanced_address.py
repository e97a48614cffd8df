"""A CONSUL_HTTP_ADDR that leads to several agents: nothing is written through it, and everybody says why."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from registry_admin.errors import DifferentAgentsError
from registry_admin.inventory import selectors
from registry_admin.inventory.models import Instance, ObservedInstance, Service
from registry_admin.inventory.sync.adoption import adopt
from registry_admin.inventory.sync.maintenance import set_maintenance
from registry_admin.inventory.sync.release import release
from tests.parts import ConsulAgent, assert_holds, wait_until
from tests.parts.balancer import KINDS, Balancer, make_balancer, stop_balancer

pytestmark = pytest.mark.django_db(transaction=True)

REASON = "this address leads to different agents: n1, n2"


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ConsulAgent, ConsulAgent]]:
    running = [ConsulAgent(tmp_path_factory.mktemp(name), settings={"node_name": name}) for name in ("n1", "n2")]
    try:
        yield running[0].start(), running[1].start()
    finally:
        for agent in running:
            agent.stop()


@pytest.fixture
def balancer(request: pytest.FixtureRequest, agents, use_consul) -> Iterator[Balancer]:
    """The product's Consul."""
    running = make_balancer(getattr(request, "param", "request in turns"), *agents)
    use_consul(running)
    yield running
    stop_balancer(running)
    for agent in agents:
        agent.forget_services()


def registered(agents: tuple[ConsulAgent, ConsulAgent]) -> list[str]:
    return [key for agent in agents for key in agent.request("GET", "/v1/agent/services")]


@pytest.mark.parametrize("balancer", KINDS, indirect=True)
def test_run_through_balancer_writes_nothing_and_says_why(balancer, agents, declare, sync):
    declare("api", 8001, 8002, 8003)
    for _ in range(3):
        assert REASON in str(sync().error)
    assert registered(agents) == []
    assert REASON in selectors.freshness().problem
    assert not set(Instance.objects.values_list("sync_status", flat=True)) & {"synced"}


def test_command_through_balancer_fails_and_says_why(balancer, agents, declare, manage):
    declare("api", 8001)
    result = manage("sync_registry")
    assert (result.code, REASON in result.err) == (1, True)
    assert registered(agents) == []


@pytest.mark.skipif(os.environ.get("TEST_DATABASE") == "sqlite", reason="the watcher is a process with a database")
def test_watcher_through_balancer_writes_nothing_and_goes_on_once_the_address_leads_to_one(
    balancer, agents, declare, watch
):
    declare("api", 8001)
    running = watch()
    wait_until(lambda: REASON in running.log, 20, "the reason in the log")
    assert_holds(lambda: registered(agents) == [], 2)
    balancer.choose = lambda: agents[1]
    wait_until(lambda: registered(agents) == ["api-127.0.0.1-8001"], 30, "the watcher to go on")


def test_maintenance_and_release_through_balancer_change_nothing(balancer, agents, declare, sync, use_consul):
    declare("api", 8001)
    use_consul(agents[0])
    assert sync().ok
    use_consul(balancer)
    before = agents[0].request("GET", "/v1/agent/services"), agents[0].request("GET", "/v1/agent/checks")
    outcome = set_maintenance("api", ["api-127.0.0.1-8001"], enable=True, reason="work")
    assert (outcome.done, REASON in str(outcome.refused)) == ((), True)
    with pytest.raises(DifferentAgentsError, match=REASON):
        release(Service.objects.all())
    assert Instance.objects.filter(released=False).count() == 1
    assert before == (agents[0].request("GET", "/v1/agent/services"), agents[0].request("GET", "/v1/agent/checks"))


def test_adoption_through_balancer_marks_nothing(balancer, agents, sync, use_consul):
    agents[0].request("PUT", "/v1/agent/service/register", body={"Name": "web", "Port": 80, "Address": "127.0.0.1"})
    use_consul(agents[0])
    assert sync().ok
    use_consul(balancer)
    adopt(ObservedInstance.objects.all())
    assert REASON in str(sync().error)
    assert agents[0].request("GET", "/v1/agent/service/web")["Meta"] == {}
    assert registered(agents) == ["web"]
