"""Carrying a plan out: concurrently, item by item, so that one failure never holds up the rest."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from registry_admin.consul.api import ConsulApi
from registry_admin.consul.types import META_OWNER, META_SELF, CheckKind, ServiceInstance, ServiceSpec
from registry_admin.errors import ConsulUnavailableError, PlanMovedError, RegistryError
from registry_admin.reconcile.plan import Action, PlanItem

CONCURRENCY = 16
ASK_EVERY_S = 0.1
_REMOVALS = (Action.DEREGISTER, Action.EVICT)


@dataclass(frozen=True, kw_only=True)
class ItemResult:
    """What became of one item of a plan; `error` is empty where it succeeded. `seconds` is how long it took.

    `tried` is False where it wasn't begun, because of something that isn't the item's own fault.
    """

    item: PlanItem
    error: str = ""
    seconds: float = 0.0
    tried: bool = True

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
    may_go_on: Callable[[], str] = lambda: "",
    may_remove: Callable[[], str] = lambda: "",
) -> list[ItemResult]:
    """Carries out the items that change something and returns a result for each, in the plan's order.

    Never raises for an item. `may_go_on` and `may_remove` return nothing, or why not. The first is asked at the
    beginning and then at most every 100 ms: its no, like a Consul that can't be reached, ends what has not begun. The
    second is asked before each removal, and decides on that alone. All three are called from the calling thread.
    """
    run = _Run(api, owner, may_go_on)
    todo = [item for item in items if item.action is not Action.LEAVE]
    results: dict[int, ItemResult] = {}

    def finish(index: int, result: ItemResult) -> None:
        results[index] = result
        on_result(result)

    with ThreadPoolExecutor(max(1, min(CONCURRENCY, len(todo))), thread_name_prefix="apply") as pool:
        try:
            done: queue.SimpleQueue[Future[ItemResult]] = queue.SimpleQueue()
            begun: dict[Future[ItemResult], int] = {}
            waiting = iter(enumerate(todo))
            more = True
            while more or begun:
                run.ask()
                # Twice as many as run at once, so that no worker waits for the next; few enough to stop in time.
                while more and len(begun) < 2 * CONCURRENCY:
                    index, item = next(waiting, (-1, None))
                    if item is None:
                        more = False
                    elif why_not := run.why_not or (may_remove() if item.action in _REMOVALS else ""):
                        finish(index, _not_tried(item, why_not))
                    else:
                        future = pool.submit(run.carry_out, item)
                        begun[future] = index
                        future.add_done_callback(done.put)
                for future in _next_done(done) if begun else ():
                    finish(begun.pop(future), future.result())
        except BaseException:
            run.why_not = run.why_not or "it was interrupted"
            raise
    return [results[index] for index in range(len(todo))]


class _Run:
    """One carrying-out: what ends it early, and the work on a single item."""

    def __init__(self, api: ConsulApi, owner: str, may_go_on: Callable[[], str]) -> None:
        self.why_not = ""  # set by any thread, to stop what has not begun
        self._api = api
        self._owner = owner
        self._may_go_on = may_go_on
        self._asked_at = -ASK_EVERY_S

    def ask(self) -> None:
        """Whether it may go on, if that wasn't asked just now."""
        now = time.monotonic()
        if not self.why_not and now - self._asked_at >= ASK_EVERY_S:
            self.why_not, self._asked_at = self._may_go_on(), now

    def carry_out(self, item: PlanItem) -> ItemResult:
        """One item, unless the run has been stopped since it was handed over."""
        if self.why_not:
            return _not_tried(item, self.why_not)
        started, error = time.monotonic(), ""
        try:
            _carry_out(item, self._api, self._owner)
        except ConsulUnavailableError as problem:
            error = str(problem)
            if problem.status is None:  # it can't be reached; where it answers with a failure, that is this item's
                self.why_not = "Consul is away"
        except RegistryError as problem:
            error = str(problem)
        return ItemResult(item=item, error=error, seconds=time.monotonic() - started)


def _next_done(done: queue.SimpleQueue[Future[ItemResult]]) -> Iterator[Future[ItemResult]]:
    """Those that have ended, as soon as one has; none after a while in which none did."""
    try:
        yield done.get(timeout=ASK_EVERY_S)
        while True:
            yield done.get_nowait()
    except queue.Empty:
        return


def _not_tried(item: PlanItem, why: str) -> ItemResult:
    return ItemResult(item=item, error=f"not tried, because {why}", tried=False)


def _carry_out(item: PlanItem, api: ConsulApi, owner: str) -> None:
    if item.action in _REMOVALS:
        if _is_still_there(item, api):
            api.deregister(item.id)
    elif item.spec is not None:
        if item.action is Action.UPDATE:
            _is_still_there(item, api)
        marks = {META_OWNER: owner}
        if item.observed is not None and item.observed.registered_itself:
            marks[META_SELF] = item.observed.meta[META_SELF]  # so that the module still knows its own registration
        api.register(item.spec, marks=marks, passing=item.passing)
        if item.observed is not None:
            for check_id in _stale_checks(item.spec, item.observed):
                api.deregister_check(check_id)


def _is_still_there(item: PlanItem, api: ConsulApi) -> bool:
    """Whether it is, as it was seen; raises PlanMovedError where somebody has released it or put in another."""
    have, seen = api.agent_instance(item.id), item.observed
    if (
        have is not None
        and seen is not None
        and (have.owner, have.registered_itself) != (seen.owner, seen.registered_itself)
    ):
        raise PlanMovedError("It isn't ours any more: somebody has registered it anew since the plan was made.")
    return have is not None


def _stale_checks(spec: ServiceSpec, have: ServiceInstance) -> list[str]:
    """Checks that came with an earlier registration. Removed one by one, because letting Consul replace all checks
    would silently end maintenance mode; checks that others attached by a name of their own are theirs. The automatic
    ones of a registration by hand go only where ours has a check in their place."""
    own, automatic = f"{have.id}:", f"service:{have.id}"
    has_check = spec.check.kind is not CheckKind.NONE

    def is_former(check_id: str) -> bool:
        if check_id.startswith(own):
            return check_id != spec.check_id
        return has_check and (check_id == automatic or check_id.startswith(f"{automatic}:"))

    return [check.id for check in have.checks if is_former(check.id)]
