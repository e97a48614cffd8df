"""Random histories of people, processes, agents and databases, with what must hold after each step.

They run against a model of Consul (tests/consul/test_model_consul.py holds it to the real one). The suite tries a few;
HISTORIES=5000 tries as many, with random seeds.
"""

from __future__ import annotations

import copy
import json
import os
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from registry_admin.inventory.exchange import export_document, prepare_import
from registry_admin.inventory.models import Instance, InventoryIdentity, ObservedInstance, Service, SyncRun, SyncStatus
from registry_admin.inventory.sync.adoption import adopt
from registry_admin.inventory.sync.maintenance import set_maintenance
from registry_admin.inventory.sync.reconciler import Reconciler
from registry_admin.inventory.sync.release import release
from registry_admin.inventory.sync.result import SyncResult
from registry_admin.reconcile import divergence
from registry_admin.reconcile.ownership import Takeover
from tests.parts.database_state import DatabaseState
from tests.parts.model_consul import CrashError, ModelConsul

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.system]

HISTORIES = int(os.environ.get("HISTORIES", "0"))
STEPS = 14
OURS, OTHER = "ours", "others"  # owners' names
FOREIGN, SELF = "foreign", "self"  # origins beside those
NAMES = st.sampled_from(["api", "web", "shop"])
PORTS = st.integers(8001, 8005)
PICKS = st.integers(0, 9)
CHECKS = st.sampled_from(["none", "tcp", "http"])
QUICK = {"check_interval": "1s", "check_timeout": "1s"}

used: Counter[str] = Counter()


class Watcher:
    """Hooks of a leading watcher that evicts what it is told to."""

    halted, notes, holder = "", {}, "watcher"

    def __init__(self, evict: str) -> None:
        self._evict = evict

    def evictions(self, snapshot: Any, inventory: Any) -> dict[Any, str]:
        """Evicts the instance if it is there and critical."""
        instance = snapshot.local.get(self._evict)
        return {self._evict: "dead"} if instance and instance.health == "critical" else {}

    def is_deferred(self, item: Any) -> bool:
        return False

    def confirm_leadership(self) -> bool:
        return True

    def on_transition(self, transition: Any) -> None: ...

    def stop_reason(self) -> str:
        return ""


class PausedLeader(Watcher):
    """Hooks of a watcher that stands still before it writes, while something else happens."""

    def __init__(self, meanwhile: Callable[[], object], *, knows: bool) -> None:
        super().__init__(evict="")
        self._meanwhile, self._knows = meanwhile, knows
        self.was_paused = False

    def stop_reason(self) -> str:
        if not self.was_paused:
            self.was_paused = True
            self._meanwhile()
        return "another watcher leads now" if self._knows else ""


class Clock:
    """The processes' clock: that of the machine, and an offset."""

    offset = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset


