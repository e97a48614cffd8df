"""A plan that is kept in a file, so that what was reviewed is what runs: it is refused where a side has moved since."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from registry_admin.consul.observe import Observation
from registry_admin.consul.types import ServiceInstance
from registry_admin.errors import InvalidValueError, PlanMovedError
from registry_admin.reconcile.plan import Declared, Plan

FORMAT = 1
_NAMED = 5  # in a message


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """What was planned for the agent on `node`, and fingerprints of what it was planned from, by instance ID.

    Of Consul only what is declared or owned counts, and nobody's health. `services` is the plan's scope, None for all.
    """

    node: str
    prune: bool
    services: frozenset[str] | None
    declared: Mapping[str, str]
    observed: Mapping[str, str]
    plan: Mapping[str, Any]

    @classmethod
    def of(cls, plan: Plan, *, declared: Iterable[Declared], observation: Observation, prune: bool = True) -> Self:
        """The plan with what it was made from."""
        wanted, seen = _fingerprints(plan, declared, observation)
        return cls(
            node=observation.node,
            prune=prune,
            services=plan.scope,
            declared=wanted,
            observed=seen,
            plan=plan.as_dict(),
        )

    @classmethod
    def load(cls, text: str) -> Self:
        """From what `dump` gave. Raises InvalidValueError for anything else."""
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
        """As JSON, for people to review too."""
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

    def unmoved(self, plan: Plan, *, declared: Iterable[Declared], observation: Observation) -> Plan:
        """The part of `plan`, as made now, that is just this one. Raises PlanMovedError, which says what has moved."""
        if observation.node != self.node:
            raise PlanMovedError(
                f"The plan was made for Consul's agent on node {self.node!r}, and this one is on "
                f"{observation.node!r}: nothing was changed."
            )
        now = plan if self.services is None else plan.restricted_to(self.services)
        wanted, seen = _fingerprints(now, declared, observation)
        moved_here, moved_there = _differing(self.declared, wanted), _differing(self.observed, seen)
        if moved_here or moved_there:
            sides = [f"the declarations of {_named(moved_here)}"] * bool(moved_here)
            sides += [f"what Consul has of {_named(moved_there)}"] * bool(moved_there)
            raise PlanMovedError(
                f"Since the plan was made, {' and '.join(sides)} changed: nothing was done. Make a new plan.",
                declared=moved_here,
                observed=moved_there,
            )
        if _changes(now.as_dict()) != _changes(self.plan):
            raise PlanMovedError(
                "Neither side has changed since the plan was made, but a plan made now comes out otherwise (other "
                "options, or another version?): nothing was done. Make a new plan."
            )
        return now


def _fingerprints(
    plan: Plan, declared: Iterable[Declared], observation: Observation
) -> tuple[dict[str, str], dict[str, str]]:
    all_wanted = {one.spec.id: one for one in declared}
    seen = [*observation.here.values(), *observation.elsewhere]
    if plan.scope is not None:
        ids = {key for key, one in all_wanted.items() if one.spec.name in plan.scope}
        ids |= {have.id for have in seen if have.service in plan.scope}
        all_wanted = {key: one for key, one in all_wanted.items() if key in ids}
        seen = [have for have in seen if have.id in ids]
    found: dict[str, list[str]] = {}
    for have in seen:
        if have.id in all_wanted or have.owner == plan.owner:
            found.setdefault(have.id, []).append(_of_observed(have))
    return (
        {key: _of_declared(all_wanted[key]) for key in sorted(all_wanted)},
        {key: _digest(sorted(found[key])) for key in sorted(found)},
    )


def _of_declared(one: Declared) -> str:
    return _digest([one.spec.digest, one.enabled, one.departed, bool(one.evicted)])


def _of_observed(have: ServiceInstance) -> str:
    what = [have.service, have.address, have.port, have.tags, dict(have.meta), have.weight, have.tag_override]
    return _digest([have.node, *what])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))


def _changes(plan: Mapping[str, Any]) -> list[Any]:
    """What it does, without the words: by JSON, in which a tuple is a list."""
    done = [item for item in plan["items"] if item.get("action") != "leave alone"]
    return [json.dumps([item.get(key) for key in ("action", "service", "id", "changes")]) for item in done]


def _named(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(ids[:_NAMED]) + more


def _texts(raw: Mapping[str, Any], key: str) -> dict[str, str]:
    found: dict[str, str] = _get(raw, key, dict)
    if not all(isinstance(value, str) for value in found.values()):
        raise _refusal(found, f"its {key!r} are no texts")
    return found


def _get(raw: Mapping[str, Any], key: str, kind: type) -> Any:
    value = raw.get(key)
    if not isinstance(value, kind):
        raise _refusal(value, f"its {key!r} is missing or something else")
    return value


def _is_list_of(kind: type, value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, kind) for one in value)


def _refusal(value: object, why: str) -> InvalidValueError:
    return InvalidValueError("plan file", value, why)
