"""An instance as it was seen: the mirror's columns, and a fingerprint that tells whether any of them has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from registry_admin.consul import ServiceInstance
from registry_admin.inventory.storable import cut, storable

KEPT_OUTPUT = 4096  # Consul's own limit for a check's output
_LAYOUT = 1  # of the columns: with another one, every row is written anew
_MOST, _LEAST = 2**31 - 1, -(2**31)

Place = tuple[str, str]  # node and instance ID


class Seen(NamedTuple):
    """An instance with its place in the mirror and its fingerprint."""

    instance: ServiceInstance
    place: Place
    health: str
    fingerprint: str

    def columns(self) -> dict[str, Any]:
        """What the mirror keeps of what Consul says."""
        instance = self.instance
        checks = [
            {"id": c.id, "name": c.name, "status": c.status, "output": (c.output or c.notes)[:KEPT_OUTPUT]}
            for c in sorted(instance.checks, key=lambda check: check.id)
        ]
        return {
            "node": self.place[0],
            "consul_id": self.place[1],
            "service_name": cut(instance.service),
            "address": cut(instance.address),
            "port": max(_LEAST, min(instance.port, _MOST)),
            "tags": storable(list(instance.tags)),
            "meta": storable(dict(instance.meta)),
            "weight": max(_LEAST, min(instance.weight, _MOST)),
            "owner": cut(instance.owner),
            "registered_itself": instance.registered_itself,
            "health": self.health,
            "checks": storable(checks),
            "fingerprint": self.fingerprint,
        }


_last: dict[int, Seen] = {}  # by the object's identity; replaced as a whole, so that threads need no lock


def seen_of(instances: Iterable[ServiceInstance]) -> list[Seen]:
    """Each of them; what was looked at last time already, as the same object, costs next to nothing."""
    global _last  # noqa: PLW0603
    last = _last
    found = []
    for instance in instances:
        seen = last.get(id(instance))
        found.append(seen if seen is not None and seen.instance is instance else _see(instance))
    _last = {id(seen.instance): seen for seen in found}
    return found


def _see(instance: ServiceInstance) -> Seen:
    place = cut(instance.node), cut(instance.id)
    return Seen(instance, place, str(instance.health), _fingerprint(instance))


def _fingerprint(instance: ServiceInstance) -> str:
    """The same in every process and after every restart, as Python's own hash is not."""
    parts = (
        _LAYOUT,
        instance.service,
        instance.address,
        instance.port,
        instance.tags,
        sorted(instance.meta.items()),
        instance.weight,
        sorted((check.id, check.name, check.status, check.output or check.notes) for check in instance.checks),
    )
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
