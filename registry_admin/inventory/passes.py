"""One pass: look at both sides, plan, apply, and write down what is there then."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from django.utils import timezone

from registry_admin.consul import Observation, ServiceSpec
from registry_admin.errors import (
    ConsulUnavailableError,
    InvalidReplyError,
    PlanMovedError,
    RegistryError,
    StoreUnavailableError,
    UnsafePlanError,
)
from registry_admin.inventory import mirror, selectors
from registry_admin.inventory.conf import conf, consul_api, consul_observer
from registry_admin.inventory.history import Run
from registry_admin.inventory.models import HealthTransition
from registry_admin.inventory.selectors import Inventory
from registry_admin.inventory.store import check_store, database_errors
from registry_admin.reconcile.apply import ItemResult, apply_items
from registry_admin.reconcile.compare import make_plan
from registry_admin.reconcile.plan import Action, Plan, PlanItem
from registry_admin.reconcile.plan_file import PlanFile


class Supervision(Protocol):
    """What the watcher adds to a pass. People's own passes have none: they neither evict nor need the lease."""

    @property
    def holder(self) -> str:
        """Who makes the run."""

    @property
    def halted(self) -> str:
        """Why nothing is evicted now, or nothing."""

    @property
    def notes(self) -> Mapping[tuple[str, str], str]:
        """What is to be said of instances beyond their status, by node and ID: such as that they flap."""

    def evictions(self, observation: Observation, inventory: Inventory) -> Mapping[str, str]:
        """Whose time is up, by instance ID, and why."""

    def holds_back(self, item: PlanItem) -> bool:
        """Whether it failed lately and is not to be tried yet."""

    def confirm(self) -> bool:
        """Whether the database itself says that this process leads: asked before a plan with removals is begun."""

    def note_transition(self, transition: HealthTransition) -> None:
        """An instance's health has changed."""

    def may_go_on(self) -> str:
        """Why nothing more may be begun, or nothing. Asked again and again, and before each removal."""


@dataclass(frozen=True, kw_only=True)
class SyncOutcome:
    """What a pass found and did. `error` is empty unless the pass as a whole could not be made or was refused.

    `evicted`: what is evicted now, since when, and what would be registered when it answers again. `run`: the key of
    its row in the history, where there is something to tell. `unfinished`: where
    the database went away in the middle, what writes the run down when it is back.
    """

    plan: Plan | None = None
    results: tuple[ItemResult, ...] = ()
    broken: Mapping[str, str] = field(default_factory=dict)
    error: RegistryError | None = None
    evicted: Mapping[str, tuple[datetime, ServiceSpec]] = field(default_factory=dict)
    run: int | None = None
    unfinished: Callable[[], object] | None = None

    @property
    def failures(self) -> list[ItemResult]:
        """The items that Consul did not carry out."""
        return [result for result in self.results if not result.ok]

    @property
    def ok(self) -> bool:
        """Whether everything that was to be done was done."""
        return not (self.error or self.failures or self.broken)

    @property
    def is_unavailable(self) -> bool:
        """Whether Consul was away, for the whole pass or for some of its items."""
        return isinstance(self.error, ConsulUnavailableError)


