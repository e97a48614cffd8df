"""Reconciliation run: reads both sides, plans, applies the plan, and records the new state."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from django.utils import timezone

from registry_admin.consul import Place, ServiceSpec, Snapshot
from registry_admin.consul.api import AgentIdentity
from registry_admin.consul.one_agent import on_one_agent
from registry_admin.errors import (
    DatabaseUnavailableError,
    InvalidReplyError,
    RegistryError,
    StalePlanError,
    StoppedError,
)
from registry_admin.inventory import selectors
from registry_admin.inventory.audit_trail import record_act
from registry_admin.inventory.conf import consul_api, snapshot_reader
from registry_admin.inventory.database import check_database, database_errors
from registry_admin.inventory.models import AuditEvent, Instance, SyncRun
from registry_admin.inventory.selectors import Inventory
from registry_admin.inventory.sync import divergence as divergences
from registry_admin.inventory.sync import identity, mirror
from registry_admin.inventory.sync.hooks import ReconcileHooks
from registry_admin.inventory.sync.removals import withdraw_approvals
from registry_admin.inventory.sync.result import SyncResult
from registry_admin.inventory.sync.runs import RunRecorder
from registry_admin.reconcile.apply import ItemResult, apply_items
from registry_admin.reconcile.brake import Brake, apply_brake
from registry_admin.reconcile.divergence import NO_DIVERGENCE, Divergence
from registry_admin.reconcile.ownership import Takeover
from registry_admin.reconcile.plan import Action, Plan, PlanItem
from registry_admin.reconcile.plan_file import PlanFile
from registry_admin.reconcile.planner import make_plan

ASKED_FOR = frozenset(
    {SyncRun.Trigger.ACTION, SyncRun.Trigger.COMMAND, SyncRun.Trigger.PLAN_FILE, SyncRun.Trigger.TAKEOVER}
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Both sides as they were at one moment, and the plan that follows."""

    read_at: datetime
    snapshot: Snapshot
    inventory: Inventory
    plan: Plan
    brake: Brake
    incomplete: str = ""
    divergence: Divergence = NO_DIVERGENCE

    @property
    def shown(self) -> Snapshot:
        """The snapshot for people."""
        orphans = [item.id for item in self.plan.items if item.is_orphaned]
        return self.divergence.shown(self.snapshot, orphans)


