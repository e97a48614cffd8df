"""Plan files: a reviewed plan that is applied only while the declarations and Consul are still the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from registry_admin.consul.snapshot import Snapshot
from registry_admin.consul.types import ServiceInstance
from registry_admin.errors import InvalidValueError, StalePlanError
from registry_admin.reconcile.diffed_fields import DIFFED_FIELDS
from registry_admin.reconcile.plan import Action, Declared, Plan

FORMAT = 1
_MAX_LISTED = 5  # in a message


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """The plan for the agent on `node`, and fingerprints of the declarations and instances it was made from, by ID.

    Only declared or owned instances count, and no health. `services` is the plan's scope; None means all.
    """

    node: str
    prune: bool
    services: frozenset[str] | None
    declared: Mapping[str, str]
    observed: Mapping[str, str]
    plan: Mapping[str, Any]

    @classmethod
    def of(cls, plan: Plan, *, declared: Iterable[Declared], snapshot: Snapshot, prune: bool = True) -> Self:
        """Returns the file for a plan and the two sides that it was made from."""
        declarations, observed = _fingerprints(plan, declared, snapshot)
        return cls(
            node=snapshot.node,
            prune=prune,
            services=plan.scope,
            declared=declarations,
            observed=observed,
            plan=plan.as_dict(),
        )

    @classmethod
    def load(cls, text: str) -> Self:
        """Reads the text that `dump` has written. Raises InvalidValueError for any other text."""
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError):
            raise _refusal(text, "it is not JSON") from None
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise _refusal(text, f"it is not a plan in format {FORMAT}, as --plan-out writes it")
        services, items = raw.get("services"), _get(raw, "plan", dict).get("items")
        if services is not None and not _is_list_of(str, services):
            raise _refusal(services, "its services are no list of names")
        if not _is_list_of(dict, items):
            raise _refusal(items, "its plan has no list of items")
        return cls(
            node=_get(raw, "node", str),
            prune=_get(raw, "prune", bool),
            services=None if services is None else frozenset(services),
            declared=_texts(raw, "declared"),
            observed=_texts(raw, "observed"),
            plan=raw["plan"],
        )

    def dump(self) -> str:
        """Returns the file as JSON, which people can review too."""
        services = None if self.services is None else sorted(self.services)
        raw = {
            "format": FORMAT,
            "node": self.node,
            "prune": self.prune,
            "services": services,
            "plan": self.plan,
            "declared": self.declared,
            "observed": self.observed,
        }
        return json.dumps(raw, indent=2) + "\n"

    def check_current(self, plan: Plan, *, declared: Iterable[Declared], snapshot: Snapshot) -> Plan:
        """Returns the part of a newly made plan that equals this one.

        Raises StalePlanError, with the instance IDs, where the declarations, Consul or the plan have changed.
        """
        if snapshot.node != self.node:
            raise StalePlanError(
                f"The plan was made for Consul's agent on node {self.node!r}, and this one is on "
                f"{snapshot.node!r}: nothing was changed."
            )
        current = plan if self.services is None else plan.restricted_to(self.services)
        declarations, observed = _fingerprints(current, declared, snapshot)
        changed_declared = _differing_keys(self.declared, declarations)
        changed_observed = _differing_keys(self.observed, observed)
        if changed_declared or changed_observed:
            sides = [f"the declarations of {_listed(changed_declared)}"] * bool(changed_declared)
            sides += [f"what Consul has of {_listed(changed_observed)}"] * bool(changed_observed)
            raise StalePlanError(
                f"Since the plan was made, {' and '.join(sides)} changed: nothing was done. Make a new plan.",
                declared=changed_declared,
                observed=changed_observed,
            )
        if _changes(current.as_dict()) != _changes(self.plan):
            raise StalePlanError(
                "Neither side has changed since the plan was made, but a plan made now comes out otherwise (other "
                "options, or another version?): nothing was done. Make a new plan."
            )
        return current


def _fingerprints(
    plan: Plan, declared: Iterable[Declared], snapshot: Snapshot
) -> tuple[dict[str, str], dict[str, str]]:
    """Returns fingerprints of the declarations, and of the instances that are declared or owned, by instance ID."""
    by_id = {declaration.spec.id: declaration for declaration in declared}
    instances = [*snapshot.local.values(), *snapshot.remote]
    if plan.scope is not None:
        ids = {key for key, declaration in by_id.items() if declaration.spec.name in plan.scope}
        ids |= {instance.id for instance in instances if instance.service in plan.scope}
        by_id = {key: declaration for key, declaration in by_id.items() if key in ids}
        instances = [instance for instance in instances if instance.id in ids]
    observed: dict[str, list[str]] = {}
    for instance in instances:
        if instance.id in by_id or plan.owns(instance):
            observed.setdefault(instance.id, []).append(_instance_fingerprint(instance))
    return (
        {key: _declaration_fingerprint(by_id[key]) for key in sorted(by_id)},
        {key: _digest(sorted(observed[key])) for key in sorted(observed)},
    )


def _declaration_fingerprint(declared: Declared) -> str:
    return _digest([declared.spec.digest, declared.enabled, declared.departed, bool(declared.evicted_reason)])


def _instance_fingerprint(instance: ServiceInstance) -> str:
    fields = {field.name: field.of_instance(instance) for field in DIFFED_FIELDS}
    check_ids = sorted(check.id for check in instance.checks if not check.is_maintenance)
    return _digest([instance.node, fields, dict(instance.meta), instance.tag_override, check_ids])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=dict).encode()).hexdigest()[:20]


def _differing_keys(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def _changes(plan: Mapping[str, Any]) -> list[Any]:
    """Returns the changes of a plan without their reasons, as JSON, in which a tuple is a list."""
    items = [item for item in plan["items"] if item.get("action") != Action.LEAVE]
    return [json.dumps([item.get(key) for key in ("action", "service", "id", "changes")]) for item in items]


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _MAX_LISTED} more" if len(ids) > _MAX_LISTED else ""
    return ", ".join(ids[:_MAX_LISTED]) + more


def _texts(raw: Mapping[str, Any], key: str) -> dict[str, str]:
    texts: dict[str, str] = _get(raw, key, dict)
    if not all(isinstance(value, str) for value in texts.values()):
        raise _refusal(texts, f"its {key!r} are no texts")
    return texts


def _get(raw: Mapping[str, Any], key: str, kind: type) -> Any:
    value = raw.get(key)
    if not isinstance(value, kind):
        raise _refusal(value, f"its {key!r} is missing or something else")
    return value


def _is_list_of(kind: type, value: object) -> bool:
    return isinstance(value, list) and all(isinstance(element, kind) for element in value)


def _refusal(value: object, reason: str) -> InvalidValueError:
    return InvalidValueError("plan file", value, reason)
