"""What is said to Consul and heard from it, as frozen values that can't exist in an invalid state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

from registry_admin.consul import validation
from registry_admin.consul.config import url_host
from registry_admin.errors import InvalidReplyError, InvalidValueError

# Our marks in a service's Consul Meta. OWNER: which inventory may change and remove it. SELF: the module registered it
# by itself; the value is the digest of what the module asked for. DIGEST: what is in effect, check included, because
# Consul never shows a check's definition again. EVICT: after how long it is to be taken out, for the same reason.
META_OWNER = "registry-owner"
META_SELF = "registry-self"
META_DIGEST = "registry-digest"
META_EVICT = "registry-evict-after"
RESERVED_META = frozenset({META_OWNER, META_SELF, META_DIGEST, META_EVICT})
MAX_OWN_META = validation.MAX_META_PAIRS - len(RESERVED_META)

_EMPTY: Mapping[str, str] = MappingProxyType({})


class CheckKind(StrEnum):
    """How Consul finds out whether an instance is healthy. Script and docker checks run commands: never offered."""

    HTTP = "http"
    TCP = "tcp"
    TTL = "ttl"
    NONE = "none"


class Health(StrEnum):
    """An instance's health, or a whole service's: the worst of its instances'."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"
    MAINTENANCE = "maintenance"
    UNKNOWN = "unknown"

    @property
    def severity(self) -> int:
        """0 for passing, growing with how much a person should care."""
        return _SEVERITY[self]

    @classmethod
    def worst(cls, healths: Iterable[Health]) -> Health:
        """The one to show for several; Unknown where there is none."""
        return max(healths, key=lambda health: health.severity, default=cls.UNKNOWN)


_SEVERITY = {Health.PASSING: 0, Health.MAINTENANCE: 1, Health.UNKNOWN: 2, Health.WARNING: 3, Health.CRITICAL: 4}


@dataclass(frozen=True, kw_only=True)
class CheckSpec:
    """A health check. Durations are text with a unit (`10s`); for TTL, `interval` is the time to live.

    `deregister_after` is when a critical instance is taken out; None means never.
    """

    kind: CheckKind = CheckKind.HTTP
    path: str = "/health"
    scheme: str = "http"
    interval: str = "10s"
    timeout: str = "5s"
    deregister_after: str | None = "30s"

    def __post_init__(self) -> None:
        try:
            _set(self, "kind", CheckKind(self.kind))
        except ValueError:
            raise InvalidValueError("check.kind", self.kind, "give 'http', 'tcp', 'ttl' or 'none'") from None
        if self.scheme not in ("http", "https"):
            raise InvalidValueError("check.scheme", self.scheme, "give 'http' or 'https'")
        _set(self, "path", validation.http_path(self.path, "check.path"))
        _set(self, "interval", validation.duration(self.interval, "check.interval"))
        _set(self, "timeout", validation.duration(self.timeout, "check.timeout", minimum_s=0.1, maximum_s=600))
        if self.deregister_after is not None:
            value = validation.duration(self.deregister_after, "check.deregister_after")
            _set(self, "deregister_after", value)

    @property
    def effective(self) -> dict[str, str | None]:
        """Only what this kind of check uses, so that a path left over from HTTP is no difference for TCP."""
        used = {
            CheckKind.HTTP: ("path", "scheme", "interval", "timeout", "deregister_after"),
            CheckKind.TCP: ("interval", "timeout", "deregister_after"),
            CheckKind.TTL: ("interval", "deregister_after"),
            CheckKind.NONE: (),
        }[self.kind]
        return {"kind": str(self.kind), **{name: getattr(self, name) for name in used}}

    def __str__(self) -> str:
        used = self.effective
        words = [str(self.kind)]
        if "path" in used:
            words.append(f"{self.scheme}:{self.path}")
        if "interval" in used:
            words.append(f"every {self.interval}" if self.kind is not CheckKind.TTL else f"within {self.interval}")
        if "timeout" in used:
            words.append(f"timeout {self.timeout}")
        if used.get("deregister_after"):
            words.append(f"out after {self.deregister_after}")
        return ", ".join(words)


