"""Columns of the mirror for an instance, and fingerprints that change with any of them.

What changes most is what checks say: the columns of the registration have a fingerprint of their own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from registry_admin.consul import CheckResult, Place, ServiceInstance
from registry_admin.inventory.conf import conf
from registry_admin.inventory.sanitize import sanitized, truncated

MAX_OUTPUT = 4096  # Consul's own limit for a check's output
_LAYOUT = 4  # version of the columns: a new number rewrites every row
_HTTP_OUTPUT = re.compile(r"(HTTP [A-Z]+ \S+: [0-9]{3}[^\n]*?) Output: ")
_MOST, _LEAST = 2**31 - 1, -(2**31)


class ObservedFields(NamedTuple):
    """Instance with its place in the mirror, as the columns can hold it, and its fingerprints."""

    instance: ServiceInstance
    place: Place
    health: str
    outputs: tuple[str, ...]  # of its checks
    registration: str  # the fingerprint of `registration_columns`
    checks: str  # the fingerprint of `check_columns`

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all columns that come from Consul."""
        return self.registration + self.checks

    def has_registration(self, fingerprint: str) -> bool:
        """Returns whether the columns with this fingerprint have the same registration."""
        return fingerprint.startswith(self.registration)

    @property
    def output(self) -> str:
        """Output of the checks that aren't passing, or else of all checks, a line each."""
        is_passing = all(check.status == "passing" for check in self.instance.checks)
        return "\n".join(filter(None, self.outputs)) if is_passing else self.instance.output

    def registration_columns(self) -> dict[str, Any]:
        """Returns the values of the columns for what is registered."""
        instance = self.instance
        return {
            "service_name": truncated(instance.service),
            "address": truncated(instance.address),
            "port": max(_LEAST, min(instance.port, _MOST)),
            "tags": sanitized(list(instance.tags)),
            "meta": sanitized(dict(instance.meta)),
            "weight": max(_LEAST, min(instance.weight, _MOST)),
            "owner": truncated(instance.owner),
            "registered_itself": instance.registered_itself,
        }

    def check_columns(self) -> dict[str, Any]:
        """Returns the values of the columns for what the checks say, with the fingerprint."""
        pairs = sorted(zip(self.instance.checks, self.outputs, strict=True), key=lambda pair: pair[0].id)
        checks = [
            {
                "id": sanitized(check.id),
                "name": sanitized(check.name),
                "status": sanitized(check.status),
                "output": sanitized(output[:MAX_OUTPUT]),
            }
            for check, output in pairs
        ]
        return {"checks": checks, "fingerprint": self.fingerprint}

    def columns(self) -> dict[str, Any]:
        """Returns the values of all columns that come from Consul."""
        return {
            "datacenter": self.place.datacenter,
            "node": self.place.node,
            "consul_id": self.place.id,
            "health": self.health,
            **self.registration_columns(),
            **self.check_columns(),
        }


_last: dict[int, ObservedFields] = {}  # by the object's identity; replaced as a whole, so that threads need no lock


def observed_fields(instances: Iterable[ServiceInstance]) -> list[ObservedFields]:
    """Returns the fields of each instance. Objects that the previous call had too are not computed again."""
    global _last  # noqa: PLW0603
    last = _last
    observed = []
    for instance in instances:
        fields = last.get(id(instance))
        observed.append(fields if fields is not None and fields.instance is instance else _fields_of(instance))
    _last = {id(fields.instance): fields for fields in observed}
    return observed


def _fields_of(instance: ServiceInstance) -> ObservedFields:
    place = Place(truncated(instance.datacenter, 128), truncated(instance.node), truncated(instance.id))
    outputs = tuple(map(_output, instance.checks))
    health = str(instance.known_health)
    return ObservedFields(
        instance, place, health, outputs, _registration_fingerprint(instance), _checks_fingerprint(instance, outputs)
    )


def _output(check: CheckResult) -> str:
    """Returns the output to keep: of an HTTP check that passes, what was asked and the status, not what came back.

    Who may declare a check decides what Consul's agent fetches; whoever reads pages is not to see all of that.
    """
    output = check.output or check.notes
    body = _HTTP_OUTPUT.match(output) if check.status == "passing" and not conf.passing_output else None
    return body[1] if body else output


def _registration_fingerprint(instance: ServiceInstance) -> str:
    return _digest(
        _LAYOUT,
        instance.service,
        instance.address,
        instance.port,
        instance.tags,
        sorted(instance.meta.items()),
        instance.weight,
    )


def _checks_fingerprint(instance: ServiceInstance, outputs: tuple[str, ...]) -> str:
    checks = zip(instance.checks, outputs, strict=True)
    return _digest(_LAYOUT, sorted((check.id, check.name, check.status, output) for check, output in checks))


def _digest(*parts: object) -> str:
    """Returns a digest that is equal in every process; Python's own `hash` is not."""
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
