"""The metrics, made anew at each scrape from the database, so that all web processes show the same ones.

Names and units: https://prometheus.io/docs/practices/naming/. The values of each label are known
beforehand, except for the names of declared services.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from registry_admin.inventory.models import SyncRun
from registry_admin.inventory.selectors import freshness_and_lease
from registry_admin.inventory.sync.counters import UNCHANGED, CounterName
from registry_admin.metrics import selectors
from registry_admin.reconcile.outage import GroupKind

_OUTCOMES = [UNCHANGED, *(outcome for outcome in SyncRun.Outcome.values if outcome != SyncRun.Outcome.RUNNING)]
_ACTIONS = ["registered", "updated", "deregistered", "evicted"]


def families() -> Iterator[Metric]:
    """Yields all metrics. Seven queries at most."""
    mirror, lease = freshness_and_lease()
    yield _instances(is_current=mirror.is_current)
    yield _gauge("registry_consul_reachable", "1 while what pages show is current.", mirror.is_current)
    yield _gauge(
        "registry_last_contact_timestamp_seconds",
        "When Consul was last seen; 0: never.",
        mirror.seen_at.timestamp() if mirror.seen_at else 0,
    )
    yield _gauge("registry_leader", "1 while a watcher leads.", lease.is_current)
    yield _gauge("registry_removals_in_doubt", "1 while what Consul shows is in doubt.", bool(mirror.doubt))
    yield _gauge("registry_open_eviction_halts", "Groups whose eviction is halted.", selectors.open_halts())
    yield from _counters()


def _instances(*, is_current: bool) -> Metric:
    family = GaugeMetricFamily(
        "registry_instances",
        "Instances by service, sync status and health; health 'absent': declared and not in Consul; service '': all "
        "services that aren't declared.",
        labels=["service", "sync_status", "health"],
    )
    for labels, number in selectors.instance_counts(is_current=is_current).items():
        family.add_metric(labels, number)
    return family


def _counters() -> Iterator[Metric]:
    totals = selectors.totals()

    def family(counter: CounterName, name: str, text: str, label: str, values: Collection[str]) -> Metric:
        metric = CounterMetricFamily(name, text, labels=[label] if label else [])
        for value in values:  # those that were never counted begin at zero, so that the first one shows as an increase
            metric.add_metric([value] if label else [], totals.get((counter, value), 0))
        return metric

    yield family(CounterName.RUNS, "registry_runs", "Reconciliation runs.", "outcome", _OUTCOMES)
    yield family(CounterName.RUN_SECONDS, "registry_run_seconds", "Time that runs took.", "outcome", _OUTCOMES)
    yield family(CounterName.CHANGES, "registry_changes", "Changes made in Consul.", "action", _ACTIONS)
    yield family(CounterName.FAILED_CHANGES, "registry_failed_changes", "Changes that Consul refused.", "", [""])
    yield family(
        CounterName.HALTS, "registry_eviction_halts", "Halts of eviction that began.", "kind", [*map(str, GroupKind)]
    )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
