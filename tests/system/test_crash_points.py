"""A process that ends after any one of its writes to Consul: later runs put all right, and nothing is lost meanwhile.

Runs against a model of Consul, which tests/consul/test_model_consul.py holds to the real one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from registry_admin.consul.marks import META_MARK
from registry_admin.inventory.models import Instance, ObservedInstance, Service, SyncRun, SyncStatus
from registry_admin.inventory.sync.adoption import adopt
from registry_admin.inventory.sync.maintenance import set_maintenance
from registry_admin.inventory.sync.reconciler import Reconciler
from registry_admin.inventory.sync.release import release
from registry_admin.reconcile import divergence
from tests.parts.database_state import DatabaseState
from tests.parts.model_consul import CrashError, ModelConsul

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.system]

HOST = "127.0.0.1"
MOVED = {"moved-127.0.0.1-8013": "moved-127.0.0.1-8003", "quiet-127.0.0.1-8017": "quiet-127.0.0.1-8007"}
LEAVING = {"gone-127.0.0.1-8005"}
THEIRS = {("n1", "theirs"), ("n2", "edited-127.0.0.1-8002")}  # the second has the ID of one of ours


def passes(entry: Any) -> bool:
    """Returns whether an instance passes, apart from maintenance mode."""
    checks = entry["checks"].items()
    return all(check["Status"] == "passing" for key, check in checks if not key.startswith("_service_maintenance"))


def is_in_maintenance(entry: Any) -> bool:
    return any(key.startswith("_service_maintenance") for key in entry["checks"])


class World:
    """An inventory on two agents, whose declarations have all changed since they were registered."""

    def __init__(self, consul: ModelConsul) -> None:
        self.consul = consul
        for name, port in [
            ("edited", 8002), ("moved", 8003), ("kept", 8004), ("gone", 8005), ("gone", 8015), ("released", 8006),
            ("quiet", 8007),
        ]:  # fmt: skip
            self.declare(name, port)
        consul.alive |= {(HOST, port) for port in range(8001, 8020)}
        for node, instance_id in (*THEIRS, ("n1", "adopted")):
            body = {"ID": instance_id, "Name": instance_id.split("-")[0], "Address": HOST, "Port": 8009}
            check = {"TCP": f"{HOST}:8009", "Interval": "1s", "Timeout": "1s", "Status": "passing"}
            consul.agents[node].register(body | {"Check": check})
        self.settle()
        set_maintenance("quiet", ["quiet-127.0.0.1-8007"], enable=True, reason="work")
        self.settle()
        self.change_declarations()
        self.begin = DatabaseState(), copy.deepcopy(consul.agents)
        consul.writes.clear()

    def declare(self, name: str, port: int) -> None:
        defaults = {"check_kind": "tcp", "check_interval": "1s", "check_timeout": "1s"}
        service, _ = Service.objects.get_or_create(name=name, defaults=defaults)
        Instance.objects.create(service=service, address=HOST, port=port, consul_id=name if name == "kept" else "")

    def change_declarations(self) -> None:
        self.declare("new", 8001)
        for service in Service.objects.filter(name="edited"):
            service.tags, service.check_kind = ["v2"], "http"
            service.save()
        for port, to, keeps_id in ((8003, 8013, False), (8004, 8014, True), (8007, 8017, False)):
            instance = Instance.objects.get(port=port)
            instance.port, instance.consul_id = to, instance.consul_id if keeps_id else ""
            instance.full_clean()
            instance.save()
        Instance.objects.get(port=8005).delete()

    def rewind(self) -> None:
        database, agents = self.begin
        database.restore()
        self.consul.agents = copy.deepcopy(agents)
        self.consul.writes.clear()

    def act(self) -> None:
        """Releases, adopts and reconciles, as a person and the watcher do; what is done already is left."""
        if (services := Service.objects.filter(name="released")).exists():
            release(services)
        if not Instance.objects.filter(consul_id="adopted").exists():
            adopt(ObservedInstance.objects.filter(consul_id="adopted"))
        self.settle()

    def settle(self) -> None:
        """Reconciles until nothing is written any more."""
        for _ in range(8):
            self.consul.run_checks()
            result = Reconciler(trigger=SyncRun.Trigger.WATCH).run()
            assert result.error is None
            if not result.results and result.next_look_s is None:
                return
        raise AssertionError(f"the runs don't come to rest: {result.results}")

    def end_after(self, number: int) -> bool:
        """Acts until the process ends right after this write. Returns whether it came so far."""
        left = number

        def count(method: str, _path: str) -> None:
            nonlocal left
            left -= method == "PUT"
            if left < 0:  # nothing that this process still has under way reaches Consul
                raise CrashError

        def end(_method: str, _path: str) -> None:
            if left < 0:
                raise CrashError

        self.consul.after_request, self.consul.before_request = count, end
        try:
            self.act()
        except CrashError:
            return True
        finally:
            self.consul.after_request = self.consul.before_request = lambda _method, _path: None
        return False

    def state(self) -> dict[tuple[str, str], Any]:
        """Returns what is registered, with its checks, but for the revisions of our marks."""
        registered = {}
        for node, agent in self.consul.agents.items():
            for key in agent.services:
                entry = self.consul.instance(node, key)
                entry["service"]["Meta"].pop(META_MARK, None)
                registered[node, key] = entry
        return registered

    def assert_writes_lose_nothing(self) -> None:
        """No write has changed what isn't ours, or taken out or made worse what passed."""
        for write in self.consul.writes:
            assert (write.node, write.id) not in THEIRS, write
            if write.before is None:
                continue
            if write.after is None:
                successors = [key for key, former in MOVED.items() if former == write.id]
                assert write.id in LEAVING or successors, write
                for key in successors:
                    assert passes(self.consul.instance("n1", key)), write
            else:
                assert passes(write.after) or not passes(write.before), write
                assert is_in_maintenance(write.after) or not is_in_maintenance(write.before), write


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[World]:
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    monkeypatch.setattr(divergence, "SYNC_INTERVAL_S", 0.0)  # whatever a second look still shows is confirmed
    monkeypatch.setattr(divergence, "RETRY_S", 1e-6)
    monkeypatch.setattr("registry_admin.inventory.sync.divergence.PUSH_S", 0.0)
    monkeypatch.setattr("registry_admin.consul.own_node.MAX_SHARE", float("inf"))
    monkeypatch.setattr("registry_admin.reconcile.apply.CONCURRENCY", 1)  # the same order of writes each time
    with ModelConsul("n1", "n2").installed(monkeypatch) as consul:
        yield World(consul)


def test_process_that_ends_after_any_write_leaves_what_later_runs_put_right(world: World) -> None:
    before = world.state()
    world.act()
    world.assert_writes_lose_nothing()
    expected, requests = world.state(), [write.request for write in world.consul.writes]
    assert {key: before[key] for key in THEIRS} == {key: expected[key] for key in THEIRS}
    ids = {key for node, key in expected if node == "n1"}
    assert ids >= {"new-127.0.0.1-8001", "released-127.0.0.1-8006", "adopted", *MOVED}
    assert ids.isdisjoint({*LEAVING, *MOVED.values()})
    assert {"service/register", "service/deregister", "check/deregister"} <= set(requests)
    number = 0
    while True:
        world.rewind()
        if not world.end_after(number):
            break
        world.act()
        world.assert_writes_lose_nothing()
        assert world.state() == expected, f"after write {number + 1}, {requests[number]}"
        assert set(Instance.objects.values_list("sync_status", flat=True)) == {SyncStatus.SYNCED}
        number += 1
    assert number == len(requests)
