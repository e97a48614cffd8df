"""Checks that an instance has in Consul: which of them a spec replaces, and the status that its new check begins with.

Pure. Why Consul isn't asked to replace checks itself: docs/decisions/0003.
"""

from __future__ import annotations

from collections.abc import Sequence

from registry_admin.consul.health import CheckResult
from registry_admin.consul.service_spec import ServiceSpec
from registry_admin.consul.types import ServiceInstance, check_id_prefix
from registry_admin.errors import InvalidValueError
from registry_admin.reconcile.diffed_fields import with_actual_values

_WORST_FIRST = ("critical", "warning", "passing")


def former_checks(spec: ServiceSpec, instance: ServiceInstance) -> tuple[CheckResult, ...]:
    """Returns the checks of the instance that the spec's check takes the place of.

    Those are ours of another kind and, where the spec has a check, the automatic ones of a registration by hand. Checks
    that others attached under names of their own stay, as does maintenance mode. A spec without a check takes the place
    of one only where that is the change: what an instance was adopted with, or got by hand, is left to it. A spec that
    keeps checks takes the place of none.
    """
    if spec.check.type.is_kept:
        return ()
    if not spec.check.type.is_registered and not _had_other_check(spec, instance):
        return ()
    own, automatic = check_id_prefix(instance.id), f"service:{instance.id}"

    def is_former(check_id: str) -> bool:
        if check_id.startswith(own):
            return check_id != spec.check_id
        return spec.check.type.is_registered and (check_id == automatic or check_id.startswith(f"{automatic}:"))

    return tuple(check for check in instance.checks if is_former(check.id))


def has_declared_checks(spec: ServiceSpec, instance: ServiceInstance) -> bool:
    """Returns whether the instance has the spec's check, and none that the check takes the place of."""
    if not spec.check.type.is_registered:
        return True  # the digest tells whether one was declared before
    check_id = spec.check_id
    if len(instance.checks) == 1 and instance.checks[0].id == check_id:
        return True
    return any(check.id == check_id for check in instance.checks) and not former_checks(spec, instance)


def initial_status(spec: ServiceSpec, instance: ServiceInstance) -> str:
    """Returns the status that the spec's check begins with on this instance: that of the checks that it replaces.

    Consul would begin with critical, and take a passing instance out until the first check has run. An instance without
    any check of its own counts as passing in Consul, so it goes on as passing. Returns an empty text where Consul keeps
    the status by itself, because the instance has a check of this ID, and where no check is registered.
    """
    if (
        spec.check.type.is_kept
        or not spec.check.type.is_registered
        or any(check.id == spec.check_id for check in instance.checks)
    ):
        return ""
    return _worst(former_checks(spec, instance))


def _worst(checks: Sequence[CheckResult]) -> str:
    statuses = {check.status for check in checks}
    return next((status for status in _WORST_FIRST if status in statuses), "critical" if statuses else "passing")


def _had_other_check(spec: ServiceSpec, instance: ServiceInstance) -> bool:
    """Returns whether our last registration of this instance had another check than the spec.

    The digest tells, as long as nobody has edited the rest by hand.
    """
    if not instance.digest:
        return False
    try:
        former = with_actual_values(spec, instance)
    except InvalidValueError:  # somebody has edited it by hand
        return False
    return former.digest != instance.digest
