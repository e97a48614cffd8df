"""Waiting for the successors of instances that stay until those pass, where no watcher does."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from registry_admin.consul import Health, ServiceSpec, validation
from registry_admin.errors import RegistryError
from registry_admin.inventory.conf import consul_api

MAX_WAIT_S = 60.0
SLACK_S = 2.0  # for the catalog, and for an agent that checks many instances
POLL_EVERY_S = 0.2


def first_check_s(successors: Iterable[ServiceSpec]) -> float:
    """Returns the seconds within which the first check of each of them has run, or a minute if that is longer."""
    checks = (spec.check for spec in successors if spec.check.type.is_registered)
    seconds = [validation.seconds(check.interval) + validation.seconds(check.timeout) for check in checks]
    return min(max(seconds, default=0) + SLACK_S, MAX_WAIT_S)


def await_passing(successors: Mapping[str, ServiceSpec]) -> bool:
    """Waits until any of the successors passes in the catalog, for as long as their first checks may take.

    Returns False if none does by then, or Consul can't be asked.
    """
    specs = {spec.id: spec for spec in successors.values()}
    deadline = time.monotonic() + first_check_s(specs.values())
    while time.monotonic() < deadline:
        try:
            for name in sorted({spec.name for spec in specs.values()}):
                instances = consul_api().instances(name).data
                if any(i.id in specs and (i.health is Health.PASSING or i.maintenance) for i in instances):
                    return True
        except RegistryError:
            return False
        time.sleep(POLL_EVERY_S)
    return False
