"""Instances as Consul has them, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

from registry_admin.consul import validation
from registry_admin.consul.addresses import url_host
from registry_admin.consul.health import SERVICE_MAINTENANCE, CheckResult, Health, health_of
from registry_admin.consul.marks import (
    META_DIGEST,
    META_EVICT,
    META_MARK,
    META_OWNER,
    META_RELEASED,
    META_SELF,
    RESERVED_META,
    Mark,
    Place,
)
from registry_admin.consul.reply_fields import mapping_of, shared, string_of
from registry_admin.consul.service_ports import default_port
from registry_admin.consul.tagged_addresses import of_consul
from registry_admin.consul.uncarried import uncarried_fields
from registry_admin.errors import InvalidReplyError, InvalidValueError

# The fields of reconcile/diffed_fields.py, the digest, and the IDs of the checks.
Registration = tuple[
    str, str, int, int, int | None, bool, Mapping[str, str], tuple[str, ...], Mapping[str, str], str, tuple[str, ...]
]

EMPTY: Mapping[str, str] = MappingProxyType({})


def check_id_prefix(instance_id: str) -> str:
    """Returns the beginning of the IDs of our checks of an instance: its ID, because a check's is unique per node.

    No URL of an agent's API can hold an ID that begins with a slash, and checks must be removable.
    """
    return f"id:{instance_id}:" if instance_id.startswith("/") else f"{instance_id}:"


@dataclass(frozen=True, kw_only=True)
class ServiceInstance:
    """Instance of a service (`address:port`) as Consul has it, with its health. Not validated: see `is_callable`.

    `warning_weight`: its weight while a check warns, if that is another one.
    `has_own_address` is False where it was registered without one: `address` is its node's then, if that is known.
    `tagged_addresses` are those that its agent hasn't added by itself. `tag_override`: others may change its tags.
    `uncarried`: fields that no declaration carries, and that registering it anew would drop.
    """

    service: str
    id: str
    address: str
    port: int
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    weight: int = 1
    health: Health = Health.UNKNOWN
    checks: tuple[CheckResult, ...] = ()
    node: str = ""
    datacenter: str = ""
    tag_override: bool = False
    warning_weight: int | None = None
    tagged_addresses: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    has_own_address: bool = True
    uncarried: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return hash((self.service, self.id, self.node))

    @cached_property
    def place(self) -> Place:
        """The datacenter, the node and the ID, by which it is told from all others."""
        return Place(self.datacenter, self.node, self.id)

    @property
    def registered_address(self) -> str:
        """The address that it was registered with, or nothing where that is its node's."""
        return self.address if self.has_own_address else ""

    @property
    def uncarried_text(self) -> str:
        """The reason why it must not be registered anew; empty where it may."""
        return f"it has {', '.join(self.uncarried)}, which registering it anew would drop" if self.uncarried else ""

    @property
    def own_checks(self) -> tuple[CheckResult, ...]:
        """Its checks without its node's and without maintenance mode."""
        return tuple(check for check in self.checks if not check.is_of_node and not check.is_maintenance)

    @property
    def scheme(self) -> str:
        """`https` where the instance's meta says `scheme: https`, else `http`."""
        return "https" if self.meta.get("scheme") == "https" else "http"

    @property
    def host_port(self) -> str:
        """`address:port`, with an IPv6 address in brackets."""
        return f"{url_host(self.address)}:{self.port}"

    @property
    def base_path(self) -> str:
        """Path below which the service answers, such as `/shop`, as the instance's meta `base_path` says; else ""."""
        return self.meta.get("base_path", "").rstrip("/")

    @property
    def url(self) -> str:
        """The service's root there, without a trailing slash: `http://127.0.0.1:8000`."""
        return f"{self.scheme}://{self.host_port}{self.base_path}"

    @property
    def is_callable(self) -> bool:
        """True if address, port and base path are such that a request can only go to that one host."""
        try:
            validation.address(self.address)
            validation.port(self.port)
            if self.base_path:
                validation.base_path(self.base_path)
        except InvalidValueError:
            return False
        return True

    @cached_property
    def user_meta(self) -> Mapping[str, str]:
        """The meta without our marks."""
        return {key: value for key, value in self.meta.items() if key not in RESERVED_META}

    @cached_property
    def registration(self) -> Registration:
        """The part of its specification that Consul shows: equal to `ServiceSpec.registration` while all is so."""
        check_ids = tuple(check.id for check in self.checks)
        return (
            self.service, self.registered_address, self.port, self.weight, self.warning_weight, self.tag_override,
            self.tagged_addresses, self.tags, self.user_meta, self.digest, check_ids,
        )  # fmt: skip

    @property
    def digest(self) -> str:
        """The digest of the spec that it was registered with, or nothing."""
        return self.meta.get(META_DIGEST, "")

    @property
    def owner(self) -> str:
        """The name of the inventory that owns it, or nothing."""
        return self.meta.get(META_OWNER, "")

    @property
    def is_marked(self) -> bool:
        """True if it carries the mark of an inventory: an old one (the owner's name only), or one of any format."""
        return META_OWNER in self.meta or META_MARK in self.meta

    @cached_property
    def mark(self) -> Mark | None:
        """The mark of the inventory that registered it; None without one, and for one that can't be read."""
        return Mark.parse(self.meta.get(META_MARK, ""))

    @cached_property
    def release_mark(self) -> Mark | None:
        """The mark of the inventory that has released it, at this place; None where none has."""
        mark = Mark.parse(self.meta.get(META_RELEASED, ""))
        return mark if mark is not None and mark.place == self.place.digest else None

    @property
    def has_unreadable_mark(self) -> bool:
        """True if it has a mark that is invalid, or of a newer format."""
        return META_MARK in self.meta and self.mark is None

    @cached_property
    def is_in_marked_place(self) -> bool:
        """True if its mark was made for the place where it is; of a copied mark that is false."""
        return self.mark is not None and self.mark.place == self.place.digest

    @cached_property
    def evict_after(self) -> str:
        """After how long in a critical state it is to be taken out (`30s`), or nothing where nobody said so.

        Anyone may have written it: a value that is no duration counts as none.
        """
        try:
            return validation.duration(self.meta.get(META_EVICT, ""), META_EVICT)
        except InvalidValueError:
            return ""

    @property
    def registered_itself(self) -> bool:
        """True if a module registered this instance by itself."""
        return META_SELF in self.meta

    @property
    def output(self) -> str:
        """Output of the checks that aren't passing, or else of all checks, a line each."""
        failing = [check for check in self.checks if check.status != "passing"] or self.checks
        return "\n".join(text for check in failing if (text := check.notes if check.is_maintenance else check.output))

    @property
    def maintenance(self) -> str:
        """The reason of its own maintenance mode, or nothing; a node's maintenance is not its own."""
        checks = (check for check in self.checks if check.id == f"{SERVICE_MAINTENANCE}{self.id}")
        return next((check.notes or "no reason was given" for check in checks), "")

    @property
    def is_starting(self) -> bool:
        """True until the check that it was registered with has run.

        Consul registers a check as critical and without output, unless told otherwise:
        https://developer.hashicorp.com/consul/docs/services/usage/checks#initial-health-check-status
        """
        if self.health is not Health.CRITICAL:
            return False
        critical = [check for check in self.checks if check.status == "critical"]
        return all(check.id.startswith(check_id_prefix(self.id)) and not check.output for check in critical)

    @cached_property
    def known_health(self) -> Health:
        """Health, or Unknown while the instance is starting."""
        return Health.UNKNOWN if self.is_starting else self.health

    @classmethod
    def from_agent(cls, raw: object, checks: tuple[CheckResult, ...]) -> Self:
        """Reads it from an entry of `/v1/agent/services` or of `Services` in `/v1/catalog/node/…`, and its checks."""
        return cls._from(mapping_of(raw, "a service"), checks, node={}, fallback_address="")

    @classmethod
    def from_health(cls, raw: object) -> Self:
        """Reads it from an entry of `/v1/health/service/…`: the node, the service and both's checks."""
        entry = mapping_of(raw, "a health entry")
        node = mapping_of(entry.get("Node"), "a health entry's Node")
        listed = entry.get("Checks")
        if not isinstance(listed, list):
            raise InvalidReplyError("Consul's reply is not what it should be: a health entry without a list of Checks.")
        checks = tuple(CheckResult.from_consul(check) for check in listed)
        service = mapping_of(entry.get("Service"), "a health entry's Service")
        return cls._from(service, checks, node=node, fallback_address=string_of(node, "Address"))

    @classmethod
    def _from(
        cls,
        service: Mapping[str, Any],
        checks: tuple[CheckResult, ...],
        *,
        node: Mapping[str, Any],
        fallback_address: str,
    ) -> Self:
        port = service.get("Port") or default_port(service.get("Ports"))
        port = port if isinstance(port, int) else 0
        address = string_of(service, "Address")
        weight, warning_weight = _weights(service.get("Weights"))
        tagged_addresses = of_consul(service.get("TaggedAddresses"), address, port)
        raw_tags, raw_meta = service.get("Tags") or [], service.get("Meta") or {}
        if not isinstance(raw_tags, list) or not isinstance(raw_meta, dict):
            raise InvalidReplyError("Consul's reply is not what it should be: a service's Tags or Meta.")
        return cls(
            service=shared(string_of(service, "Service")),
            id=string_of(service, "ID"),
            address=address or fallback_address,
            has_own_address=bool(address),
            port=port,
            tags=tuple(sorted(shared(str(tag)) for tag in raw_tags)),
            meta=MappingProxyType({shared(str(key)): str(value) for key, value in raw_meta.items()}),
            weight=weight,
            warning_weight=warning_weight,
            health=health_of(checks),
            checks=checks,
            node=string_of(node, "Node"),
            datacenter=string_of(node, "Datacenter"),
            tag_override=service.get("EnableTagOverride") is True,
            tagged_addresses=MappingProxyType(tagged_addresses) if tagged_addresses else EMPTY,
            uncarried=uncarried_fields(service),
        )


def _weights(raw: object) -> tuple[int, int | None]:
    """Returns the weights for passing and, if that is another one, for warning. Impossible ones count as 1."""
    weights = raw if isinstance(raw, dict) else {}
    passing, warning = weights.get("Passing"), weights.get("Warning")
    weight = passing if isinstance(passing, int) and 1 <= passing <= 65535 else 1
    is_other = isinstance(warning, int) and 0 <= warning <= 65535 and warning != weight
    return weight, warning if is_other else None
