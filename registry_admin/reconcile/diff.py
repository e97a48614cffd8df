"""Differences between a declaration and its instance in Consul, field by field. Pure."""

from __future__ import annotations

from registry_admin.consul.marks import META_DIGEST
from registry_admin.consul.service_spec import ServiceSpec
from registry_admin.consul.types import ServiceInstance
from registry_admin.reconcile.diffed_fields import DIFFED_FIELDS
from registry_admin.reconcile.plan import Cause, Declared, FieldChange
from registry_admin.reconcile.registered_checks import former_checks, has_declared_checks


def diff_fields(spec: ServiceSpec, instance: ServiceInstance) -> tuple[FieldChange, ...]:
    """Returns the fields in which the instance in Consul differs from its spec.

    Consul never shows a check's definition, so a check that differs is known by the digest alone, and its former
    definition is not known. A check that is missing, or left over from an earlier kind, differs too. Tags are not
    compared where others may change them.
    """
    if instance.registration == spec.registration:  # as most are, and a run compares every one
        return ()
    has_checks = has_declared_checks(spec, instance)
    changes = [change for field in DIFFED_FIELDS for change in field.changes(spec, instance)]
    if (instance.digest != spec.digest and not changes) or not has_checks:
        changes.append(FieldChange(field="check", before=_former_check(spec, instance), after=str(spec.check)))
    return tuple(changes)


def _former_check(spec: ServiceSpec, instance: ServiceInstance) -> str:
    if META_DIGEST not in instance.meta:
        return "not registered by us"
    if instance.digest == spec.digest and not has_declared_checks(spec, instance):
        former = former_checks(spec, instance)
        return f"also {', '.join(check.id for check in former)}" if former else "removed by hand"
    return "another definition"


def difference_cause(declaration: Declared, instance: ServiceInstance) -> Cause:
    """Returns why an instance of ours differs from its declaration."""
    if not instance.owner:
        if instance.registered_itself:
            return Cause.REGISTERED_ITSELF
        return Cause.EDITED if declaration.applied_digest else Cause.ADOPTED
    # It was right and the declaration is still the same, or it still carries the digest of just this declaration.
    return (
        Cause.EDITED
        if declaration.spec.digest in (declaration.applied_digest, instance.digest)
        else Cause.DECLARATION_CHANGED
    )
