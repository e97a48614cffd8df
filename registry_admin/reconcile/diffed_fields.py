"""The fields in which an instance can differ from its declaration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from registry_admin.consul.service_spec import ServiceSpec
from registry_admin.consul.types import ServiceInstance
from registry_admin.reconcile.plan import FieldChange


@dataclass(frozen=True, kw_only=True)
class DiffedField:
    """A field that is compared: its name in `ServiceSpec`, and the attributes of a spec and an instance.

    `unless`: an attribute of the spec; where it is true, the values may differ.
    """

    name: str
    spec_attribute: str
    instance_attribute: str
    unless: str = ""

    def of_instance(self, instance: ServiceInstance) -> Any:
        """Returns the field's value in Consul."""
        return getattr(instance, self.instance_attribute)

    def changes(self, spec: ServiceSpec, instance: ServiceInstance) -> Iterator[FieldChange]:
        """Yields the change of the field: one for each key of a mapping, at most one for any other value."""
        before, after = self.of_instance(instance), getattr(spec, self.spec_attribute)
        if before == after or (self.unless and getattr(spec, self.unless)):
            return
        if isinstance(after, Mapping):
            for key in sorted(before.keys() | after.keys()):
                if before.get(key) != after.get(key):
                    yield FieldChange(field=f"{self.name}.{key}", before=before.get(key), after=after.get(key))
        else:
            yield FieldChange(field=self.name, before=_plain(before), after=_plain(after))


# Every field of a spec but its check, which Consul doesn't show. Differences and plan files are derived from this.
DIFFED_FIELDS = (
    DiffedField(name="name", spec_attribute="name", instance_attribute="service"),
    DiffedField(name="address", spec_attribute="address", instance_attribute="registered_address"),
    DiffedField(name="port", spec_attribute="port", instance_attribute="port"),
    DiffedField(name="weight", spec_attribute="weight", instance_attribute="weight"),
    DiffedField(name="warning_weight", spec_attribute="warning_weight", instance_attribute="warning_weight"),
    DiffedField(name="tag_override", spec_attribute="tag_override", instance_attribute="tag_override"),
    DiffedField(name="tagged_addresses", spec_attribute="tagged_addresses", instance_attribute="tagged_addresses"),
    DiffedField(name="tags", spec_attribute="tags", instance_attribute="tags", unless="tag_override"),
    DiffedField(name="meta", spec_attribute="meta", instance_attribute="user_meta"),
)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def with_actual_values(spec: ServiceSpec, instance: ServiceInstance) -> ServiceSpec:
    """Returns the spec with the values that Consul has; the check alone stays.

    Raises InvalidValueError for an instance that nobody could declare.
    """
    return replace(spec, **{field.name: field.of_instance(instance) for field in DIFFED_FIELDS})