@dataclass(frozen=True, kw_only=True)
class ServiceSpec:
    """One instance of a service as it should be registered. Raises InvalidValueError for anything unacceptable.

    `id` is `name-address-port` unless given. Tags are sorted and without repeats; meta is text to text.
    """

    name: str
    address: str
    port: int
    id: str = ""
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    weight: int = 1
    check: CheckSpec = field(default_factory=CheckSpec)

    def __post_init__(self) -> None:
        _set(self, "name", validation.not_consul_itself(validation.service_name(self.name), "name"))
        _set(self, "address", validation.address(self.address))
        _set(self, "port", validation.port(self.port))
        _set(self, "tags", validation.tags(self.tags))
        _set(self, "weight", validation.weight(self.weight))
        own = validation.meta(self.meta, reserved=RESERVED_META, maximum=MAX_OWN_META)
        _set(self, "meta", MappingProxyType(own))
        if self.id:
            _set(self, "id", validation.not_consul_itself(validation.service_id(self.id), "service_id"))
        else:
            _set(self, "id", validation.default_service_id(self.name, self.address, self.port))
        if not isinstance(self.check, CheckSpec):
            raise InvalidValueError("check", self.check, "give a CheckSpec")

    def __hash__(self) -> int:
        return hash((self.id, self.digest))

    @property
    def check_id(self) -> str:
        """The instance's ID, because check IDs are unique per node, and the kind: docs/decisions/0003."""
        return f"{self.id}:{self.check.kind}"

    @property
    def former_check_ids(self) -> tuple[str, ...]:
        """The IDs that checks of the other kinds would have, from an earlier registration."""
        kinds = (kind for kind in CheckKind if kind not in (self.check.kind, CheckKind.NONE))
        return tuple(f"{self.id}:{kind}" for kind in kinds)

    @property
    def evict_after(self) -> str:
        """After how long in a critical state it is to be taken out (`30s`), or nothing for never."""
        return self.check.effective.get("deregister_after") or ""

    @property
    def fields(self) -> dict[str, Any]:
        """What makes two specs differ, as plain data in a fixed order."""
        return {
            "name": self.name,
            "address": self.address,
            "port": self.port,
            "tags": list(self.tags),
            "meta": dict(self.meta),
            "weight": self.weight,
            "check": self.check.effective,
        }

    @cached_property
    def digest(self) -> str:
        """A fingerprint of `fields`, kept in Consul's Meta."""
        canonical = json.dumps(self.fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:20]

    def payload(self, *, marks: Mapping[str, str] | None, passing: bool = False) -> dict[str, Any]:
        """The body of `PUT /v1/agent/service/register`, with `marks`, the digest and the time to evict among its Meta.

        None for `marks`: nothing of ours at all. `passing`: begin as passing, for who has just seen that the instance
        answers; Consul's own default is critical.
        https://developer.hashicorp.com/consul/api-docs/agent/service#register-service
        """
        meta = dict(self.meta)
        if marks is not None:
            meta |= {**marks, META_DIGEST: self.digest} | ({META_EVICT: self.evict_after} if self.evict_after else {})
        body: dict[str, Any] = {
            "ID": self.id,
            "Name": self.name,
            "Address": self.address,
            "Port": self.port,
            "Tags": list(self.tags),
            "Meta": meta,
            "Weights": {"Passing": self.weight, "Warning": self.weight},
        }
        check = self._check_payload()
        if check:
            body["Checks"] = [check | ({"Status": "passing"} if passing else {})]
        return body

    def _check_payload(self) -> dict[str, Any]:
        check, target = self.check, f"{url_host(self.address)}:{self.port}"
        body: dict[str, Any] = {"CheckID": self.check_id, "Name": f"{self.name} {check.kind.upper()} check"}
        match check.kind:
            case CheckKind.NONE:
                return {}
            case CheckKind.TTL:
                body |= {"TTL": check.interval}
            case CheckKind.TCP:
                body |= {"TCP": target, "Interval": check.interval, "Timeout": check.timeout}
            case CheckKind.HTTP:
                url = f"{check.scheme}://{target}{check.path}"
                body |= {"HTTP": url, "Method": "GET", "Interval": check.interval, "Timeout": check.timeout}
        if check.deregister_after:
            body["DeregisterCriticalServiceAfter"] = check.deregister_after
        return body


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What one check of an instance said last."""

    id: str
    name: str
    status: str
    output: str = ""
    notes: str = ""

    @property
    def is_maintenance(self) -> bool:
        """Consul shows maintenance mode as a critical check with a reserved ID."""
        return self.id.startswith("_service_maintenance:") or self.id == "_node_maintenance"

    @classmethod
    def from_consul(cls, raw: object) -> Self:
        """From an entry of `/v1/agent/checks` or of `Checks` in `/v1/health/service/…`."""
        entry = _mapping(raw, "a check")
        return cls(
            id=_string(entry, "CheckID"),
            name=_string(entry, "Name"),
            status=_string(entry, "Status"),
            output=_string(entry, "Output"),
            notes=_string(entry, "Notes"),
        )


def health_of(checks: Iterable[CheckResult]) -> Health:
    """Consul's own rule: every check must pass; none at all is passing; maintenance outranks the rest."""
    statuses = set()
    for check in checks:
        if check.is_maintenance:
            return Health.MAINTENANCE
        statuses.add(check.status)
    if statuses <= {"passing"}:
        return Health.PASSING
    if "critical" in statuses:
        return Health.CRITICAL
    return Health.WARNING if "warning" in statuses else Health.UNKNOWN