class Histories(RuleBasedStateMachine):
    """One inventory (and at times a second one) on one Consul with two nodes."""

    empty: DatabaseState
    monkeypatch: pytest.MonkeyPatch
    configure: Callable[[str], None]

    def __init__(self) -> None:
        super().__init__()
        self.empty.restore()
        self.configure(OURS)
        self.consul = ModelConsul("n1", "n2")
        self._installed = self.consul.installed(self.monkeypatch)
        self._installed.__enter__()
        self.origin: dict[tuple[str, str], str] = {}
        self.owner = OURS
        self.clock = Clock()
        self.monkeypatch.setattr("django.utils.timezone.now", self.clock.now)
        self.allowed: set[str] = set()  # IDs that may go: people have let them go, by name
        self.maintained: set[str] = set()  # IDs that people have put into maintenance: it moves along with them
        self.backup: DatabaseState | None = None
        self.others: DatabaseState | None = None
        self.is_restored = False

    def teardown(self) -> None:
        self._installed.__exit__(None, None, None)

    # -- what people do -----------------------------------------------------------------------------------------------

    @initialize(check=CHECKS, explicit=st.booleans())
    def begin(self, check: str, explicit: bool) -> None:
        """A world with something in it: two services of ours, one of them critical, and one of somebody else's."""
        self.declare(name="api", port=8001, check=check, alive=True, explicit=explicit)
        self.declare(name="api", port=8002, check=check, alive=True, explicit=False)
        self.declare(name="web", port=8003, check="tcp", alive=False, explicit=False)
        self.foreign_registers(name="web", port=8002, node="n1", check=True)

    @rule(name=NAMES, port=PORTS, check=CHECKS, alive=st.booleans(), explicit=st.booleans())
    def declare(self, name: str, port: int, check: str, alive: bool, explicit: bool) -> None:
        service, _ = Service.objects.get_or_create(name=name, defaults={"check_kind": check, **QUICK})
        instance = Instance(service=service, address="127.0.0.1", port=port)
        if explicit:
            instance.consul_id = f"{name}-{port % 10}"
        if self.saves(instance):
            if alive:
                self.consul.alive.add(("127.0.0.1", port))
            self.settle("declare")

    @rule(name=NAMES, tag=st.sampled_from(["blue", "green"]), weight=st.integers(1, 3))
    def edit(self, name: str, tag: str, weight: int) -> None:
        for service in Service.objects.filter(name=name):
            service.tags = [tag]
            service.save()
            for instance in service.instances.all():
                instance.weight = weight
                instance.save()
            self.settle("edit")

    @rule(name=NAMES, check=CHECKS)
    def change_check(self, name: str, check: str) -> None:
        for service in Service.objects.filter(name=name).exclude(check_kind=check):
            service.check_kind = check
            service.save()
            self.settle("change_check")

    @rule(pick=PICKS, port=PORTS, alive=st.booleans(), keep=st.booleans())
    def move(self, pick: int, port: int, alive: bool, keep: bool) -> None:
        if (instance := self.drawn(pick)) is None or instance.port == port:
            return
        before = instance.consul_id
        instance.port = port
        if not keep:
            instance.consul_id = ""
        if alive:
            self.consul.alive.add((instance.address, port))
        if self.saves(instance):
            self.allowed |= {before} - {instance.consul_id}
            self.settle("move_kept_id" if instance.consul_id == before else "move")

    @rule(name=NAMES)
    def rename(self, name: str) -> None:
        other = f"{name}-2"
        service = Service.objects.filter(name=name).first()
        if service is not None and not Service.objects.filter(name=other).exists():
            service.name = other
            if self.saves(service):
                self.allowed |= set(service.instances.values_list("consul_id", flat=True))
                self.settle("rename")

    @rule(name=NAMES, enabled=st.booleans())
    def switch(self, name: str, enabled: bool) -> None:
        for service in Service.objects.filter(name=name, enabled=not enabled):
            service.enabled = enabled
            service.save()
            if not enabled:
                self.allowed |= set(service.instances.values_list("consul_id", flat=True))
            self.settle("enable" if enabled else "disable")

    @rule(pick=PICKS)
    def delete(self, pick: int) -> None:
        if (instance := self.drawn(pick)) is not None:
            self.allowed |= {instance.consul_id}
            instance.delete()
            self.settle("delete")

    @rule(pick=PICKS)
    def adopt(self, pick: int) -> None:
        declared = set(Instance.objects.values_list("consul_id", flat=True))
        rows = [row for row in ObservedInstance.objects.order_by("consul_id") if row.consul_id not in declared]
        if not rows:
            return
        row = rows[pick % len(rows)]
        for consul_id in adopt([row]).done:
            self.claim(row.node, consul_id)
            self.settle("adopt")

    @rule(name=NAMES)
    def release(self, name: str) -> None:
        services = Service.objects.filter(name=name)
        if not services.exists():
            return
        before = len(self.consul.writes)
        done = release(services).done
        for write in self.consul.writes[before:]:
            assert write.after is not None, f"a release took {write.id} out"
            self.check_not_worse(write)
        del self.consul.writes[before:]
        for consul_id in done:
            if self.origin.get((self.consul.entry, consul_id)) == self.owner:
                self.origin[self.consul.entry, consul_id] = FOREIGN
        self.settle("release")

    @rule(pick=PICKS, enable=st.booleans())
    def maintain(self, pick: int, enable: bool) -> None:
        if (instance := self.drawn(pick)) is not None:
            done = set_maintenance(instance.service.name, [instance.consul_id], enable=enable, reason="work").done
            if done:
                self.consul.writes.clear()
                self.maintained |= set(done)
                self.settle("maintain" if enable else "end_maintenance")

    @rule()
    def import_again(self) -> None:
        document = export_document(Service.objects.all())
        if Service.objects.exists():
            imported = prepare_import(document)
            assert imported.summary.startswith("0 to create, 0 to change, 0 to delete"), imported.summary
            self.settle("import_again")

    # -- what others do -----------------------------------------------------------------------------------------------

    @rule(name=NAMES, port=PORTS, node=st.sampled_from(["n1", "n2"]), check=st.booleans())
    def foreign_registers(self, name: str, port: int, node: str, check: bool) -> None:
        instance_id = f"{name}-127.0.0.1-{port}" if node != self.consul.entry else f"theirs-{name}-{port}"
        agent = self.consul.agents[node]
        if (node, instance_id) not in self.origin and agent.is_alive:
            body = {"ID": instance_id, "Name": name, "Address": "127.0.0.1", "Port": port, "Tags": ["theirs"]}
            if check:
                body["Check"] = {"TCP": f"127.0.0.1:{port}", "Interval": "1s", "Timeout": "1s", "Status": "passing"}
                self.consul.alive.add(("127.0.0.1", port))
            agent.register(body)
            agent.tell()
            self.origin[node, instance_id] = FOREIGN
            self.settle("foreign_registers")

    @rule(pick=PICKS)
    def foreign_copies_our_meta(self, pick: int) -> None:
        node = self.consul.entry
        agent = self.consul.agents[node]
        ours = [key for key in sorted(agent.services) if self.origin.get((node, key)) == OURS]
        if ours and (node, "copy") not in self.origin and agent.is_alive:
            meta = agent.services[ours[pick % len(ours)]]["Meta"]
            agent.register({"ID": "copy", "Name": "copy", "Port": 9000, "Address": "127.0.0.1", "Meta": meta})
            agent.tell()
            self.origin[node, "copy"] = FOREIGN
            self.settle("foreign_copies_our_meta")

    @rule(pick=PICKS, marks=st.booleans())
    def person_edits_ours(self, pick: int, marks: bool) -> None:
        if (key := self.drawn_ours(pick)) is not None:
            service = copy.deepcopy(self.consul.agent.services[key])
            service |= {"Name": service["Service"], "Tags": ["by-hand"], "Meta": service["Meta"] if marks else {}}
            self.consul.agent.register(service)
            self.consul.agent.tell()
            self.settle("person_edits_ours")

    @rule(pick=PICKS)
    def person_removes_ours(self, pick: int) -> None:
        if (key := self.drawn_ours(pick)) is not None:
            self.consul.agent.deregister(key)
            self.consul.agent.tell()
            self.settle("person_removes_ours")

    @rule(port=PORTS)
    def process_dies(self, port: int) -> None:
        if ("127.0.0.1", port) in self.consul.alive:
            self.consul.alive.discard(("127.0.0.1", port))
            self.consul.run_checks()
            self.settle("process_dies")

    @rule(port=PORTS)
    def process_starts(self, port: int) -> None:
        if ("127.0.0.1", port) not in self.consul.alive:
            self.consul.alive.add(("127.0.0.1", port))
            self.consul.run_checks()
            self.settle("process_starts")

    @rule(pick=PICKS)
    def evict(self, pick: int) -> None:
        instance = self.drawn(pick)
        known = instance and self.consul.instance(self.consul.entry, instance.consul_id)
        if instance is None or known is None or not statuses(known) & {"critical"}:
            return
        if any(check.startswith("_service_maintenance") for check in known["checks"]):
            return
        self.allowed |= {instance.consul_id}
        self.reconcile(trigger=SyncRun.Trigger.WATCH, hooks=Watcher(instance.consul_id))
        self.settle("evict")

    @rule(new_id=st.booleans())
    def agent_is_wiped(self, new_id: bool) -> None:
        agent = self.consul.agent
        if not agent.services:
            return
        for key in list(agent.services):
            if self.origin.get((agent.node, key)) in (FOREIGN, OTHER):
                self.origin.pop((agent.node, key))  # its owner brings it back, or doesn't
        for registered in (agent.services, agent.checks, agent.definitions):
            registered.clear()
        if new_id:
            agent.node_id += "x"
        agent.tell()
        self.settle("agent_is_wiped")

    @rule()
    def agent_fails_over(self) -> None:
        failed, other = self.consul.agent, {"n1": "n2", "n2": "n1"}[self.consul.entry]
        self.consul.agents[other].is_alive = True
        failed.is_alive = False
        self.consul.entry = other
        self.consul.run_checks()
        self.settle("agent_fails_over")

    @rule()
    def agent_returns(self) -> None:
        for agent in self.consul.agents.values():
            if not agent.is_alive:
                agent.is_alive = True
                self.consul.run_checks()
                self.settle("agent_returns")

    @rule()
    def token_rotates(self) -> None:
        """Everybody has a new token, and the former one is deleted: the agent can't tell the catalog what it has."""
        agent = self.consul.agent
        agent.denied = {key for key in agent.services if self.origin.get((agent.node, key)) == OURS}
        if agent.denied:
            self.settle("token_rotates")

    @rule(pick=PICKS)
    def take_over(self, pick: int) -> None:
        """A person declares what another inventory has registered, and takes it over."""
        node, services = self.consul.entry, self.consul.agent.services
        keys = [key for key in sorted(services) if self.origin.get((node, key)) == OTHER]
        if not keys:
            return
        key = keys[pick % len(keys)]
        registered = services[key]
        if not Instance.objects.filter(consul_id=key).exists():
            service, _ = Service.objects.get_or_create(name=registered["Service"], defaults={"check_kind": "none"})
            address, port = registered["Address"], registered["Port"]
            if not self.saves(Instance(service=service, address=address, port=port, consul_id=key)):
                return
            self.settle("declare")
        owner = registered["Meta"].get("registry-owner", "")
        declared = set(Instance.objects.values_list("consul_id", flat=True))
        self.origin |= {(node, key): OURS for key in keys if key in declared}
        self.reconcile(takeover=Takeover(owner_name=owner))
        self.settle("take_over")

    @rule(hours=st.sampled_from([-48, -1, 1, 48]))
    def clock_jumps(self, hours: int) -> None:
        self.clock.offset += timedelta(hours=hours)
        self.settle("clock_jumps")

    # -- databases ----------------------------------------------------------------------------------------------------

    @rule()
    def back_up(self) -> None:
        self.backup = DatabaseState()
        used["back_up"] += 1

    @precondition(lambda self: self.backup is not None)
    @rule()
    def restore(self) -> None:
        before = self.present()
        self.backup.restore()
        self.is_restored = True
        self.reconcile()
        assert self.present() >= before, f"a restored database took out {before - self.present()}"
        self.settle("restore")

    @precondition(lambda self: self.backup is not None)
    @rule()
    def clone_syncs(self) -> None:
        """A copy of our own database is in use beside it, for a moment."""
        mine, before = DatabaseState(), self.present()
        self.backup.restore()
        try:
            self.reconcile()
            assert self.present() >= before, f"a clone took out {before - self.present()}"
        finally:
            mine.restore()
        self.is_restored = True  # perhaps the clone has counted on, and ours is behind now
        self.settle("clone_syncs")

    @rule(name=NAMES, port=PORTS, same_name=st.booleans())
    def second_inventory_syncs(self, name: str, port: int, same_name: bool) -> None:
        """Another inventory on the same Consul: with another database, and a name of its own or the same one."""
        mine = DatabaseState()
        (self.others or self.empty).restore()
        self.owner = OTHER
        self.configure(OURS if same_name else OTHER)
        try:
            service, _ = Service.objects.get_or_create(name=name, defaults={"check_kind": "none"})
            with transaction.atomic():
                self.saves(Instance(service=service, address="127.0.0.9", port=port))
            for _ in range(3):
                self.reconcile()
            self.others = DatabaseState()
        finally:
            mine.restore()
            self.owner = OURS
            self.configure(OURS)
        self.settle("second_inventory_syncs")

    # -- perturbations ------------------------------------------------------------------------------------------------

    @rule(pick=PICKS, at=st.integers(0, 25), after=st.booleans())
    def crash_at_a_request(self, pick: int, at: int, after: bool) -> None:
        """The process ends before or after its nth request to Consul, in the middle of carrying a change out."""
        left = [at]

        def crash(_method: str, _path: str) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise CrashError

        self.change_something(pick)
        setattr(self.consul, "after_request" if after else "before_request", crash)
        try:
            self.reconcile()
        except CrashError:
            used["crash_at_a_request"] += 1
        finally:
            self.consul.before_request = self.consul.after_request = lambda _method, _path: None
        self.settle("crash")

    @rule(pick=PICKS, at=st.integers(0, 30))
    def crash_at_a_statement(self, pick: int, at: int) -> None:
        """The process ends before its nth statement to the database."""
        left = [at]

        def crash(execute: Any, *arguments: Any) -> Any:
            left[0] -= 1
            if left[0] < 0 and not str(arguments[0]).startswith(("ROLLBACK", "SAVEPOINT", "RELEASE")):
                arguments[-1]["cursor"].close()  # which Django does for an Exception only
                raise CrashError
            return execute(*arguments)

        self.change_something(pick)
        try:
            with connection.execute_wrapper(crash):
                self.reconcile()
        except CrashError:
            used["crash_at_a_statement"] += 1
        self.settle("crash")

    @rule(pick=PICKS, other=PICKS, knows=st.booleans())
    def leader_is_paused(self, pick: int, other: int, knows: bool) -> None:
        """A leader stands still with its plan made while another one leads; it goes on, knowing that or not."""

        def meanwhile() -> None:
            self.change_something(other)
            self.sync()

        self.change_something(pick)
        leader = PausedLeader(meanwhile, knows=knows)
        self.reconcile(trigger=SyncRun.Trigger.WATCH, hooks=leader)
        if leader.was_paused:
            self.settle("leader_is_paused")

    @rule(pick=PICKS, lost=st.booleans())
    def write_fails(self, pick: int, lost: bool) -> None:
        """Consul doesn't take any write, or takes it and the reply is lost."""

        def fail(method: str, _path: str) -> None:
            if method == "PUT":
                used["reply_lost" if lost else "write_refused"] += 1
                raise ConnectionResetError

        self.change_something(pick)
        setattr(self.consul, "after_request" if lost else "before_request", fail)
        try:
            self.reconcile()
        finally:
            self.consul.before_request = self.consul.after_request = lambda _method, _path: None
        self.settle("write_fails")

    @rule(share=st.sampled_from([0, 1, 2]))
    def list_is_truncated(self, share: int) -> None:
        """One look sees the first entries of each list only."""

        def truncate(path: str, data: Any) -> Any:
            if path in ("agent/services", "agent/checks"):
                return dict(list(data.items())[:share])
            return data

        before = self.present()
        if len(before) > share:
            self.consul.reply = truncate
            try:
                self.reconcile()
            finally:
                self.consul.reply = lambda _path, data: data
            assert self.present() >= before, f"a truncated list took out {before - self.present()}"
            self.settle("list_is_truncated")

    @rule(pick=PICKS)
    def list_is_old(self, pick: int) -> None:
        """One look sees the lists from before the last change."""
        agent = self.consul.agent
        old = {"agent/services": copy.deepcopy(agent.services), "agent/checks": copy.deepcopy(agent.checks)}
        self.change_something(pick)
        self.settle("change")
        before = self.present()
        self.consul.reply = old.get
        try:
            self.reconcile()
        finally:
            self.consul.reply = lambda _path, answer: answer
        assert self.present() >= before, f"an old list took out {before - self.present()}"
        self.settle("list_is_old")

    # -- steps and what must hold -------------------------------------------------------------------------------------

    def saves(self, row: Service | Instance) -> bool:
        try:
            with transaction.atomic():
                row.full_clean()
                row.save()
        except ValidationError:
            return False
        return True

    def drawn(self, pick: int) -> Instance | None:
        rows = list(Instance.objects.select_related("service").order_by("consul_id"))
        return rows[pick % len(rows)] if rows else None

    def drawn_ours(self, pick: int) -> str | None:
        node = self.consul.entry
        declared = set(Instance.objects.values_list("consul_id", flat=True))
        keys = [key for key in sorted(self.consul.agent.services) if self.origin.get((node, key)) == OURS]
        keys = [key for key in keys if key in declared]
        return keys[pick % len(keys)] if keys else None

    def change_something(self, pick: int) -> None:
        if (instance := self.drawn(pick)) is not None:
            instance.weight = instance.weight % 3 + 1
            instance.save()

    def claim(self, node: str, consul_id: str) -> None:
        if self.origin.get((node, consul_id)) == FOREIGN:
            self.origin[node, consul_id] = self.owner

    def present(self) -> set[str]:
        return set(self.consul.agent.services)

    def reconcile(self, **options: Any) -> SyncResult:
        before = len(self.consul.writes)
        try:
            return Reconciler(**{"trigger": SyncRun.Trigger.COMMAND} | options).run()
        finally:
            for write in self.consul.writes[before:]:
                self.check_write(write)
            self.consul.writes.clear()

    def sync(self) -> SyncResult:
        return self.reconcile()

    def settle(self, step: str) -> None:
        """Syncs until nothing is written any more, which must come soon; then the two sides agree."""
        used[step] += 1
        for _ in range(8):
            before = {agent.node: copy.deepcopy(agent.services) for agent in self.consul.agents.values()}
            result = self.sync()
            self.assert_synced_is_in_the_catalog()
            self.consul.run_checks()
            is_same = before == {agent.node: agent.services for agent in self.consul.agents.values()}
            if is_same and result.next_look_s is None and (result.error is not None or not result.results):
                break
        else:
            raise AssertionError(f"after {step} the syncs don't come to rest")
        assert result.error is not None or not result.results, f"{step}: at rest, {result.results} is still tried"
        enabled = Instance.objects.filter(enabled=True, service__enabled=True)
        self.allowed -= set(enabled.values_list("consul_id", flat=True))

    def check_write(self, write: Any) -> None:
        key = (write.node, write.id)
        origin = self.origin.get(key)
        if origin is None and write.before is None:
            self.origin[key] = self.owner
        elif write.before != write.after:
            assert origin in (self.owner, None), f"{self.owner} changed what is {origin}'s: {explained(write)}"
        if write.after is None:
            assert not self.is_restored or write.id in self.allowed, f"removed after a restore: {explained(write)}"
            self.check_removal(write)
            if write.request == "service/deregister":
                self.origin.pop(key, None)
        elif write.before is not None:
            self.check_not_worse(write)

    def check_removal(self, write: Any) -> None:
        """Nothing declared and passing is removed, but by name or for a replacement that passes."""
        declared = Instance.objects.filter(consul_id=write.id, enabled=True, service__enabled=True).exists()
        if write.before is not None and is_passing(write.before):
            assert not declared or write.id in self.allowed, (
                f"removed though it is declared and passes: {explained(write)}"
            )

    def check_not_worse(self, write: Any) -> None:
        """A passing instance stays so, and maintenance is kept, whatever is written."""
        if is_passing(unmaintained(write.before)) and not self.is_dead(write.after):
            assert is_passing(unmaintained(write.after)), f"made critical: {explained(write)}"
        assert maintained(write.before) <= maintained(write.after), f"maintenance lost: {explained(write)}"
        if maintained(write.after) - maintained(write.before):
            assert write.id in self.maintained, f"put into maintenance by nobody: {explained(write)}"

    def is_dead(self, entry: Any) -> bool:
        service = entry["service"]
        return (service["Address"], service["Port"]) not in self.consul.alive

    def assert_synced_is_in_the_catalog(self) -> None:
        """What is shown as Synced is in the catalog as it is declared."""
        for row in Instance.objects.filter(sync_status=SyncStatus.SYNCED).select_related("service"):
            known = [
                agent.known_services[row.consul_id]
                for agent in self.consul.agents.values()
                if row.consul_id in agent.known_services
            ]
            spec = row.spec()
            for agent in self.consul.agents.values():
                if row.consul_id in agent.known_services and agent is self.consul.agent:
                    entry_of_catalog = self.consul.catalog_entry(agent.node, row.consul_id)
                    assert statuses(entry_of_catalog) == statuses(self.consul.instance(agent.node, row.consul_id)), (
                        f"{row.consul_id} is shown as Synced; the catalog has other checks"
                    )
            declared = (spec.name, spec.address, spec.port, spec.weight, list(spec.tags))
            shown = [
                (entry["Service"], entry["Address"], entry["Port"], entry["Weights"]["Passing"], sorted(entry["Tags"]))
                for entry in known
            ]
            assert declared in shown, f"{row.consul_id} is shown as Synced; the catalog has {shown}, not {declared}"

    @invariant()
    def what_is_not_ours_is_as_its_owner_left_it(self) -> None:
        assert not self.consul.writes, "a step has written beside the reconciler"


