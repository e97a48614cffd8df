"""A token that is rotated, and the former one deleted: the agent can't tell the catalog any more, which callers ask."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pytest
from django.db import connection

from registry_admin.inventory.models import ConsulContact, Instance, ObservedInstance, Service
from registry_admin.reconcile import divergence
from registry_admin.reconcile.conclusion import Conclusion
from tests.parts import ConsulAgent, HttpService, assert_holds, wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("syncs_every_second")]

POLICY = Path("docs/consul-policy.hcl").read_text()
AGENT = 'agent_prefix "" { policy = "read" }'
DIFFERS = "the catalog shows it as passing, and its agent as critical"


@pytest.fixture
def own_agent(make_agent: Callable[..., ConsulAgent], use_consul: Callable[..., None]) -> ConsulAgent:
    """The product's Consul denies by default."""
    agent = make_agent(management_token=str(uuid.uuid4()))
    use_consul(agent)
    return agent


@pytest.fixture
def token_file(own_agent: ConsulAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the product's token is in."""
    file = tmp_path / "token"
    file.write_text(own_agent.make_token(POLICY))
    monkeypatch.setenv("CONSUL_HTTP_TOKEN_FILE", str(file))
    return file


@pytest.fixture
def rotate(own_agent: ConsulAgent, token_file: Path) -> Callable[[], None]:
    """`rotate()`: the product's token is another one now, and the former one is deleted."""
    former = ""

    def change() -> None:
        nonlocal former
        token = own_agent.make_token(POLICY)
        token_file.write_text(token)
        if former:
            delete_token(own_agent, former)
        former = token

    change()
    return change


def delete_token(agent: ConsulAgent, secret: str) -> None:
    for accessor in [token["AccessorID"] for token in agent.request("GET", "/v1/acl/tokens")]:
        if agent.request("GET", f"/v1/acl/token/{accessor}")["SecretID"] == secret:
            agent.request("DELETE", f"/v1/acl/token/{accessor}")


@dataclass(frozen=True)
class Backend:
    """A declared instance, and the server behind it."""

    row: Instance
    server: HttpService
    agent: ConsulAgent

    @property
    def callers_find(self) -> list[str]:
        entries = self.agent.request("GET", "/v1/health/service/api?passing")
        return [entry["Service"]["ID"] for entry in entries]

    @property
    def sync_status(self) -> str:
        return Instance.objects.get(pk=self.row.pk).sync_status

    def fail(self) -> None:
        """Answers 500 from now on; returns once the agent has seen it."""
        self.server.status = 500
        wait_until(self._is_critical, what="the agent to see it fail")

    def _is_critical(self) -> bool:
        checks = self.agent.request("GET", "/v1/agent/checks").values()
        return any(check["Status"] == "critical" for check in checks)


@pytest.fixture
def backend(own_agent: ConsulAgent) -> Iterator[Backend]:
    server = HttpService().start()
    service = Service.objects.create(
        name="api", check_kind="http", check_path="/", check_interval="1s", check_timeout="1s", deregister_after="30s"
    )
    row = Instance.objects.create(service=service, address="127.0.0.1", port=server.port, consul_id="api-1")
    yield Backend(row, server, own_agent)
    server.stop()


@pytest.fixture
def syncs_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents are taken to sync every second. A real one does so every minute, and can't be told otherwise."""
    monkeypatch.setattr(divergence, "SYNC_INTERVAL_S", 1.0)
    monkeypatch.setattr(divergence, "RETRY_S", 0.5)


def test_dead_instance_that_the_agent_cannot_report_is_shown_and_then_told_to_the_catalog(
    rotate, backend, sync, operator
):
    assert sync().ok
    wait_until(lambda: backend.callers_find == ["api-1"], what="it to pass")
    rotate()
    backend.fail()
    assert_holds(lambda: backend.callers_find == ["api-1"], 1, "callers to be sent to the dead one")
    assert sync().conclusion is Conclusion.HELD
    row = Instance.objects.get()
    assert (row.sync_status, row.sync_cause, row.sync_reason) == ("out_of_sync", "diverged", DIFFERS)
    for page in ("/", "/services/api/", "/drift/"):
        assert DIFFERS[1:] in operator.get(page).content.decode(), page
    repaired = wait_until(lambda: (result := sync()).results and result, 10, "it to be registered anew")
    assert (repaired.conclusion, [result.item.cause for result in repaired.results]) == (
        Conclusion.VERIFIED,
        ["diverged"],
    )
    wait_until(lambda: backend.callers_find == [], what="callers to be spared the dead one")
    assert backend.sync_status == "synced"


def test_instance_that_the_agent_cannot_take_out_is_shown_and_then_taken_out_of_the_catalog(
    rotate, backend, sync, operator
):
    assert sync().ok
    wait_until(lambda: backend.callers_find == ["api-1"], what="it to pass")
    rotate()
    Instance.objects.update(enabled=False)
    assert [result.item.action for result in sync(force=True).results] == ["deregister"]
    assert_holds(lambda: backend.callers_find == ["api-1"], 1, "callers to be sent to what has left")
    assert sync().conclusion is Conclusion.HELD
    row = ObservedInstance.objects.get()
    assert (row.sync_cause, row.health) == ("orphaned", "unknown")
    for page in ("/services/api/", "/drift/"):
        assert divergence.ORPHANED[1:] in unescape(operator.get(page).content.decode()), page
    removed = wait_until(lambda: (result := sync()).results and result, 10, "it to be taken out of the catalog")
    assert (removed.conclusion, backend.callers_find) == (Conclusion.VERIFIED, [])
    assert not ObservedInstance.objects.exists()


def test_watcher_registers_anew_after_a_rotation_so_that_the_catalog_follows(rotate, backend, lead):
    lead()
    wait_until(lambda: backend.callers_find == ["api-1"], 20, "it to pass")
    rotate()
    backend.fail()
    wait_until(lambda: backend.callers_find == [], 20, "callers to be spared the dead one")
    backend.server.status = 200
    wait_until(lambda: backend.callers_find == ["api-1"], 20, "callers to find it again")
    wait_until(lambda: backend.sync_status == "synced", 20, "the pages to say so")
    assert ConsulContact.objects.get().divergence == {}


@pytest.mark.skipif(connection.vendor != "postgresql", reason="the command needs a database that processes share")
def test_command_exits_with_3_while_agent_and_catalog_differ(rotate, backend, manage, sync):
    assert sync().ok
    wait_until(lambda: backend.callers_find == ["api-1"], what="it to pass")
    assert manage("sync_registry").code == 0
    rotate()
    backend.fail()
    result = manage("sync_registry")
    assert (result.code, DIFFERS in result.out + result.err) == (3, True)


def test_token_that_may_not_read_its_node_in_the_catalog_is_told_and_nothing_counts_as_verified(
    own_agent, backend, sync, operator, token_file
):
    token_file.write_text(own_agent.make_token(POLICY.partition("# See on which node")[0] + AGENT))
    assert sync().error is None
    wait_until(lambda: sync(force=True).conclusion is Conclusion.INCOMPLETE, 15, "the catalog not to be compared")
    result = sync()
    assert result.error is None
    assert "node_prefix" in result.incomplete
    assert "Callers may see something else." in operator.get("/").content.decode()
    token_file.write_text(own_agent.make_token(POLICY))
    wait_until(lambda: sync(force=True).conclusion is Conclusion.VERIFIED, 15, "all to be seen")
    assert "Callers may see something else." not in operator.get("/").content.decode()
