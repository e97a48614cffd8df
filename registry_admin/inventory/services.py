"""Writes: syncing, and switching declarations on and off. Signals, the admin and commands only call these."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, InterfaceError, ProgrammingError, close_old_connections, transaction
from django.db.models import QuerySet
from django.utils import timezone

from registry_admin.consul.api import ConsulApi
from registry_admin.consul.observe import Observation
from registry_admin.errors import ConsulUnavailableError, RegistryError, StoreUnavailableError, UnsafePlanError
from registry_admin.inventory import mirror
from registry_admin.inventory.conf import conf, consul_api
from registry_admin.inventory.models import ConsulContact, Service, SyncRun
from registry_admin.inventory.selectors import Inventory, read_inventory
from registry_admin.reconcile.apply import ItemResult, apply_items
from registry_admin.reconcile.compare import make_plan
from registry_admin.reconcile.plan import Action, Plan

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SyncOutcome:
    """What a pass found and did. `error` is empty unless the pass as a whole could not be made or was refused."""

    plan: Plan | None = None
    results: tuple[ItemResult, ...] = ()
    broken: dict[str, str] = field(default_factory=dict)
    error: RegistryError | None = None

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


def plan_sync(
    *, only: Collection[str] | None = None, prune: bool = True, api: ConsulApi | None = None
) -> tuple[Plan, dict[str, str]]:
    """Reads both sides and returns the plan, and the declared instances that can't be registered as they stand.

    Nothing is written. Raises ConsulUnavailableError, ConsulRefusedError, ConfigurationError.
    """
    with database_errors():
        _, _, plan, inventory = _look(api or consul_api(), prune=prune)
    return _restricted(plan, only), dict(inventory.broken)


def sync(
    *,
    trigger: SyncRun.Trigger,
    actor: str = "",
    only: Collection[str] | None = None,
    prune: bool = True,
    force: bool = False,
    revive: Collection[str] = (),
    api: ConsulApi | None = None,
    on_plan: Callable[[Plan], None] = lambda _plan: None,
    on_result: Callable[[ItemResult], None] = lambda _result: None,
) -> SyncOutcome:
    """One pass: reads both sides, plans, applies, writes down what is there then. Never raises for Consul's faults.

    `only` restricts it to these services; a plan for everything that would remove too much is refused without `force`.
    Instances of the services in `revive` are brought back even where they had left by themselves.
    Raises StoreUnavailableError where the database is away.
    """
    started, clock = timezone.now(), time.monotonic()
    outcome = SyncOutcome()
    with database_errors():
        try:
            outcome = _pass(
                api or consul_api(),
                only=only,
                prune=prune,
                force=force,
                revive=revive,
                on_plan=on_plan,
                on_result=on_result,
            )
        except RegistryError as error:
            outcome = SyncOutcome(error=error)
            if not isinstance(error, UnsafePlanError):
                mirror.record_contact(problem=str(error))
        _record_run(
            outcome, trigger=trigger, actor=actor, only=only, started_at=started, seconds=time.monotonic() - clock
        )
    return outcome


def _pass(
    api: ConsulApi,
    *,
    only: Collection[str] | None,
    prune: bool,
    force: bool,
    revive: Collection[str],
    on_plan: Callable[[Plan], None],
    on_result: Callable[[ItemResult], None],
) -> SyncOutcome:
    observed, owner, whole, inventory = _look(api, prune=prune, revive=revive)
    plan = _restricted(whole, only)
    on_plan(plan)
    refusal: UnsafePlanError | None = None
    if only is None and not force:
        try:
            plan.check_safe()
        except UnsafePlanError as error:
            refusal, plan = error, plan.without_removals()
    broken = {
        key: why for key, why in inventory.broken.items() if only is None or inventory.rows[key].service.name in only
    }
    results = tuple(apply_items(plan.changes, api, owner=owner, on_result=on_result))
    if results:
        try:
            observed, owner, whole, inventory = _look(api, prune=prune, revive=revive)
        except RegistryError as error:  # what was done until then has been done all the same
            mirror.record_contact(problem=str(error))
            return SyncOutcome(plan=plan, results=results, broken=broken, error=error)
    mirror.record_observation(inventory, observed, whole)
    return SyncOutcome(plan=plan, results=results, broken=broken, error=refusal)


def _look(api: ConsulApi, *, prune: bool, revive: Collection[str] = ()) -> tuple[dict[str, Any], str, Plan, Inventory]:
    owner = conf.owner
    observed = api.agent_instances()
    inventory = read_inventory(Observation(node="", node_id="", here=observed), revive=revive)
    # What can't be registered as it stands is left as it is: neither put in nor, being declared, taken out.
    comparable = {key: instance for key, instance in observed.items() if key not in inventory.broken}
    seen = Observation(node="", node_id="", here=comparable)
    return observed, owner, make_plan(inventory.declared, seen, owner=owner, prune=prune), inventory


def _restricted(plan: Plan, only: Collection[str] | None) -> Plan:
    return plan if only is None else plan.restricted_to(only)


def _record_run(
    outcome: SyncOutcome, *, trigger: str, actor: str, only: Collection[str] | None, started_at: Any, seconds: float
) -> None:
    """Keeps a row of every pass that changed something or failed. A watcher's repeated failure is one row, not many."""
    if not outcome.results and outcome.error is None:
        return
    message = mirror.storable(str(outcome.error or ""))
    items = mirror.storable([result.as_dict() for result in outcome.results])
    done = [result.item.action for result in outcome.results if result.ok]
    if trigger == SyncRun.Trigger.WATCH and not done and _is_known_failure(message, items):
        return
    SyncRun.objects.create(
        trigger=trigger,
        actor=actor[:150],
        scope=sorted(only or ()),
        started_at=started_at,
        seconds=seconds,
        outcome=_verdict(outcome),
        registered=done.count(Action.REGISTER),
        updated=done.count(Action.UPDATE),
        deregistered=done.count(Action.DEREGISTER),
        failed=len(outcome.failures),
        message=message,
        items=items,
    )