def statuses(entry: Any) -> set[str]:
    return {check["Status"] for check in entry["checks"].values()}


def is_passing(entry: Any) -> bool:
    return statuses(entry) <= {"passing"}


def maintained(entry: Any) -> set[str]:
    return {check for check in entry["checks"] if check.startswith("_service_maintenance")}


def unmaintained(entry: Any) -> Any:
    """Returns the entry as its own checks see it."""
    return {**entry, "checks": {key: entry["checks"][key] for key in entry["checks"].keys() - maintained(entry)}}


def explained(write: Any) -> str:
    return json.dumps({"request": write.request, "node": write.node, "before": write.before, "after": write.after})


RULES = {
    "declare", "edit", "change_check", "move", "move_kept_id", "rename", "disable", "enable", "delete", "adopt",
    "release", "maintain", "end_maintenance", "import_again", "foreign_registers", "foreign_copies_our_meta",
    "person_edits_ours", "person_removes_ours", "process_dies", "process_starts", "evict", "agent_is_wiped",
    "agent_fails_over", "agent_returns", "back_up", "restore", "second_inventory_syncs", "crash_at_a_request",
    "crash_at_a_statement", "reply_lost", "write_refused", "list_is_truncated", "list_is_old",
    "clone_syncs", "token_rotates", "take_over", "leader_is_paused", "clock_jumps",
}  # fmt: skip