@dataclass(frozen=True, kw_only=True)
class ServiceInstance:
    """One `address:port` of a service as Consul has it now, with its health. Not validated: see `is_callable`."""

    service: str
    id: str
    address: str
    port: int
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    weight: int = 1
    health: Health = Health.UNKNOWN
    checks: tuple[CheckResult, ...] = ()
    node: str = ""
    tag_override: bool = False

    def __hash__(self) -> int:
        return hash((self.service, self.id, self.node))

    @property
    def scheme(self) -> str:
        """`https` where the instance's meta says `scheme: https`, else `http`."""
        return "https" if self.meta.get("scheme") == "https" else "http"

    @property
    def url(self) -> str:
        """The instance's root, without a trailing slash: `http://127.0.0.1:8000`."""
        return f"{self.scheme}://{url_host(self.address)}:{self.port}"

    @property
    def is_callable(self) -> bool:
        """Whether address and port are such that a request can only go to that one host."""
        try:
            validation.address(self.address)
            validation.port(self.port)
        except InvalidValueError:
            return False
        return True

    @cached_property
    def own_meta(self) -> Mapping[str, str]:
        """The meta without our marks."""
        return {key: value for key, value in self.meta.items() if key not in RESERVED_META}

    @property
    def digest(self) -> str:
        """The digest of the spec that it was registered with, or nothing."""
        return self.meta.get(META_DIGEST, "")

    @property
    def owner(self) -> str:
        """The inventory that owns it, or nothing."""
        return self.meta.get(META_OWNER, "")

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
        """Whether a module registered this instance by itself."""
        return META_SELF in self.meta

    @property
    def output(self) -> str:
        """What the checks that aren't passing say, or else what all of them say, a line each."""
        failing = [check for check in self.checks if check.status != "passing"] or self.checks
        return "\n".join(text for check in failing if (text := check.notes if check.is_maintenance else check.output))

    @classmethod
    def from_agent(cls, raw: object, checks: tuple[CheckResult, ...], *, node_address: str = "") -> Self:
        """From an entry of `/v1/agent/services`, or of `Services` in `/v1/catalog/node/…`, and this instance's checks.

        What has no address of its own is at its node's.
        """
        return cls._from(_mapping(raw, "a service"), checks, node="", fallback_address=node_address)

    @classmethod
    def from_health(cls, raw: object) -> Self:
        """From an entry of `/v1/health/service/…`: the node, the service and both's checks."""
        entry = _mapping(raw, "a health entry")
        node = _mapping(entry.get("Node"), "a health entry's Node")
        listed = entry.get("Checks")
        if not isinstance(listed, list):
            raise InvalidReplyError("Consul's reply is not what it should be: a health entry without a list of Checks.")
        checks = tuple(CheckResult.from_consul(check) for check in listed)
        service = _mapping(entry.get("Service"), "a health entry's Service")
        return cls._from(service, checks, node=_string(node, "Node"), fallback_address=_string(node, "Address"))

    @classmethod
    def _from(
        cls, service: Mapping[str, Any], checks: tuple[CheckResult, ...], *, node: str, fallback_address: str
    ) -> Self:
        port, weights = service.get("Port"), service.get("Weights") or {}
        passing = weights.get("Passing") if isinstance(weights, dict) else None
        raw_tags, raw_meta = service.get("Tags") or [], service.get("Meta") or {}
        if not isinstance(raw_tags, list) or not isinstance(raw_meta, dict):
            raise InvalidReplyError("Consul's reply is not what it should be: a service's Tags or Meta.")
        return cls(
            service=_string(service, "Service"),
            id=_string(service, "ID"),
            address=_string(service, "Address") or fallback_address,
            port=port if isinstance(port, int) else 0,
            tags=tuple(sorted(str(tag) for tag in raw_tags)),
            meta=MappingProxyType({str(key): str(value) for key, value in raw_meta.items()}),
            weight=passing if isinstance(passing, int) and 1 <= passing <= 65535 else 1,
            health=health_of(checks),
            checks=checks,
            node=node,
            tag_override=service.get("EnableTagOverride") is True,
        )


def _set(instance: object, name: str, value: object) -> None:
    """Puts the canonical form of a value into a frozen dataclass while it is being made."""
    object.__setattr__(instance, name, value)


def _mapping(raw: object, what: str) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise InvalidReplyError(
            f"Consul's reply is not what it should be: {what} is {type(raw).__name__}, not an object."
        )
    return raw


def _string(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidReplyError(f"Consul's reply is not what it should be: {key} is not text.")
    return value
