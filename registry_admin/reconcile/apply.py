"""Applying a plan: concurrently, item by item, so that one failure never holds up the others."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from registry_admin.consul.addresses import is_loopback, is_this_machine
from registry_admin.consul.api import ConsulApi
from registry_admin.consul.check_probe import probe_instance
from registry_admin.consul.health import CheckResult, Health
from registry_admin.consul.marks import META_SELF
from registry_admin.consul.service_spec import ServiceSpec
from registry_admin.consul.types import ServiceInstance
from registry_admin.errors import (
    ConsulUnavailableError,
    DifferentAgentsError,
    RegistryError,
    StalePlanError,
    UnreachableAddressError,
)
from registry_admin.reconcile.plan import Action, PlanItem
from registry_admin.reconcile.registered_checks import former_checks, initial_status

CONCURRENCY = 16
STOP_CHECK_EVERY_S = 0.1
MakeMarks = Callable[[str], Mapping[str, str]]  # from an instance ID to the marks to register it with
# Consul's own deregistration knows no outage. What we keep registered is evicted by the watcher; this is for an
# inventory that nobody runs any more.
CONSUL_EVICTS_AFTER = "6h"
_IN_ROTATION = (Health.PASSING, Health.WARNING)
_REMOVALS = (Action.DEREGISTER, Action.EVICT)


@dataclass(frozen=True, kw_only=True)
class ItemResult:
    """The result of one item of a plan: `error` is empty after success, `seconds` is its duration.

    `attempted` is False where it wasn't started, for a reason that isn't the item's own.
    """

    item: PlanItem
    error: str = ""
    seconds: float = 0.0
    attempted: bool = True

    @property
    def ok(self) -> bool:
        """True if Consul has carried it out."""
        return not self.error

    def as_dict(self) -> dict[str, Any]:
        """Returns the result for JSON."""
        return {**self.item.as_dict(), "ok": self.ok, "error": self.error, "seconds": round(self.seconds, 4)}


def apply_items(
    items: Iterable[PlanItem],
    api: ConsulApi,
    *,
    marks: MakeMarks,
    on_result: Callable[[ItemResult], None] = lambda _result: None,
    stop_reason: Callable[[], str] = lambda: "",
    removal_stop_reason: Callable[[], str] = lambda: "",
) -> list[ItemResult]:
    """Carries out the items that change something and returns a result for each, in the plan's order.

    Never raises for an item. `marks` returns the marks to register an instance ID with. `stop_reason` is called at the
    start and then at most every 100 ms; a text that it returns, like a Consul that can't be reached, stops the items
    that haven't started. `removal_stop_reason` is called before each removal, and a text that it returns stops that
    removal. Callbacks run on the calling thread.
    """
    run = _Run(api, marks, stop_reason)
    changes = [item for item in items if item.action is not Action.LEAVE]
    results: dict[int, ItemResult] = {}

    def finish(index: int, result: ItemResult) -> None:
        results[index] = result
        on_result(result)

    with ThreadPoolExecutor(max(1, min(CONCURRENCY, len(changes))), thread_name_prefix="apply") as pool:
        try:
            done: queue.SimpleQueue[Future[ItemResult]] = queue.SimpleQueue()
            running: dict[Future[ItemResult], int] = {}
            waiting = iter(enumerate(changes))
            has_more = True
            while has_more or running:
                run.check_stop()
                # Twice as many as run at once, so that no worker waits for the next; few enough to stop in time.
                while has_more and len(running) < 2 * CONCURRENCY:
                    index, item = next(waiting, (-1, None))
                    if item is None:
                        has_more = False
                    elif stop_text := run.stop_text or (removal_stop_reason() if item.action in _REMOVALS else ""):
                        finish(index, _not_attempted(item, stop_text))
                    else:
                        future = pool.submit(run.carry_out, item)
                        running[future] = index
                        future.add_done_callback(done.put)
                for future in _next_done(done) if running else ():
                    finish(running.pop(future), future.result())
        except BaseException:
            run.stop_text = run.stop_text or "it was interrupted"
            raise
    return [results[index] for index in range(len(changes))]


class _Run:
    """Applies single items, and knows the reason for stopping early."""

    def __init__(self, api: ConsulApi, marks: MakeMarks, stop_reason: Callable[[], str]) -> None:
        self.stop_text = ""  # set by any thread, to stop what has not begun
        self._api = api
        self._marks = marks
        self._stop_reason = stop_reason
        self._checked_at = -STOP_CHECK_EVERY_S

    def check_stop(self) -> None:
        """Calls `stop_reason`, unless that was done just now."""
        now = time.monotonic()
        if not self.stop_text and now - self._checked_at >= STOP_CHECK_EVERY_S:
            self.stop_text, self._checked_at = self._stop_reason(), now

    def carry_out(self, item: PlanItem) -> ItemResult:
        """Applies an item, unless the run has been stopped since it was queued."""
        if self.stop_text:
            return _not_attempted(item, self.stop_text)
        started, error = time.monotonic(), ""
        try:
            _carry_out(item, self._api, self._marks)
        except ConsulUnavailableError as problem:
            error = str(problem)
            if problem.status is None:  # it can't be reached; where it answers with a failure, that is this item's
                is_other_agent = isinstance(problem, DifferentAgentsError)
                self.stop_text = "the address leads to another agent now" if is_other_agent else "Consul is away"
        except RegistryError as problem:
            error = str(problem)
        return ItemResult(item=item, error=error, seconds=time.monotonic() - started)


def _next_done(done: queue.SimpleQueue[Future[ItemResult]]) -> Iterator[Future[ItemResult]]:
    """Yields the futures that are done, as soon as there is one; none after STOP_CHECK_EVERY_S seconds without any."""
    try:
        yield done.get(timeout=STOP_CHECK_EVERY_S)
        while True:
            yield done.get_nowait()
    except queue.Empty:
        return


def _not_attempted(item: PlanItem, reason: str) -> ItemResult:
    return ItemResult(item=item, error=f"not tried, because {reason}", attempted=False)


def _carry_out(item: PlanItem, api: ConsulApi, make_marks: MakeMarks) -> None:
    if item.is_orphaned:
        _deregister_orphan(item, api)
    elif item.action in _REMOVALS:
        if _is_unchanged(item, api):
            if item.successor is not None:
                _check_successor(item.successor, item.node, api)
            api.deregister(item.id)
    elif item.spec is not None:
        if item.action is Action.UPDATE:
            _update(item, item.spec, api, make_marks)
        else:
            api.register(
                item.spec,
                marks=make_marks(item.spec.id),
                status="passing" if item.passing else "",
                maintenance=item.maintenance,
                consul_evicts_after=CONSUL_EVICTS_AFTER,
            )


def _deregister_orphan(item: PlanItem, api: ConsulApi) -> None:
    """Takes an instance out of the catalog that its agent hasn't any more. Raises StalePlanError where it has."""
    if api.agent_instance(item.id) is not None:
        raise StalePlanError("Its agent has it: nothing was removed from the catalog.")
    entry, observed = api.catalog_instance(item.node, item.id), item.observed
    if entry is None or observed is None:
        return
    if _ownership(entry) != _ownership(observed):
        raise StalePlanError("It isn't ours any more: somebody has registered it anew since the plan was made.")
    api.deregister_from_catalog(item.node, item.id)