# Each rule with arguments by which it does something.
SCRIPT: list[tuple[str, dict[str, Any]]] = [
    ("declare", {"name": "shop", "port": 8005, "check": "none", "alive": True, "explicit": True}),
    ("edit", {"name": "api", "tag": "blue", "weight": 2}),
    ("import_again", {}),
    ("foreign_copies_our_meta", {"pick": 0}),
    ("change_check", {"name": "api", "check": "http"}),
    ("move", {"pick": 0, "port": 8004, "alive": True, "keep": True}),
    ("move", {"pick": 1, "port": 8001, "alive": True, "keep": False}),
    ("maintain", {"pick": 0, "enable": True}),
    ("maintain", {"pick": 0, "enable": False}),
    ("person_edits_ours", {"pick": 0, "marks": True}),
    ("person_edits_ours", {"pick": 1, "marks": False}),
    ("person_removes_ours", {"pick": 0}),
    ("back_up", {}),
    ("crash_at_a_request", {"pick": 0, "at": 8, "after": True}),
    ("crash_at_a_request", {"pick": 0, "at": 3, "after": False}),
    ("crash_at_a_statement", {"pick": 0, "at": 9}),
    ("write_fails", {"pick": 0, "lost": True}),
    ("write_fails", {"pick": 0, "lost": False}),
    ("list_is_truncated", {"share": 1}),
    ("list_is_old", {"pick": 0}),
    ("second_inventory_syncs", {"name": "web", "port": 8001, "same_name": True}),
    ("second_inventory_syncs", {"name": "api", "port": 8001, "same_name": False}),
    ("clone_syncs", {}),
    ("take_over", {"pick": 0}),
    ("token_rotates", {}),
    ("process_dies", {"port": 8001}),
    ("process_starts", {"port": 8001}),
    ("token_rotates", {}),
    ("person_removes_ours", {"pick": 0}),
    ("leader_is_paused", {"pick": 0, "other": 1, "knows": True}),
    ("leader_is_paused", {"pick": 0, "other": 1, "knows": False}),
    ("clock_jumps", {"hours": 48}),
    ("clock_jumps", {"hours": -48}),
    ("rename", {"name": "shop"}),
    ("process_dies", {"port": 8004}),
    ("process_starts", {"port": 8004}),
    ("evict", {"pick": 3}),
    ("switch", {"name": "web", "enabled": False}),
    ("switch", {"name": "web", "enabled": True}),
    ("adopt", {"pick": 0}),
    *(("adopt", {"pick": pick}) for pick in range(1, 5)),
    ("agent_is_wiped", {"new_id": False}),
    ("agent_is_wiped", {"new_id": True}),
    ("agent_fails_over", {}),
    ("agent_returns", {}),
    ("agent_fails_over", {}),
    ("delete", {"pick": 0}),
    ("release", {"name": "api"}),
    ("restore", {}),
]


