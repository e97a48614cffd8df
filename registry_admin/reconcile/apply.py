"""Carrying a plan out: concurrently, item by item, so that one failure never holds up the rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from registry_admin.consul.api import ConsulApi
from registry_admin.consul.types import META_OWNER, META_SELF, ServiceInstance, ServiceSpec
from registry_admin.errors import ConsulUnavailableError, RegistryError
from registry_admin.reconcile.plan import Action, PlanItem

CONCURRENCY = 16


@dataclass(frozen=True, kw_only=True)
class ItemResult:
    """What became of one item of a plan; `error` is empty where it succeeded. `seconds` is how long it took."""

    item: PlanItem
    error: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether Consul has carried it out."""
        return not self.error

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.item.as_dict(), "ok": self.ok, "error": self.error, "seconds": round(self.seconds, 4)}


def apply_items(
    items: Iterable[PlanItem],
    api: ConsulApi,
    *,
    owner: str,
    on_result: Callable[[ItemResult], None] = lambda _result: None,
) -> list[ItemResult]:
    """Carries out the items that change something and returns a result for each, in the plan's order.

    Never raises for an item. Once Consul is found to be away, what has not begun is not tried: it would only wait.
    """
    gone = threading.Event()

    def carry_out(item: PlanItem) -> ItemResult:
        started = time.monotonic()
        error = ""
        if gone.is_set():
            error = "not tried, because Consul is away"
        else:
            try:
                _carry_out(item, api, owner)
            except ConsulUnavailableError as problem:
                gone.set()
                error = str(problem)
            except RegistryError as problem:
                error = str(problem)
        result = ItemResult(item=item, error=error, seconds=time.monotonic() - started)
        on_result(result)
        return result

    todo = [item for item in items if item.action is not Action.LEAVE]
    if len(todo) <= 1:
        return [carry_out(item) for item in todo]
    with ThreadPoolExecutor(min(CONCURRENCY, len(todo)), thread_name_prefix="apply") as pool:
        return list(pool.map(carry_out, todo))


def _carry_out(item: PlanItem, api: ConsulApi, owner: str) -> None:
    if item.action in (Action.DEREGISTER, Action.EVICT):
        api.deregister(item.id)
    elif item.spec is not None:
        marks = {META_OWNER: owner}
        if item.observed is not None and item.observed.registered_itself:
            marks[META_SELF] = item.observed.meta[META_SELF]  # so that the module still knows its own registration
        api.register(item.spec, marks=marks, passing=item.passing)
        if item.observed is not None:
            for check_id in _stale_checks(item.spec, item.observed):
                api.deregister_check(check_id)


def _stale_checks(spec: ServiceSpec, have: ServiceInstance) -> list[str]:
    """Checks that came with an earlier registration. Removed one by one, because letting Consul replace all checks
    would silently end maintenance mode; checks that others attached by a name of their own are theirs."""
    kept = spec.check_id if spec.payload(marks={}).get("Checks") else None
    automatic = f"service:{have.id}"
    return [
        check.id
        for check in have.checks
        if check.id != kept
        and (check.id.startswith(f"{have.id}:") or check.id == automatic or check.id.startswith(f"{automatic}:"))
    ]
