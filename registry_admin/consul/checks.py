"""Health checks: one class per kind, which holds every fact about that kind.

A new kind is a member of CheckKind and a class in CHECK_TYPES; everything else derives from them.
https://developer.hashicorp.com/consul/docs/services/usage/checks
"""

# ruff: noqa: ARG002 - the parameters are those of CheckType

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from registry_admin.consul import validation
from registry_admin.consul.addresses import OWN_MACHINE, url_host
from registry_admin.consul.check_fields import RULES, RUNS, option_definitions, option_texts, warns_too_late
from registry_admin.errors import InvalidValueError

# Ports whose usual service doesn't speak HTTP.
NOT_HTTP_PORTS = MappingProxyType(
    {22: "SSH", 25: "SMTP", 3306: "MySQL", 5432: "PostgreSQL", 6379: "Redis", 27017: "MongoDB", 9092: "Kafka"}
)


class CheckKind(StrEnum):
    """Kinds of health check on offer. Script and docker checks run commands on the agent, so they are not."""

    HTTP = "http"
    TCP = "tcp"
    GRPC = "grpc"
    TTL = "ttl"
    KEEP = "keep"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class CheckSpec:
    """A health check. Durations are text with a unit (`10s`); for TTL, `interval` is the time to live.

    `deregister_after` is when a critical instance is taken out; None means never. Of runs in a row, 0 stands for
    Consul's default. Values of headers may be secrets: they are in no text about the check.
    """

    kind: CheckKind = CheckKind.HTTP
    path: str = "/health"
    scheme: str = "http"
    interval: str = "10s"
    timeout: str = "5s"
    deregister_after: str | None = "30s"
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False, hash=False)
    body: str = field(default="", repr=False)
    disable_redirects: bool = False
    tls_skip_verify: bool = False
    tls_server_name: str = ""
    grpc_service: str = ""
    grpc_use_tls: bool = False
    success_before_passing: int = 0
    failures_before_warning: int = 0
    failures_before_critical: int = 0

    def __post_init__(self) -> None:
        try:
            self._set("kind", CheckKind(self.kind))
        except ValueError:
            *kinds, last = (f"'{kind}'" for kind in CheckKind)
            raise InvalidValueError("check.kind", self.kind, f"give {', '.join(kinds)} or {last}") from None
        for name, rule in RULES.items():
            self._set(name, rule(getattr(self, name), f"check.{name}"))
        self._set("headers", MappingProxyType(dict(self.headers)))
        if self.deregister_after is not None:
            self._set("deregister_after", validation.duration(self.deregister_after, "check.deregister_after"))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def type(self) -> CheckType:
        """The facts about this kind of check."""
        return CHECK_TYPES[self.kind]

    @property
    def asks_instance(self) -> bool:
        """True if somebody connects to the instance, rather than the instance reporting or nobody asking."""
        return self.type.is_registered and not self.type.is_reported

    @property
    def effective(self) -> dict[str, Any]:
        """The kind and the fields that it uses, so that a path left over from HTTP is no difference for TCP.

        Options are left out where they have their default: the digests of a check without any stay what they were.
        """
        fields = {name: getattr(self, name) for name in self.type.fields}
        options = {name: getattr(self, name) for name in self.type.options}
        options["headers"] = dict(self.headers) if "headers" in options else {}
        used = {name: value for name, value in options.items() if value != _DEFAULTS[name] and value != {}}
        return {"kind": str(self.kind), **fields, **used}

    def __str__(self) -> str:
        return ", ".join([str(self.kind), *self.type.describe(self)])


_DEFAULTS = MappingProxyType({item.name: item.default for item in dataclass_fields(CheckSpec)})


class Probe(NamedTuple):
    """Request to an instance: connect; if `request` isn't empty, send it and read the status line of the reply.

    `server_name`: what to ask for in TLS, else the address.
    """

    request: bytes = b""
    tls: bool = False
    follows_redirects: bool = True
    server_name: str = ""


class CheckHint(NamedTuple):
    """A field of a valid check that probably can't work, and what to do about it."""

    field: str
    text: str