def _update(item: PlanItem, spec: ServiceSpec, api: ConsulApi, make_marks: MakeMarks) -> None:
    """Registers the instance anew. Checks that it had before go afterwards, so that it is never without one.

    They are removed one by one, because Consul's own replacement would silently end maintenance mode. Where no check
    takes their place they go first: the digest would tell the next run that there is nothing left to remove.
    """
    marks, observed, backstop = dict(make_marks(spec.id)), item.observed, CONSUL_EVICTS_AFTER
    if observed is not None and observed.registered_itself:
        marks[META_SELF] = observed.meta[META_SELF]  # so that the module still knows its own registration
        backstop = ""  # it comes back by itself
    status, former = "", tuple[CheckResult, ...]()
    is_present = _is_unchanged(item, api) and observed is not None
    if is_present and observed is not None:
        status, former = initial_status(spec, observed), former_checks(spec, observed)
        if status or former:  # its health may have changed since the snapshot
            current = replace(observed, checks=api.instance_checks(item.id) or observed.checks)
            status, former = initial_status(spec, current), former_checks(spec, current)
        if item.maintenance:
            api.set_maintenance(item.id, enable=True, reason=item.maintenance)
        if _is_moving(spec, observed):
            _check_new_address(spec, observed, api)
    elif observed is not None and observed.registered_itself:
        raise StalePlanError("It has left by itself since the plan was made.")
    if not spec.check.type.is_registered:
        _deregister_checks(former, api)
    api.register(
        spec, marks=marks, status=status, consul_evicts_after=backstop, observed=observed if is_present else None
    )
    if spec.check.type.is_registered:
        _deregister_checks(former, api)


