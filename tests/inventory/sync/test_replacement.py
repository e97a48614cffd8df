"""Changes of addresses and IDs on a real agent: the new instance passes before the old one leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

import pytest
from django.core.management import call_command

from registry_admin.consul import ConsulApi, ServiceRegistry
from registry_admin.discovery import SyncServiceDiscoveryClient
from registry_admin.errors import RegistryError
from registry_admin.inventory.models import Instance, Service, SyncStatus
from registry_admin.inventory.sync.result import SyncResult
from tests.parts import ConsulAgent, HttpService, PassingPoller, refusing_port, wait_until

pytestmark = pytest.mark.django_db


@pytest.fixture
def instance(consul: ConsulApi, http_service, sync) -> Instance:
    """A declared instance that passes, and is checked every second."""
    service = Service.objects.create(name="api", check_interval="1s", check_timeout="500ms")
    row = Instance.objects.create(service=service, address="127.0.0.1", port=http_service().port)
    assert sync().ok
    await_passing(consul, row.consul_id)
    assert sync().ok
    return Instance.objects.get()


@pytest.fixture
def move(instance: Instance, sync) -> Callable[[int], SyncResult]:
    """`move(port)`: declares another port and syncs once."""

    def act(port: int) -> SyncResult:
        row = Instance.objects.get()
        row.port = port
        row.save()
        return sync()

    return act


def await_passing(consul: ConsulApi, instance_id: str) -> None:
    wait_until(
        lambda: any(found.id == instance_id for found in consul.instances("api", passing=True).data),
        what=f"{instance_id} to pass",
    )


def test_old_address_stays_until_the_new_one_passes(consul, consul_agent: ConsulAgent, instance, move, http_service):
    former = instance.consul_id
    with PassingPoller(consul_agent, "api") as poller:
        first = move(http_service().port)
        moved = Instance.objects.get()
        assert first.ok
        assert moved.consul_id != former
        assert list(first.replacing) == moved.replaces == [former]
        assert moved.sync_status == SyncStatus.OUT_OF_SYNC
        assert consul.agent_instances().keys() == {former, moved.consul_id}
        await_passing(consul, moved.consul_id)
        second = move(moved.port)
        assert second.ok
        assert not second.replacing
        wait_until(lambda: poller.seen[-1] == {moved.consul_id}, what="the former to leave")
    assert poller.lowest == 1
    moved.refresh_from_db()
    assert (moved.sync_status, moved.replaces) == (SyncStatus.SYNCED, [])


def test_command_waits_for_the_new_address_and_removes_the_old_one(consul, instance, http_service, capsys):
    instance.port = http_service().port
    instance.save()
    call_command("sync_registry")
    assert consul.agent_instances().keys() == {instance.consul_id}
    assert "2 of 2 done." in capsys.readouterr().out


def test_dead_new_address_leaves_the_old_one_and_the_command_says_so(consul, consul_agent, instance, capsys):
    former = instance.consul_id
    instance.port = refusing_port()
    instance.save()
    with PassingPoller(consul_agent, "api") as poller, pytest.raises(SystemExit) as exit_code:
        call_command("sync_registry")
    assert exit_code.value.code == 3
    output = capsys.readouterr()
    assert f"{instance.consul_id}: doesn't pass yet; until it does, '{former}' stays in its place" in output.err
    assert "Consul matches" not in output.out
    assert poller.seen == [{former}]


def test_change_back_before_the_new_address_passed_keeps_the_old_one_throughout(
    consul, consul_agent, instance, move, sync
):
    former, port = instance.consul_id, instance.port
    with PassingPoller(consul_agent, "api") as poller:
        move(refusing_port())
        move(refusing_port())
        assert len(Instance.objects.get().replaces) == 2
        move(port)
        sync()
    assert poller.seen == [{former}]
    assert consul.agent_instances().keys() == {former}
    assert Instance.objects.get().replaces == []


def test_deleted_declaration_takes_both_addresses_out(consul, instance, move, sync):
    move(refusing_port())
    Service.objects.get().delete()
    assert sync().ok
    assert consul.agent_instances() == {}


def test_disabled_declaration_takes_both_addresses_out(consul, instance, move, sync):
    move(refusing_port())
    service = Service.objects.get()
    service.enabled = False
    service.save()
    assert sync().ok
    assert consul.agent_instances() == {}


def test_invalid_declaration_keeps_the_former_address(consul, instance, move, sync):
    move(refusing_port())
    Service.objects.update(check_interval="nonsense")
    sync(force=True)
    assert instance.consul_id in consul.agent_instances()


# -- an ID that stays -------------------------------------------------------------------------------------------------


@pytest.fixture
def named(instance: Instance, consul: ConsulApi, sync) -> Instance:
    """The instance under an ID of its own."""
    instance.consul_id = "api-1"
    instance.save()
    sync()
    await_passing(consul, "api-1")
    assert sync().ok
    return Instance.objects.get()


def test_kept_id_is_not_moved_to_an_address_that_does_not_answer(consul, consul_agent, named, move):
    with PassingPoller(consul_agent, "api") as poller:
        result = move(refusing_port())
    assert "doesn't answer" in result.failures[0].error
    assert not result.ok
    assert consul.agent_instances()["api-1"].port == named.port
    assert Instance.objects.get().sync_status == SyncStatus.OUT_OF_SYNC
    assert poller.seen == [{"api-1"}]


def test_kept_id_is_moved_to_an_address_that_answers(
    consul, consul_agent, named, move, http_service: Callable[..., HttpService]
):
    service = http_service()
    with PassingPoller(consul_agent, "api") as poller:
        assert move(service.port).ok
        assert consul.agent_instances()["api-1"].port == service.port
        wait_until(lambda: len(service.requests) >= 2, what="a check at the new address")
    assert poller.seen == [{"api-1"}]


# -- under load -------------------------------------------------------------------------------------------------------

NAMES = [f"api-{number}" for number in range(5)]
EDITS = (
    {"check_kind": Service.Check.TCP},
    {"tags": ["edited"], "check_interval": "2s"},
    {"check_kind": Service.Check.HTTP, "check_path": "/other", "meta": {"k": "v"}},
    {"check_kind": Service.Check.NONE},
    {"check_kind": Service.Check.HTTP, "check_interval": "1s", "check_timeout": "900ms"},
)


class Calls:
    """Calls services in turn, 100 times a second, from entering the block to its end; a failed call isn't repeated."""

    def __init__(self, registry: ServiceRegistry) -> None:
        self.done = 0
        self.errors: list[str] = []
        self._client = SyncServiceDiscoveryClient(registry, max_attempts=1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._call)

    def __enter__(self) -> Self:
        for name in NAMES:
            assert self._client.call_service(name, "/warm-up").ok
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    def _call(self) -> None:
        while not self._stop.wait(0.01):
            name = NAMES[self.done % len(NAMES)]
            try:
                assert self._client.call_service(name, "/", method="POST", json={"n": self.done}).ok
            except (RegistryError, AssertionError) as error:
                self.errors.append(f"{name}: {error}")
            self.done += 1


def test_no_call_is_lost_while_services_are_edited(consul, registry, http_service, sync):
    for name in NAMES:
        service = Service.objects.create(name=name, check_interval="1s", check_timeout="500ms")
        Instance.objects.create(service=service, address="127.0.0.1", port=http_service().port)
    assert sync().ok
    for name in NAMES:
        wait_until(lambda name=name: consul.instances(name, passing=True).data, what=f"{name} to pass")
    with Calls(registry) as calls:
        for edit in EDITS:
            for service in Service.objects.all():
                for field, value in edit.items():
                    setattr(service, field, value)
                service.save()
            assert sync().ok
            for row in Instance.objects.all():
                row.port = http_service().port
                row.save()
            sync()
            wait_until(lambda: not sync().replacing, what="the new addresses to pass")
    assert calls.errors == []
    assert calls.done > 100
    assert len(consul.agent_instances()) == len(NAMES)