def _is_known_failure(message: str, items: list[dict[str, Any]]) -> bool:
    """Whether the watcher's latest run failed just so, and Consul has neither gone nor come back since."""
    latest = SyncRun.objects.filter(trigger=SyncRun.Trigger.WATCH).first()
    if latest is None or (latest.message, _faults(latest.items)) != (message, _faults(items)):
        return False
    contact = ConsulContact.objects.filter(pk=1).first()
    return contact is None or latest.started_at + timedelta(seconds=latest.seconds) >= contact.since


def _faults(items: list[dict[str, Any]]) -> dict[str, str]:
    return {item["id"]: item["error"] for item in items}


def _verdict(outcome: SyncOutcome) -> SyncRun.Outcome:
    if isinstance(outcome.error, UnsafePlanError):
        return SyncRun.Outcome.REFUSED
    if outcome.error is not None:
        return SyncRun.Outcome.FAILED
    return SyncRun.Outcome.PARTIAL if outcome.failures else SyncRun.Outcome.DONE


@contextmanager
def database_errors() -> Iterator[None]:
    """Turns the database's faults into StoreUnavailableError, and drops a broken connection."""
    try:
        yield
    except (DatabaseError, InterfaceError) as error:
        close_old_connections()
        first_line = str(error).strip().partition("\n")[0]
        hint = (
            " Run `manage.py migrate` first."
            if isinstance(error, ProgrammingError) or "no such table" in first_line
            else ""
        )
        raise StoreUnavailableError(
            f"The database can't be used: {first_line or type(error).__name__}.{hint}"
        ) from error


# -- syncing what was just saved -------------------------------------------------------------------------------------

_collected: ContextVar[list[SyncOutcome] | None] = ContextVar("collected", default=None)
_actor: ContextVar[str] = ContextVar("actor", default="")


@contextmanager
def collected_outcomes(actor: str) -> Iterator[list[SyncOutcome]]:
    """Names who is changing declarations in this block, and gives the outcomes of the syncs that it sets off."""
    outcomes: list[SyncOutcome] = []
    tokens = _collected.set(outcomes), _actor.set(actor)
    try:
        yield outcomes
    finally:
        _collected.reset(tokens[0])
        _actor.reset(tokens[1])


def sync_when_committed(names: Iterable[str]) -> None:
    """Syncs these services once the transaction has committed; all that one transaction changes make a single pass."""
    if not conf.sync_on_save:
        return
    hooks = (getattr(hook, "__self__", None) for _, hook, _ in transaction.get_connection().run_on_commit)
    pending = next((changed for changed in hooks if isinstance(changed, _ChangedByTransaction)), None)
    if pending is not None:
        pending.names.update(names)
    else:
        transaction.on_commit(_ChangedByTransaction(set(names)).sync, robust=True)


@dataclass(frozen=True)
class _ChangedByTransaction:
    """The services that a transaction has changed; they are forgotten with it when it is rolled back."""

    names: set[str]

    def sync(self) -> None:
        """Once it has committed."""
        _sync_saved(frozenset(self.names))


def _sync_saved(names: frozenset[str]) -> None:
    try:
        outcome = sync(trigger=SyncRun.Trigger.SAVE, actor=_actor.get(), only=names)
    except StoreUnavailableError as error:  # the save itself went well
        outcome = SyncOutcome(error=error)
    if outcome.error:
        logger.warning("saved, but not synced yet: %s", outcome.error)
    collected = _collected.get()
    if collected is not None:
        collected.append(outcome)


@transaction.atomic
def set_enabled(services: QuerySet[Service], *, enabled: bool) -> int:
    """Switches these declarations on or off and syncs them; returns how many changed."""
    names = list(services.exclude(enabled=enabled).values_list("name", flat=True))
    Service.objects.filter(name__in=names).update(enabled=enabled, updated_at=timezone.now())
    if names:
        sync_when_committed(names)
    return len(names)