class CheckType(ABC):
    """Facts about one kind of check.

    `label` is the choice in forms. `fields` are those of CheckSpec that the kind uses always, `options` those that it
    uses where they are given. `is_registered`: each registration has a check. `is_reported`: the instance reports its
    own health, so that nobody connects to it. `needs_port`: an instance without a port can't have it. `is_kept`: the
    checks that an instance has in Consul stay, and it gets one only where it isn't there.
    """

    kind: ClassVar[CheckKind]
    label: ClassVar[str]
    fields: ClassVar[tuple[str, ...]]
    options: ClassVar[tuple[str, ...]] = ()
    is_registered: ClassVar[bool] = True
    is_reported: ClassVar[bool] = False
    needs_port: ClassVar[bool] = False
    is_kept: ClassVar[bool] = False

    def definition(self, check: CheckSpec, target: str) -> dict[str, Any]:
        """Returns Consul's definition of the check on `target` (`host:port`)."""
        timing = {"Interval": check.interval, "Timeout": check.timeout} if "timeout" in self.fields else {}
        return {**self.request(check, target), **timing, **option_definitions(check.effective)}

    @abstractmethod
    def request(self, check: CheckSpec, target: str) -> dict[str, Any]:
        """Returns the part of the definition that is special to the kind."""

    @abstractmethod
    def probe(self, check: CheckSpec, target: str) -> Probe | None:
        """Returns how to ask the instance at `target` (`host:port`) in Consul's place, or None where nobody asks it."""

    def describe(self, check: CheckSpec) -> Iterator[str]:
        """Yields the facts of a check for people."""
        if "interval" in self.fields:
            yield f"every {check.interval}"
        if "timeout" in self.fields:
            yield f"timeout {check.timeout}"
        if "deregister_after" in self.fields and check.deregister_after:
            yield f"out after {check.deregister_after}"
        yield from option_texts(check.effective)

    def hints(self, check: CheckSpec) -> Iterator[CheckHint]:
        """Yields what can't work as meant, whatever the instance."""
        if warns_too_late(check.effective):
            text = (
                f"{check.failures_before_warning} is above failures before critical, {check.failures_before_critical}"
            )
            yield CheckHint("failures before warning", f"{text}, so it is never reached. Make it smaller.")
        if "interval" not in self.fields:
            return
        interval_s = validation.seconds(check.interval)
        if "timeout" in self.fields and validation.seconds(check.timeout) > interval_s:
            text = f"{check.timeout} is longer than the interval, {check.interval}: checks would overlap"
            yield CheckHint("timeout", f"{text}. Make it shorter.")
        if check.deregister_after and validation.seconds(check.deregister_after) < interval_s:
            text = f"{check.deregister_after} is shorter than the interval, {check.interval}"
            yield CheckHint("deregister after", f"{text}: one failed check takes an instance out.")

    def port_hints(self, check: CheckSpec, port: int) -> Iterator[CheckHint]:
        """Yields what can't work with an instance on this port."""
        yield from ()


FOLLOWING_METHODS = ("GET", "HEAD")  # a redirect could turn another one against another API
_NO_REDIRECTS = {"DisableRedirects": True}


class HttpCheck(CheckType):
    """A request: Consul takes 2xx as passing, 429 as warning and all else as critical."""

    kind = CheckKind.HTTP
    label = "HTTP: GET a path, 2xx passes"
    fields = ("path", "scheme", "interval", "timeout", "deregister_after")
    options = ("method", "headers", "body", "disable_redirects", "tls_skip_verify", "tls_server_name", *RUNS)
    needs_port = True

    def request(self, check: CheckSpec, target: str) -> dict[str, Any]:
        url = f"{check.scheme}://{target}{check.path}"
        return {"HTTP": url, "Method": check.method} | ({} if self._follows_redirects(check) else _NO_REDIRECTS)

    @staticmethod
    def _follows_redirects(check: CheckSpec) -> bool:
        """Returns whether a redirect is followed: never with a method that a target could turn against another."""
        return not check.disable_redirects and check.method in FOLLOWING_METHODS

    def probe(self, check: CheckSpec, target: str) -> Probe:
        body = check.body.encode()
        headers = {"Host": target, "User-Agent": "registry-admin", "Accept": "*/*"}
        headers |= {"Content-Length": str(len(body))} if body else {}
        given = {name.lower() for name in check.headers}
        headers = {name: value for name, value in headers.items() if name.lower() not in given} | dict(check.headers)
        lines = [f"{check.method} {check.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return Probe(
            "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body,
            tls=check.scheme == "https",
            follows_redirects=self._follows_redirects(check),
            server_name=check.tls_server_name,
        )

    def describe(self, check: CheckSpec) -> Iterator[str]:
        yield f"{check.scheme}:{check.path}"
        yield from super().describe(check)

    def port_hints(self, check: CheckSpec, port: int) -> Iterator[CheckHint]:
        if port in NOT_HTTP_PORTS:
            text = f"{port} is {NOT_HTTP_PORTS[port]}'s, which speaks no HTTP"
            yield CheckHint("port", f"{text}. Choose a TCP check.")
        if check.scheme == "https" and port == 80:
            yield CheckHint("scheme", "https on port 80, where plain HTTP is spoken. Choose http, or port 443.")
        if check.scheme == "http" and port == 443:
            yield CheckHint("scheme", "http on port 443, where TLS is spoken. Choose https.")