@dataclass(frozen=True, kw_only=True)
class Look:
    """Both sides as they were at one moment, and the plan that follows."""

    at: datetime
    observation: Observation
    inventory: Inventory
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class Pass:
    """How a pass is to be made: `Pass(trigger=…).make()`.

    `trigger` and `actor` are for the history. `only` restricts it to these services, `items` to these instances. A plan
    that would remove too much is refused without `force`. Instances of the services in `revive` are brought back even
    where they had left by themselves or were evicted. `reviewed` is a plan that was kept: anything else is refused.
    `answering` and `supervision` are the watcher's.
    """

    trigger: str
    actor: str = ""
    only: Collection[str] | None = None
    items: Collection[str] | None = None
    prune: bool = True
    force: bool = False
    revive: Collection[str] = ()
    answering: Collection[str] = ()
    reviewed: PlanFile | None = None
    supervision: Supervision | None = None
    on_plan: Callable[[Plan], None] = lambda _plan: None
    on_result: Callable[[ItemResult], None] = lambda _result: None

    def make(self) -> SyncOutcome:
        """Never raises for Consul's faults. Raises StoreUnavailableError where the database was away from the start."""
        run = Run(
            trigger=self.trigger,
            actor=self.actor,
            only=self.only,
            holder=self.supervision.holder if self.supervision else "",
        )
        results: list[ItemResult] = []
        try:
            with database_errors():
                return self._make(run, results)
        except StoreUnavailableError as error:
            if not results:
                raise
            return _interrupted(run, results, error)
        except RegistryError as error:
            with database_errors():
                if not isinstance(error, PlanMovedError):
                    mirror.record_contact(problem=str(error))
                run.finish(results, error=error)
            return SyncOutcome(results=tuple(results), error=error, run=run.pk)

    def preview(self) -> tuple[Look, SyncOutcome]:
        """What `make` would do. Nothing is written. Raises as `look` does, and StoreUnavailableError."""
        with database_errors():
            look = self.look()
        return look, SyncOutcome(plan=self.restricted(look.plan), broken=self.broken(look.inventory))

    def look(self, *, evicting: bool = False) -> Look:
        """Reads both sides and plans. Nothing is written. Raises what looking at Consul raises, and database errors."""
        at = timezone.now()
        observation = consul_observer().look()
        inventory = selectors.read_inventory(observation, revive=self.revive, answering=self.answering)
        doubt, lost = selectors.doubt(observation), selectors.lost_state(observation)
        evict: Mapping[str, str] = {}
        if evicting and self.supervision and not (doubt or lost):
            evict = self.supervision.evictions(observation, inventory)
        plan = make_plan(
            inventory.declared,
            inventory.comparable(observation),
            owner=conf.owner,
            prune=self.reviewed.prune if self.reviewed else self.prune,
            evict=evict,
            agent_lost_state=lost,
            doubt=doubt,
        )
        return Look(at=at, observation=observation, inventory=inventory, plan=plan)

    def restricted(self, plan: Plan) -> Plan:
        """The part of it that this pass is about."""
        plan = plan if self.only is None else plan.restricted_to(self.only)
        return plan if self.items is None else plan.restricted_to_items(self.items)

    def broken(self, inventory: Inventory) -> Mapping[str, str]:
        """The same of what can't be registered as it stands."""
        rows = inventory.rows
        return {
            key: why
            for key, why in inventory.broken.items()
            if (self.only is None or rows[key].service_name in self.only) and (self.items is None or key in self.items)
        }

    def _make(self, run: Run, results: list[ItemResult]) -> SyncOutcome:
        look = self.look(evicting=True)
        plan = self.restricted(look.plan)
        if self.reviewed is not None:
            plan = self.reviewed.unmoved(look.plan, declared=look.inventory.declared, observation=look.observation)
        self.on_plan(plan)
        plan, refusal = self._safe(plan)
        self._apply(plan, run, results)
        broken = self.broken(look.inventory)
        if results:
            try:
                look = self.look()
            except RegistryError as error:  # what was done until then has been done all the same
                mirror.record_contact(problem=str(error))
                run.finish(results, error=error)
                return SyncOutcome(plan=plan, results=tuple(results), broken=broken, error=error, run=run.pk)
        if look.plan.doubt and not look.observation.here:  # what is known of everything stays as it is, with its age
            raise InvalidReplyError(f"What Consul shows can't be believed: {look.plan.doubt}.")
        watched = self.supervision
        taken_out = [one.item for one in results if one.ok and one.item.action is Action.EVICT]
        mirror.record_observation(
            look.inventory,
            look.observation,
            look.plan,
            looked_at=look.at,
            evicted={item.id: item.reason for item in taken_out},
            on_transition=watched.note_transition if watched else lambda _transition: None,
            notes=watched.notes if watched else None,
            halted=watched.halted if watched else None,
        )
        run.finish(results, error=refusal)
        return SyncOutcome(
            plan=plan,
            results=tuple(results),
            broken=broken,
            error=refusal,
            evicted=_evicted_now(look.inventory, taken_out, look.at),
            run=run.pk,
        )

    def _safe(self, plan: Plan) -> tuple[Plan, UnsafePlanError | None]:
        """The plan, or the part of it that is safe, and why the rest is refused."""
        try:
            if not self.force:
                plan.check_safe()
        except UnsafePlanError as refusal:
            return plan.without_removals(), refusal
        return plan, None

    def _apply(self, plan: Plan, run: Run, results: list[ItemResult]) -> None:
        watched = self.supervision
        todo = [item for item in plan.changes if watched is None or not watched.holds_back(item)]
        if watched and any(item.action in (Action.DEREGISTER, Action.EVICT) for item in todo) and not watched.confirm():
            return
        run.begin(todo)

        def note(result: ItemResult) -> None:
            results.append(result)
            self.on_result(result)

        def may_go_on() -> str:
            if results:  # before that, the row that was just written is proof enough
                try:
                    with database_errors():
                        check_store()
                        run.progress(results)
                except StoreUnavailableError:
                    return "the database is away"
            return watched.may_go_on() if watched else ""

        results[:] = apply_items(
            todo,
            consul_api(),
            owner=conf.owner,
            on_result=note,
            may_go_on=may_go_on,
            may_remove=watched.may_go_on if watched else lambda: "",
        )


def _interrupted(run: Run, results: list[ItemResult], error: StoreUnavailableError) -> SyncOutcome:
    return SyncOutcome(results=tuple(results), error=error, unfinished=lambda: run.finish(results, error=error))


def _evicted_now(
    inventory: Inventory, taken_out: list[PlanItem], now: datetime
) -> dict[str, tuple[datetime, ServiceSpec]]:
    return {item.id: (now, item.spec) for item in taken_out if item.spec is not None} | {
        one.spec.id: (inventory.rows[one.spec.id].evicted_at or now, one.spec)
        for one in inventory.declared
        if one.evicted and one.enabled
    }
