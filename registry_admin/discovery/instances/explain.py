"""Explanation of a service: its cached instances and what calls have measured, for a person to read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from registry_admin.consul.health import Health
from registry_admin.consul.types import ServiceInstance
from registry_admin.discovery.instances.outlier_detection import Endpoint
from registry_admin.discovery.instances.registry_cache import RegistryCache
from registry_admin.discovery.instances.service_cache import InstanceSource
from registry_admin.printable import to_single_line

_MAX_CELL = 100  # characters
_HEADER = ("instance", "url", "node", "weight", "health", "state", "calls now", "latency", "failures", "reason")


@dataclass(frozen=True, kw_only=True)
class ExplainedInstance:
    """An instance, and the results of the calls to it. `called` is False if its health or address forbids calls.

    `latency_s` is None before the first reply; `reason` says why calls don't go to it.
    """

    id: str
    url: str
    node: str
    tags: tuple[str, ...]
    weight: int
    health: str
    called: bool
    outstanding: int
    latency_s: float | None
    failures_in_row: int
    ejected_for_s: float
    reason: str

    @property
    def state(self) -> str:
        """Short text for people, such as `ejected for 1.5 s`."""
        if not self.called:
            return "not called"
        if self.ejected_for_s:
            return f"ejected for {self.ejected_for_s:.1f} s"
        return "to be probed" if self.reason else "called"


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Instances of a service, where the list comes from, and its age in seconds. `str()` of it is a table.

    `problem` is the last error of the watch, empty while it works.
    """

    service: str
    consul: str
    source: InstanceSource
    age_s: float
    problem: str
    instances: tuple[ExplainedInstance, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.service}: {self._summary()}",
            f"known from {self.source} at {self.consul}, {_age(self.age_s)} ago",
        ]
        if self.problem:
            lines.append(f"! {to_single_line(self.problem, max_length=_MAX_CELL)}")
        if self.instances:
            lines += ["", *_aligned([_HEADER, *map(_row, self.instances)])]
        return "\n".join(lines)

    def _summary(self) -> str:
        if not self.instances:
            return "no instance is known"
        called = sum(instance.state == "called" for instance in self.instances)
        return f"{called} of {len(self.instances)} instances are called"


def explain(
    registry_cache: RegistryCache, service: str, *, tag: str | None = None, timeout_s: float = 2.0
) -> Explanation:
    """Explains the instances of `service` that carry `tag`. Waits for Consul only if none are cached.

    Raises ConsulRefusedError, or ConsulUnavailableError if Consul is away and no list is cached.
    """
    service_cache = registry_cache.service_cache(service)
    service_cache.wait_for_instances(timeout_s=timeout_s)
    state, now = service_cache.state, time.monotonic()
    endpoints = {endpoint.instance: endpoint for endpoint in state.endpoints}
    return Explanation(
        service=service,
        consul=registry_cache.api.config.url,
        source=state.source,
        age_s=state.age_s,
        problem=state.error,
        instances=tuple(
            _explain_instance(instance, endpoints.get(instance), now=now)
            for instance in sorted(state.instances, key=lambda instance: (instance.id, instance.node))
            if tag is None or tag in instance.tags
        ),
    )


def _explain_instance(instance: ServiceInstance, endpoint: Endpoint | None, *, now: float) -> ExplainedInstance:
    return ExplainedInstance(
        id=instance.id,
        url=instance.url,
        node=instance.node,
        tags=instance.tags,
        weight=instance.weight,
        health=instance.health.value,
        called=endpoint is not None,
        outstanding=endpoint.outstanding if endpoint else 0,
        latency_s=endpoint.latency if endpoint else None,
        failures_in_row=endpoint.failures_in_row if endpoint else 0,
        ejected_for_s=max(0.0, endpoint.ejected_until - now) if endpoint else 0.0,
        reason=_reason(instance, endpoint),
    )


def _reason(instance: ServiceInstance, endpoint: Endpoint | None) -> str:
    if endpoint is not None:
        return endpoint.ejection_reason if endpoint.ejected_until else ""
    if instance.health is Health.PASSING and not instance.is_callable:
        return "its address can't be called"
    return instance.output


def _row(instance: ExplainedInstance) -> tuple[str, ...]:
    latency = f"{instance.latency_s * 1000:.1f} ms" if instance.latency_s is not None else "-"
    return (
        instance.id, instance.url, instance.node, str(instance.weight), instance.health, instance.state,
        str(instance.outstanding), latency, str(instance.failures_in_row), instance.reason,
    )  # fmt: skip


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    cells = [tuple(to_single_line(cell, max_length=_MAX_CELL) for cell in row) for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