class TcpCheck(CheckType):
    """A connection that is accepted passes."""

    kind = CheckKind.TCP
    label = "TCP: connect to the port"
    fields = ("interval", "timeout", "deregister_after")
    options = RUNS
    needs_port = True

    def request(self, check: CheckSpec, target: str) -> dict[str, Any]:
        return {"TCP": target}

    def probe(self, check: CheckSpec, target: str) -> Probe:
        return Probe()


class GrpcCheck(CheckType):
    """A call of gRPC's own health service: SERVING passes. Our probe connects only.

    https://github.com/grpc/grpc/blob/master/doc/health-checking.md
    """

    kind = CheckKind.GRPC
    label = "gRPC: ask the health service"
    fields = ("interval", "timeout", "deregister_after")
    options = ("grpc_service", "grpc_use_tls", "tls_skip_verify", "tls_server_name", *RUNS)
    needs_port = True

    def request(self, check: CheckSpec, target: str) -> dict[str, Any]:
        return {"GRPC": f"{target}/{check.grpc_service}" if check.grpc_service else target}

    def probe(self, check: CheckSpec, target: str) -> Probe:
        return Probe()

    def describe(self, check: CheckSpec) -> Iterator[str]:
        if check.grpc_service:
            yield check.grpc_service
        yield from super().describe(check)


class TtlCheck(CheckType):
    """The instance reports its own health within the interval, or turns critical."""

    kind = CheckKind.TTL
    label = "TTL: the instance reports in time"
    fields = ("interval", "deregister_after")
    is_reported = True

    def request(self, check: CheckSpec, target: str) -> dict[str, Any]:
        return {"TTL": check.interval}

    def probe(self, check: CheckSpec, target: str) -> None:
        return None

    def describe(self, check: CheckSpec) -> Iterator[str]:
        yield f"within {check.interval}"
        if check.deregister_after:
            yield f"out after {check.deregister_after}"


class KeptCheck(CheckType):
    """The checks that an instance has in Consul, whoever defined them. They stay as they are, and nothing is evicted.

    Consul shows no definition, so where the instance isn't there any more its checks are lost with it: then it is
    registered with a TCP check, because without one a dead process would pass.
    """

    kind = CheckKind.KEEP
    label = "Keep: the checks that it has in Consul"
    fields = ()
    is_registered = False
    is_kept = True
    _substitute = CheckSpec(kind=CheckKind.TCP)

    def request(self, check: CheckSpec, target: str) -> dict[str, Any]:
        return self._substitute.type.definition(self._substitute, target)

    def probe(self, check: CheckSpec, target: str) -> Probe:
        return Probe()


class NoCheck(CheckType):
    """No check: Consul takes the instance as passing."""

    kind = CheckKind.NONE
    label = "None: always passing"
    fields = ()
    is_registered = False

    def request(self, check: CheckSpec, target: str) -> dict[str, Any]:
        return {}

    def probe(self, check: CheckSpec, target: str) -> None:
        return None


_CHECK_TYPES = (HttpCheck(), TcpCheck(), GrpcCheck(), TtlCheck(), KeptCheck(), NoCheck())
CHECK_TYPES: Mapping[CheckKind, CheckType] = MappingProxyType(
    {check_type.kind: check_type for check_type in _CHECK_TYPES}
)
CHECK_CHOICES = [(kind.value, check_type.label) for kind, check_type in CHECK_TYPES.items()]


def check_target(address: str, port: int) -> str:
    """Returns `address:port` as it stands in a check's definition, IPv6 in brackets.

    An instance without an address of its own is on the machine of its agent, which runs the check.
    """
    return f"{url_host(address or OWN_MACHINE)}:{port}"
