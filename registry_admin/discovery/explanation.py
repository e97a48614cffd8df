"""What this process knows of a service and thinks of its instances, for a person to read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from registry_admin.consul.types import Health, ServiceInstance
from registry_admin.discovery.directory import Directory
from registry_admin.discovery.endpoint import Endpoint

_SHOWN = 100  # characters of an output


@dataclass(frozen=True, kw_only=True)
class ExplainedInstance:
    """One instance. Times are in seconds; what only calls can tell is None or 0 where there were none."""

    id: str
    url: str
    node: str
    tags: tuple[str, ...]
    weight: int
    health: str
    called: bool  # whether calls may go to it at all, by what Consul says
    outstanding: int
    latency_s: float | None
    failures_in_row: int
    ejected_for_s: float
    reason: str

    @classmethod
    def of(cls, instance: ServiceInstance, endpoint: Endpoint | None, *, now: float) -> Self:
        """An instance, and what calls to it have shown."""
        return cls(
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

    @property
    def state(self) -> str:
        """In a few words."""
        if not self.called:
            return "not called"
        if self.ejected_for_s:
            return f"left out for {self.ejected_for_s:.1f} s"
        return "to be tried again" if self.reason else "called"


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What is known of a service, from where (`Consul` or `file`), and how old that is. `str()` of it is a table."""

    service: str
    consul: str
    source: str
    age_s: float
    problem: str
    instances: tuple[ExplainedInstance, ...]

    @classmethod
    def of(cls, directory: Directory, service: str, *, tag: str | None = None, timeout_s: float = 2.0) -> Self:
        """Asks Consul only where nothing is known yet, and waits at most `timeout_s` seconds for it.

        Raises ConsulRefusedError, or ConsulUnavailableError where Consul is away and nothing is known.
        """
        roster = directory.roster(service)
        roster.inquire(timeout_s=timeout_s)
        state, now = roster.state(), time.monotonic()
        endpoints = {endpoint.instance: endpoint for endpoint in state.endpoints}
        return cls(
            service=service,
            consul=directory.api.config.url,
            source=state.source,
            age_s=state.age_s,
            problem=state.problem,
            instances=tuple(
                ExplainedInstance.of(instance, endpoints.get(instance), now=now)
                for instance in sorted(state.instances, key=lambda one: (one.id, one.node))
                if tag is None or tag in instance.tags
            ),
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        called = sum(one.state == "called" for one in self.instances)
        lines = [
            f"{self.service}: {called} of {len(self.instances)} instances are called"
            if self.instances
            else f"{self.service}: no instance is known",
            f"known from {self.source} at {self.consul}, {_age(self.age_s)} ago",
        ]
        if self.problem:
            lines.append(f"! {_printable(self.problem)}")
        rows = [("instance", "url", "node", "weight", "health", "state", "calls now", "latency", "failures", "why")]
        rows += [
            (
                one.id, one.url, one.node, str(one.weight), one.health, one.state, str(one.outstanding),
                f"{one.latency_s * 1000:.1f} ms" if one.latency_s is not None else "-", str(one.failures_in_row),
                one.reason,
            )
            for one in self.instances
        ]  # fmt: skip
        return "\n".join([*lines, "", *_aligned(rows)] if self.instances else lines)


def _reason(instance: ServiceInstance, endpoint: Endpoint | None) -> str:
    if endpoint is not None:
        return endpoint.ejection_reason if endpoint.ejected_until else ""
    if instance.health is Health.PASSING and not instance.is_callable:
        return "its address can't be called"
    return instance.output


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    cells = [tuple(_printable(cell) for cell in row) for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _printable(text: str) -> str:
    """On one line and without terminal escapes: what checks and instances say comes from outside."""
    line = "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
