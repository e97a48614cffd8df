"""The conclusion on a run: one result from which every text and every exit code is made. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from registry_admin.reconcile.plan import Action, Cause, Plan, PlanItem, SyncStatus


class Conclusion(IntEnum):
    """How Consul and the declarations stand to each other after a run or a dry run. The value is the exit code."""

    VERIFIED = 0  # every declared instance is as declared, and nothing else of ours is there
    ERROR = 1  # something failed, or a declaration is invalid
    PENDING = 2  # changes are to be made; with --detailed-exitcode also: changes were made
    HELD = 3  # something isn't as declared and stays so: held by the brake, or left alone
    DOUBT = 4  # it isn't certain whose something is
    INCOMPLETE = 5  # not all of Consul could be seen


BY_SEVERITY = (
    Conclusion.ERROR,
    Conclusion.INCOMPLETE,
    Conclusion.DOUBT,
    Conclusion.HELD,
    Conclusion.PENDING,
    Conclusion.VERIFIED,
)


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """An instance that isn't as declared, or whose owner is in doubt, and that a run leaves alone, with the reason."""

    id: str
    service: str
    reason: str

    def as_dict(self) -> dict[str, str]:
        """Returns it for JSON."""
        return {"id": self.id, "service": self.service, "reason": self.reason}

    def __str__(self) -> str:
        return f"{self.id}: {self.reason}"


def deviations(plan: Plan) -> tuple[Deviation, ...]:
    """Returns what isn't as declared and isn't to be changed by the plan, sorted by service and ID.

    Owned instances that nothing declares count where the brake holds them, not where nobody asked to remove them.
    """
    found = {}
    for item in plan.items:
        if item.held or (item.action is Action.LEAVE and _is_deviating(item)):
            found[item.service, item.id] = Deviation(id=item.id, service=item.service, reason=item.reason)
    known = {item.id for item in plan.items}
    if plan.scope is None:
        for instance_id, status in plan.statuses.items():
            if instance_id not in known and status not in (SyncStatus.SYNCED, SyncStatus.DISABLED):
                found["", instance_id] = Deviation(id=instance_id, service="", reason=f"its status is {status}")
    return tuple(found[key] for key in sorted(found))


def _is_deviating(item: PlanItem) -> bool:
    """Returns whether what is left alone isn't as declared, or may be ours. What is disabled must be absent."""
    if item.spec is None:
        return item.cause in (Cause.DOUBT, Cause.ORPHANED)
    if item.status is SyncStatus.DISABLED:
        return item.observed is not None
    return item.status is not SyncStatus.SYNCED


def has_doubt(plan: Plan) -> bool:
    """Returns whether the plan leaves something alone because it isn't certain whose it is."""
    return bool(plan.doubt) or any(item.cause is Cause.DOUBT for item in plan.items if item.action is Action.LEAVE)


def conclude(
    plan: Plan | None,
    *,
    failed: bool = False,
    error: Exception | None = None,
    invalid: Mapping[str, str],
    incomplete: str = "",
) -> Conclusion:
    """Returns the conclusion on the state that `plan` was made from: after a run, the plan made after it.

    `failed`: an item failed. `error`: the run failed, which a removal held by the brake isn't. `incomplete`: what of
    Consul couldn't be seen.
    """
    if error is not None or failed or invalid or plan is None:
        return Conclusion.ERROR
    if incomplete:
        return Conclusion.INCOMPLETE
    if has_doubt(plan):
        return Conclusion.DOUBT
    if deviations(plan):
        return Conclusion.HELD
    return Conclusion.PENDING if plan.changes else Conclusion.VERIFIED
