"""Instance of a service as it should be registered, as a frozen value, and the request that registers it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from registry_admin.consul import validation
from registry_admin.consul.checks import CHECK_TYPES, CheckSpec, Probe, check_target
from registry_admin.consul.health import SERVICE_MAINTENANCE
from registry_admin.consul.instance_fields import declared_address, declared_port, warning_weight
from registry_admin.consul.marks import META_DIGEST, META_EVICT, META_RELEASED, OWN_META, RESERVED_META
from registry_admin.consul.tagged_addresses import for_consul, tagged_addresses, without_added
from registry_admin.consul.types import EMPTY, Registration, ServiceInstance, check_id_prefix
from registry_admin.errors import InvalidValueError

MAX_OWN_META = validation.MAX_META_PAIRS - len(OWN_META)


@dataclass(frozen=True, kw_only=True)
class ServiceSpec:
    """Instance of a service as it should be registered. Raises InvalidValueError for anything unacceptable.

    `id` is `name-address-port` unless given. No address: the one of its agent's node. Port 0: it has none. Tags are
    sorted and without repeats; meta is text to text. `warning_weight`: its weight while a check warns, if that is
    another one. `tag_override`: others may change its tags in Consul. `tagged_addresses`: `host:port` by purpose.
    """

    name: str
    address: str
    port: int
    id: str = ""
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    weight: int = 1
    warning_weight: int | None = None
    tag_override: bool = False
    tagged_addresses: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    check: CheckSpec = field(default_factory=CheckSpec)

    def __post_init__(self) -> None:
        _set(self, "name", validation.not_consul_itself(validation.service_name(self.name), "name"))
        _set(self, "address", declared_address(self.address))
        _set(self, "port", declared_port(self.port))
        _set(self, "tags", validation.tags(self.tags))
        _set(self, "weight", validation.weight(self.weight))
        if not isinstance(self.tag_override, bool):
            raise InvalidValueError("tag_override", self.tag_override, "give true or false")
        other_weight = warning_weight(self.warning_weight)
        _set(self, "warning_weight", None if other_weight == self.weight else other_weight)
        endpoints = without_added(tagged_addresses(self.tagged_addresses), self.address, self.port)
        _set(self, "tagged_addresses", MappingProxyType(endpoints))
        own = validation.meta(self.meta, reserved=RESERVED_META, maximum=MAX_OWN_META)
        _set(self, "meta", MappingProxyType(own))
        if self.id:
            _set(self, "id", validation.not_consul_itself(validation.service_id(self.id), "service_id"))
        else:
            _set(self, "id", validation.default_service_id(self.name, self.address, self.port))
        if not isinstance(self.check, CheckSpec):
            raise InvalidValueError("check", self.check, "give a CheckSpec")
        if self.check.type.needs_port and not self.port:
            raise InvalidValueError("port", self.port, f"a {self.check.kind} check needs one; without, choose another")

    def __hash__(self) -> int:
        return hash((self.id, self.digest))

    @cached_property
    def check_id(self) -> str:
        """The instance's ID and the kind: docs/decisions/0003."""
        return f"{check_id_prefix(self.id)}{self.check.kind}"

    @property
    def former_check_ids(self) -> tuple[str, ...]:
        """IDs that checks of the other kinds have, if an earlier registration left any."""
        types = (known for known in CHECK_TYPES.values() if known.is_registered)
        prefix = check_id_prefix(self.id)
        return tuple(f"{prefix}{check_type.kind}" for check_type in types if check_type.kind is not self.check.kind)

    @property
    def evict_after(self) -> str:
        """After how long in a critical state it is to be taken out (`30s`), or nothing for never."""
        return self.check.effective.get("deregister_after") or ""

    @property
    def target(self) -> str:
        """The `host:port` that its check asks."""
        return check_target(self.address, self.port)

    @property
    def probe(self) -> Probe | None:
        """The probe that asks the instance in Consul's place; None where nobody asks it."""
        return self.check.type.probe(self.check, self.target) if self.port else None

    @property
    def fields(self) -> dict[str, Any]:
        """Fields by which two specs differ, as plain data in a fixed order.

        What isn't given is left out, so that the digests of specs without it stay what they were.
        """
        given = {
            "warning_weight": self.warning_weight,
            "tag_override": self.tag_override or None,
            "tagged_addresses": dict(self.tagged_addresses) or None,
        }
        return {
            "name": self.name,
            "address": self.address,
            "port": self.port,
            "tags": list(self.tags),
            "meta": dict(self.meta),
            "weight": self.weight,
            "check": self.check.effective,
            **{
                name: value for name, value in given.items() if value is not None and value is not False and value != {}
            },
        }

    @cached_property
    def digest(self) -> str:
        """A fingerprint of `fields`, kept in Consul's Meta."""
        canonical = json.dumps(self.fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:20]

    @cached_property
    def registration(self) -> Registration:
        """The part of the specification that Consul shows of an instance."""
        check_ids = (self.check_id,) if self.check.type.is_registered else ()
        return (
            self.name, self.address, self.port, self.weight, self.warning_weight, self.tag_override,
            self.tagged_addresses, self.tags, self.meta, self.digest, check_ids,
        )  # fmt: skip

    def payload(
        self,
        *,
        marks: Mapping[str, str] | None,
        status: str = "",
        maintenance: str = "",
        consul_evicts_after: str = "",
        observed: ServiceInstance | None = None,
    ) -> dict[str, Any]:
        """The body of `PUT /v1/agent/service/register`, with `marks`, the digest and the time to evict among its Meta.

        Marks that release it go without the rest of ours, and None is nothing of ours at all. `status`: what the check
        begins with, for who knows the instance's health; Consul's own default is critical. `consul_evicts_after`: after
        how long Consul takes out what is critical, if that is longer than the check says. `maintenance`: the reason of
        maintenance mode to begin in, from the first moment on; Consul's own request for that comes too late, because
        the instance must be there first. `observed`: what is registered now, whose checks and tags stay where the spec
        keeps them.
        https://developer.hashicorp.com/consul/api-docs/agent/service#register-service
        """
        meta = dict(self.meta)
        if marks is not None and META_RELEASED in marks:
            meta |= marks
        elif marks is not None:
            meta |= {**marks, META_DIGEST: self.digest} | ({META_EVICT: self.evict_after} if self.evict_after else {})
        warning = self.weight if self.warning_weight is None else self.warning_weight
        body: dict[str, Any] = {
            "ID": self.id,
            "Name": self.name,
            "Address": self.address,
            "Port": self.port,
            "Tags": list(observed.tags if observed is not None and self.tag_override else self.tags),
            "Meta": meta,
            "Weights": {"Passing": self.weight, "Warning": warning},
        }
        if self.tag_override:
            body["EnableTagOverride"] = True
        if self.tagged_addresses:
            body["TaggedAddresses"] = for_consul(self.tagged_addresses)
        if self._registers_check(observed):
            body["Checks"] = [self._check_payload(consul_evicts_after) | ({"Status": status} if status else {})]
        if maintenance:
            body.setdefault("Checks", []).append(_maintenance_check(self.id, maintenance))
        return body

    def _registers_check(self, observed: ServiceInstance | None) -> bool:
        """Returns whether a registration has a check: kept ones stay without that, if the instance is still there."""
        if self.check.type.is_kept:
            return observed is None and bool(self.port)
        return self.check.type.is_registered

    def _check_payload(self, consul_evicts_after: str) -> dict[str, Any]:
        check = self.check
        body: dict[str, Any] = {"CheckID": self.check_id, "Name": f"{self.name} {check.kind.upper()} check"}
        body |= check.type.definition(check, self.target)
        if self.evict_after and check.deregister_after:
            after = (check.deregister_after, consul_evicts_after or check.deregister_after)
            body["DeregisterCriticalServiceAfter"] = max(after, key=validation.seconds)
        return body


def _maintenance_check(instance_id: str, reason: str) -> dict[str, Any]:
    """Returns the check that is maintenance mode for Consul: it can be ended as such. TTL, as no kind asks nobody."""
    return {
        "CheckID": f"{SERVICE_MAINTENANCE}{instance_id}",
        "Name": "Service Maintenance Mode",
        "Notes": reason,
        "Status": "critical",
        "TTL": "8760h",
    }


def _set(instance: object, name: str, value: object) -> None:
    """Puts the canonical form of a value into a frozen dataclass while it is being made."""
    object.__setattr__(instance, name, value)