@dataclass(frozen=True, kw_only=True)
class Reconciler:
    """Options of a run: `Reconciler(trigger=…).run()`.

    `trigger` and `actor` are for the history. `only` restricts it to these services, `items` to these instances. The
    brake holds removals that are too many, unless `expected_removals` is their number, or `force` is set; without
    `may_remove` it holds all. Instances of the services in `restore` are brought back even
    where they had left by themselves or were evicted. `plan_file` is a saved plan: any other is refused.
    `takeover` is what a person lets the inventory take over. `recovered` and `retried` (IDs of evicted instances that
    answer again, or get another chance), `token_changed` and `hooks` are the watcher's.
    """

    trigger: str
    actor: str = ""
    only: Collection[str] | None = None
    items: Collection[str] | None = None
    prune: bool = True
    force: bool = False
    expected_removals: int | None = None
    may_remove: bool = True
    restore: Collection[str] = ()
    recovered: Collection[str] = ()
    retried: Collection[str] = ()
    token_changed: bool = False
    plan_file: PlanFile | None = None
    takeover: Takeover | None = None
    hooks: ReconcileHooks | None = None
    on_plan: Callable[[Plan], None] = lambda _plan: None
    on_result: Callable[[ItemResult], None] = lambda _result: None

    def run(self) -> SyncResult:
        """Reconciles. Never raises for Consul's faults. The audit trail has each run that a person has asked for.

        Raises DatabaseUnavailableError if the database is unavailable before anything is applied.
        """
        result = self._recorded_run()
        if self.trigger in ASKED_FOR:
            record_act(AuditEvent.Action.SYNC, target=", ".join(sorted(self.only or ())), detail=_summary(result))
        return result

    def _recorded_run(self) -> SyncResult:
        run = RunRecorder(
            trigger=self.trigger,
            actor=self.actor,
            only=self.only,
            holder=self.hooks.holder if self.hooks else "",
        )
        results: list[ItemResult] = []
        try:
            with database_errors():
                return self._run(run, results)
        except DatabaseUnavailableError as error:
            if not results:
                raise
            return _interrupted(run, results, error)
        except RegistryError as error:
            with database_errors():
                if not isinstance(error, StalePlanError):
                    mirror.record_contact(problem=str(error))
                run.finish(results, error=error)
            return SyncResult(results=tuple(results), error=error, run_id=run.pk)

    def preview(self, *, snapshot: Snapshot | None = None) -> tuple[Comparison, SyncResult]:
        """Returns what `run` would do; writes nothing. `snapshot`: what Consul has, where the caller has read it.

        Raises errors of Consul, and DatabaseUnavailableError.
        """
        with database_errors():
            comparison = self.plan(snapshot=snapshot)
        plan = self._braked(self.restricted(comparison.plan), comparison.brake)
        return comparison, SyncResult(
            plan=plan,
            invalid=self.invalid(comparison.inventory),
            error=plan.refusal,
            incomplete=comparison.incomplete,
        )

    def plan(
        self,
        *,
        evicting: bool = False,
        agent: AgentIdentity | None = None,
        snapshot: Snapshot | None = None,
        changed: Collection[str] = (),
    ) -> Comparison:
        """Reads both sides and plans; `agent` is the one that was read before, and none but it will do.

        `snapshot`: what Consul has, where the caller has read it. `changed`: IDs of what was just written. Nothing is
        written. Raises errors of Consul and of the database.
        """
        read_at = timezone.now()
        snapshot = snapshot or snapshot_reader().read(agent=agent)
        divergence = divergences.observe(snapshot, now=read_at, changed=changed)
        if divergence.has_begun_at(read_at):
            time.sleep(divergences.PUSH_S)
            read_at = timezone.now()
            snapshot = snapshot_reader().read(agent=snapshot.agent, compare=True)
            divergence = divergences.observe(snapshot, now=read_at, changed=changed)
        owner = identity.observe(snapshot)
        lost = selectors.agent_lost_state(snapshot, owner)
        inventory = selectors.read_inventory(
            snapshot,
            owner,
            restore=self.restore,
            recovered=self.recovered,
            retried=self.retried,
            agent_lost_state=lost,
            created_indexes=lambda: consul_api().created_indexes(snapshot.node),
        )
        incomplete = selectors.incomplete_reason(snapshot)
        doubt = incomplete or identity.doubt(owner)
        evict: Mapping[str, str] = {}
        if evicting and self.hooks and not (doubt or lost):
            evict = self.hooks.evictions(snapshot, inventory)
        plan = make_plan(
            inventory.declared,
            inventory.without_excluded(snapshot),
            owner=owner,
            former=selectors.former_declarations(
                (*snapshot.local.values(), *snapshot.remote, *divergence.orphans.values()),
                owner,
                declared=inventory.rows.keys(),
            ),
            takeover=self.takeover,
            prune=self.plan_file.prune if self.plan_file else self.prune,
            evict=evict,
            agent_lost_state=lost,
            divergence=divergence.without(inventory.excluded),
            token_changed=self.token_changed,
            doubt=doubt,
        )
        brake = selectors.brake_for(plan, inventory.declared, plan.present)
        return Comparison(
            read_at=read_at,
            snapshot=snapshot,
            inventory=inventory,
            plan=plan,
            brake=brake,
            incomplete=incomplete or selectors.uncompared_reason(snapshot),
            divergence=divergence,
        )

    def restricted(self, plan: Plan) -> Plan:
        """Returns the part of the plan that this run is restricted to."""
        if self.takeover is not None:
            return plan.restricted_to_takeover()
        plan = plan if self.only is None else plan.restricted_to(self.only)
        return plan if self.items is None else plan.restricted_to_items(self.items)

    def invalid(self, inventory: Inventory) -> Mapping[str, str]:
        """Returns the reasons of the invalid declarations that this run is restricted to, by instance ID."""
        rows = inventory.rows
        return {
            key: reason
            for key, reason in inventory.invalid.items()
            if (self.only is None or rows[key].service_name in self.only) and (self.items is None or key in self.items)
        }

    def _run(self, run: RunRecorder, results: list[ItemResult]) -> SyncResult:
        comparison = self.plan(evicting=True)
        plan = self.restricted(comparison.plan)
        if self.plan_file is not None:
            plan = self.plan_file.check_current(
                comparison.plan, declared=comparison.inventory.declared, snapshot=comparison.snapshot
            )
        plan = self._braked(plan, comparison.brake)
        identity.record(plan.owner)
        self.on_plan(plan)
        if self.takeover is not None and self.takeover.restored:
            plan = replace(plan, owner=identity.acknowledge(plan.owner))
        self._apply(plan, comparison.snapshot, run, results)
        withdraw_approvals([result.item.id for result in results if result.ok and result.item.is_removal])
        invalid = self.invalid(comparison.inventory)
        if results:
            try:
                comparison = self.plan(agent=comparison.snapshot.agent, changed={result.item.id for result in results})
            except RegistryError as error:  # the items are applied nevertheless
                mirror.record_contact(problem=str(error))
                run.finish(results, error=error)
                return SyncResult(plan=plan, results=tuple(results), invalid=invalid, error=error, run_id=run.pk)
        if comparison.plan.doubt and not comparison.snapshot.local:  # the mirror keeps its older state
            raise InvalidReplyError(f"What Consul shows can't be believed: {comparison.plan.doubt}.")
        hooks = self.hooks
        evictions = [result.item for result in results if result.ok and result.item.action is Action.EVICT]
        mirror.record_snapshot(
            comparison.inventory,
            comparison.shown,
            apply_brake(comparison.plan, comparison.brake),
            read_at=comparison.read_at,
            divergence=divergences.to_json(comparison.divergence),
            evicted={item.id: item.reason for item in evictions},
            on_transition=hooks.on_transition if hooks else lambda _transition: None,
            notes=hooks.notes if hooks else None,
            halted=hooks.halted if hooks else None,
        )
        run.finish(results, error=plan.refusal)
        return SyncResult(
            plan=plan,
            after=self._braked(self.restricted(comparison.plan), comparison.brake),
            incomplete=comparison.incomplete,
            next_look_s=divergences.SETTLED_S if results else comparison.divergence.due_in_s(comparison.read_at),
            results=tuple(results),
            invalid=invalid,
            error=plan.refusal,
            evicted=_evicted_now(comparison.inventory, evictions, comparison.read_at),
            run_id=run.pk,
        )

    def _braked(self, plan: Plan, brake: Brake) -> Plan:
        """Returns the plan with the removals held that this run may not carry out."""
        if not self.may_remove:
            brake = replace(brake, blocked="it takes the permission to remove from Consul what is no longer declared")
        return apply_brake(plan, brake, force=self.force, expected=self.expected_removals)

    def _apply(self, plan: Plan, snapshot: Snapshot, run: RunRecorder, results: list[ItemResult]) -> None:
        hooks = self.hooks
        todo = [item for item in plan.changes if hooks is None or not hooks.is_deferred(item)]
        if (
            hooks
            and any(item.action in (Action.DEREGISTER, Action.EVICT) for item in todo)
            and not hooks.confirm_leadership()
        ):
            return
        if not todo:
            return
        run.begin(todo)
        maintained = [item.id for item in todo if item.maintenance]
        if maintained:  # what is seen of it so far was another registration
            Instance.objects.filter(consul_id__in=maintained).update(maintenance_index=0)
        owner = identity.next_revision(plan.owner) if any(item.spec is not None for item in todo) else plan.owner

        def add_result(result: ItemResult) -> None:
            results.append(result)
            self.on_result(result)

        def stop_reason() -> str:
            if results:  # before that, the row that was just written is proof enough
                try:
                    with database_errors():
                        check_database()
                        run.progress(results)
                except DatabaseUnavailableError:
                    return "the database is away"
            return hooks.stop_reason() if hooks else ""

        def check_leadership() -> None:
            if hooks and (reason := hooks.stop_reason()):
                raise StoppedError(f"Nothing was written, because {reason}.")

        with on_one_agent(consul_api(), snapshot.agent, before_write=check_leadership) as api:
            results[:] = apply_items(
                todo,
                api,
                marks=lambda instance_id: owner.marks(Place(snapshot.datacenter, snapshot.node, instance_id)),
                on_result=add_result,
                stop_reason=stop_reason,
                removal_stop_reason=hooks.stop_reason if hooks else lambda: "",
            )


def _summary(result: SyncResult) -> str:
    run = f" (run {result.run_id})" if result.run_id else ""
    if result.error:
        return f"failed: {result.error}{run}"
    return (
        f"{len(result.results)} changes, {len(result.failures)} failed{run}" if result.results else "nothing to change"
    )


def _interrupted(run: RunRecorder, results: list[ItemResult], error: DatabaseUnavailableError) -> SyncResult:
    return SyncResult(results=tuple(results), error=error, finish_run=lambda: run.finish(results, error=error))


def _evicted_now(
    inventory: Inventory, evictions: list[PlanItem], now: datetime
) -> dict[str, tuple[datetime, ServiceSpec]]:
    return {item.id: (now, item.spec) for item in evictions if item.spec is not None} | {
        declared.spec.id: (inventory.rows[declared.spec.id].evicted_at or now, declared.spec)
        for declared in inventory.declared
        if declared.evicted_reason and declared.enabled
    }
