"""What registering an adopted instance changes in Consul. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from registry_admin.consul.health import CheckResult
from registry_admin.consul.service_spec import ServiceSpec
from registry_admin.consul.types import ServiceInstance
from registry_admin.reconcile.diffed_fields import DIFFED_FIELDS
from registry_admin.reconcile.plan import FieldChange
from registry_admin.reconcile.registered_checks import former_checks


def adoption_changes(spec: ServiceSpec, instance: ServiceInstance) -> tuple[FieldChange, ...]:
    """Returns what differs afterwards, field by field, beside our marks: the checks that are replaced, and the rest."""
    fields = (change for field in DIFFED_FIELDS for change in field.changes(spec, instance))
    return (*fields, *_check_changes(spec, instance))


def _check_changes(spec: ServiceSpec, instance: ServiceInstance) -> Iterator[FieldChange]:
    former = former_checks(spec, instance)
    for check in former:
        yield FieldChange(field=f"check {check.id}", before=_described(check), after=str(spec.check))
    if spec.check.type.is_registered and not former:
        before = "another definition" if any(check.id == spec.check_id for check in instance.checks) else None
        yield FieldChange(field="check", before=before, after=str(spec.check))


def _described(check: CheckResult) -> str:
    """Returns what Consul shows of a check. Its headers, its TLS, its thresholds and its eviction it never shows."""
    facts = [check.type or check.name, *([f"every {check.interval}"] if check.interval else [])]
    facts += [f"timeout {check.timeout}"] if check.timeout else []
    return f"{', '.join(facts)}, and all that Consul doesn't show of it (headers, TLS, thresholds, eviction)"
