"""The result of a run, and what it says of how Consul and the declarations stand to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from registry_admin.consul import ServiceSpec
from registry_admin.errors import ConsulUnavailableError, RegistryError, UnsafePlanError
from registry_admin.reconcile.apply import ItemResult
from registry_admin.reconcile.conclusion import Conclusion, Deviation, conclude, deviations
from registry_admin.reconcile.plan import Plan


@dataclass(frozen=True, kw_only=True)
class SyncResult:
    """Result of a run. `error` is None unless the run as a whole failed or was refused.

    `evicted`: for each evicted instance, the time of its eviction and the spec to register when it answers again.
    `after`: the plan made after the run, which makes the conclusion. `incomplete`: what of Consul couldn't be seen.
    `next_look_s`: when the next run is due, to see whether our agent and the catalog still differ.
    `run_id`: key of its row in the history, if it has one. `finish_run`: completes that row once the database is back,
    if it became unavailable during the run.
    """

    plan: Plan | None = None
    after: Plan | None = None
    incomplete: str = ""
    next_look_s: float | None = None
    results: tuple[ItemResult, ...] = ()
    invalid: Mapping[str, str] = field(default_factory=dict)
    error: RegistryError | None = None
    evicted: Mapping[str, tuple[datetime, ServiceSpec]] = field(default_factory=dict)
    run_id: int | None = None
    finish_run: Callable[[], object] | None = None

    @property
    def failures(self) -> list[ItemResult]:
        """The items that Consul did not carry out."""
        return [result for result in self.results if not result.ok]

    @property
    def conclusion(self) -> Conclusion:
        """How Consul and the declarations stand to each other now; every text and exit code follows from it."""
        error = None if isinstance(self.error, UnsafePlanError) else self.error
        return conclude(
            self.after or self.plan,
            failed=bool(self.failures),
            error=error,
            invalid=self.invalid,
            incomplete=self.incomplete,
        )

    @property
    def deviations(self) -> tuple[Deviation, ...]:
        """What is declared, isn't as declared, and stays so, with the reasons."""
        plan = self.after or self.plan
        return deviations(plan) if plan else ()

    @property
    def replacing(self) -> Mapping[str, ServiceSpec]:
        """The successors of the instances that stay registered until those pass, by the ID of the one that stays."""
        plan = self.after or self.plan
        return plan.replacing if plan else {}

    @property
    def ok(self) -> bool:
        """True if everything planned was applied."""
        return not (self.error or self.failures or self.invalid)

    @property
    def is_unavailable(self) -> bool:
        """True if the run failed because Consul was unreachable."""
        return isinstance(self.error, ConsulUnavailableError)


def sync_problems(result: SyncResult) -> list[str]:
    """Returns everything that keeps the result from being verified, a line each: faults first, then what stays."""
    problems = [str(result.error)] if result.error else []
    problems += [f"{failure.item.id}: {failure.error}" for failure in result.failures]
    problems += [f"{instance_id}: {reason}" for instance_id, reason in sorted(result.invalid.items())]
    if result.incomplete:
        problems.append(f"not all of Consul could be seen: {result.incomplete}")
    return problems + [f"left alone: {deviation}" for deviation in result.deviations]