def test_random_histories_keep_what_is_promised(monkeypatch, settings_of_registry):
    used.clear()
    InventoryIdentity.objects.all().delete()  # each world makes its own
    Histories.empty, Histories.monkeypatch = DatabaseState(), monkeypatch
    Histories.configure = staticmethod(settings_of_registry)
    monkeypatch.setattr(divergence, "SYNC_INTERVAL_S", 0.0)  # whatever a second look still shows is confirmed
    monkeypatch.setattr(divergence, "RETRY_S", 1e-6)
    monkeypatch.setattr("registry_admin.inventory.sync.divergence.PUSH_S", 0.0)
    monkeypatch.setattr("registry_admin.consul.own_node.MAX_SHARE", float("inf"))
    evicting = Histories()
    evicting.begin(check="tcp", explicit=True)
    evicting.evict(pick=2)
    evicting.teardown()
    scripted = Histories()
    scripted.begin(check="tcp", explicit=True)
    for name, arguments in SCRIPT:
        getattr(scripted, name)(**arguments)
    scripted.teardown()
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=HISTORIES or 15,
            stateful_step_count=STEPS,
            derandomize=not HISTORIES,
            report_multiple_bugs=False,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert used.keys() >= RULES, f"never used: {sorted(RULES - used.keys())}"


@pytest.fixture
def settings_of_registry(settings: Any) -> Callable[[str], None]:
    """`settings_of_registry(owner)`: the product's inventory is this owner's from now on."""

    def configure(owner: str) -> None:
        settings.REGISTRY = {"SYNC_ON_SAVE": "0", "OWNER": owner}

    return configure