def _is_moving(spec: ServiceSpec, observed: ServiceInstance) -> bool:
    """Returns whether the spec has another address than the instance, to which callers are sent now."""
    former = (observed.registered_address, observed.port)
    return (spec.address, spec.port) != former and observed.health in _IN_ROTATION


def _check_new_address(spec: ServiceSpec, observed: ServiceInstance, api: ConsulApi) -> None:
    """Raises UnreachableAddressError where the spec's address doesn't answer, or where kept checks ask the former one.

    Consul keeps the status of the check whose ID stays the same, and would take the new address as passing unseen.
    What can't be asked from here is believed: who has no check, reports its own health, or is on loopback elsewhere.
    """
    if spec.check.type.is_kept and observed.own_checks:
        raise UnreachableAddressError(
            f"Its checks are kept, and go on asking {observed.address}:{observed.port}, so the instance stays there. "
            "Choose another kind of check first."
        )
    if (spec.address == "" or is_loopback(spec.address)) and not is_this_machine(api.config.host):
        return
    probe = probe_instance(spec, rules=api.config.target_rules)
    if not probe.is_alive:
        raise UnreachableAddressError(
            f"{spec.target} doesn't answer ({probe.text}), so the instance stays at its present address. "
            "Start it there, or declare the new address under an ID of its own."
        )


def _check_successor(successor: ServiceSpec, node: str, api: ConsulApi) -> None:
    """Raises StalePlanError unless callers find the successor in the catalog, which may know it later than the agent.

    An instance on another node may have the same ID, and be somebody else's. One in maintenance takes the place of
    another that was out of rotation too, or was to be.
    """
    for instance in api.instances(successor.name).data:
        is_successor = instance.id == successor.id and instance.node.lower() == node.lower()
        if is_successor and (instance.health is Health.PASSING or instance.maintenance):
            return
    raise StalePlanError(f"{successor.id!r} doesn't pass in the catalog yet, so this one stays in its place.")


def _deregister_checks(checks: Iterable[CheckResult], api: ConsulApi) -> None:
    for check in checks:
        api.deregister_check(check.id)


def _is_unchanged(item: PlanItem, api: ConsulApi) -> bool:
    """Returns whether the instance is still in Consul. Raises StalePlanError if its owner isn't that of the plan."""
    instance, observed = api.agent_instance(item.id), item.observed
    if instance is not None and observed is not None and _ownership(instance) != _ownership(observed):
        raise StalePlanError("It isn't ours any more: somebody has registered it anew since the plan was made.")
    return instance is not None


def _ownership(instance: ServiceInstance) -> tuple[str, str, bool]:
    """Returns what tells owners apart; the revision of a mark doesn't."""
    return instance.owner, instance.mark.inventory if instance.mark else "", instance.registered_itself
