"""Reads the checks of Consul's service definitions into the fields of a declared check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from registry_admin.consul import CheckKind
from registry_admin.consul.addresses import url_host
from registry_admin.inventory.exchange.consul_shapes import squash

CONSUL_TIMEOUT = "10s"  # where a check gives none
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0", "::"})  # noqa: S104 - compared, not bound
_REFUSED = {
    "args": "a script can't be declared",
    "script": "a script can't be declared",
    "dockercontainerid": "a command in a container can't be declared",
    "udp": "a UDP check can't be declared",
    "h2ping": "an HTTP/2 ping can't be declared",
    "osservice": "a check of the operating system's services can't be declared",
    "aliasnode": "an alias of another check can't be declared",
    "aliasservice": "an alias of another check can't be declared",
}
_OPTIONS = {
    "method": "method", "body": "body", "disableredirects": "disable_redirects", "tlsskipverify": "tls_skip_verify",
    "tlsservername": "tls_server_name", "grpcusetls": "grpc_use_tls", "interval": "interval", "timeout": "timeout",
    "successbeforepassing": "success_before_passing", "failuresbeforewarning": "failures_before_warning",
    "failuresbeforecritical": "failures_before_critical", "deregistercriticalserviceafter": "deregister_after",
}  # fmt: skip
Note = Callable[[str, str], None]  # takes a key and why it is left out


@dataclass
class CheckReader:
    """Reads the checks of one service. `note` gets what is left out."""

    address: str
    port: Any
    note: Note

    def read(self, checks: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        """Returns the fields of the first check that can be declared: a service has one here.

        `checks`: each with its key in the document. A TCP check of the port takes the place of what can't be declared,
        so that a dead process doesn't pass.
        """
        readable: list[tuple[str, dict[str, Any]]] = []
        for key, check in checks:
            if not isinstance(check, dict):
                self.note(key, "must be a mapping of keys and values")
            elif fields := self._check(key, check):
                readable.append((key, fields))
        for key, _ in readable[1:]:
            self.note(key, f"a service has one check here, and {readable[0][0]} is declared")
        if readable:
            return readable[0][1]
        if not checks:
            return {"kind": CheckKind.NONE.value}
        if not isinstance(self.port, int) or not self.port:
            self.note(checks[0][0], "nothing takes its place, because there is no port to connect to")
            return {"kind": CheckKind.NONE.value}
        key, check = checks[0]
        self.note(key, "a TCP check of the port takes its place")
        return {"kind": CheckKind.TCP.value, "deregister_after": ""} | _interval(check)

    def _check(self, where: str, check: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the fields of a check, or None where its kind can't be declared."""
        known = {squash(key): key for key in check}
        for name, reason in _REFUSED.items():
            if check.get(known.get(name, "")):
                self.note(f"{where}.{known[name]}", reason)
                return None
        fields: dict[str, Any] = {}
        used: set[str] = set()
        for name, read in (("http", self._http), ("tcp", self._tcp), ("grpc", self._grpc)):
            target = check.get(known.get(name, ""))
            if target and not fields:
                used.add(name)
                read_fields = read(str(target))
                if read_fields is None:
                    self.note(f"{where}.{known[name]}", "asks elsewhere than at the instance's own port")
                    return None
                fields = read_fields | {"timeout": CONSUL_TIMEOUT}
        if not fields and check.get(known.get("ttl", "")):
            used.add("ttl")
            fields = {"kind": CheckKind.TTL.value, "interval": check[known["ttl"]]}
        if not fields:
            self.note(where, "its kind is unknown")
            return None
        return self._with_options(where, check, known, used, fields)

    def _with_options(
        self, where: str, check: Mapping[str, Any], known: Mapping[str, str], used: set[str], fields: dict[str, Any]
    ) -> dict[str, Any]:
        fields["deregister_after"] = ""  # Consul takes nothing out unless told to
        for name, key in known.items():
            value, leaf = check[key], _OPTIONS.get(name)
            if name in used or value in (None, "", [], {}, False, 0):
                continue
            if name == "header":
                leaf, value = "headers", self._headers(f"{where}.{key}", value)
            if leaf is None:
                self.note(f"{where}.{key}", "can't be declared here")
            elif value:
                fields[leaf] = value
        return fields

    def _headers(self, where: str, value: Any) -> dict[str, Any]:
        headers: dict[str, Any] = {}
        for name, values in value.items() if isinstance(value, dict) else ():
            if isinstance(values, list) and len(values) == 1:
                headers[name] = values[0]
            elif isinstance(values, str):
                headers[name] = values
            else:
                self.note(f"{where}.{name}", "a header has one value here")
        return headers

    def _http(self, url: str) -> dict[str, Any] | None:
        try:
            parts = urlsplit(url)
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        except ValueError:
            return None
        if not self._is_own(parts.hostname or "", port):
            return None
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return {"kind": CheckKind.HTTP.value, "scheme": parts.scheme, "path": path}

    def _tcp(self, target: str) -> dict[str, Any] | None:
        host, _, port = target.rpartition(":")
        if not port.isascii() or not port.isdigit() or not self._is_own(host.strip("[]"), int(port)):
            return None
        return {"kind": CheckKind.TCP.value}

    def _grpc(self, target: str) -> dict[str, Any] | None:
        endpoint, _, service = target.partition("/")
        if self._tcp(endpoint) is None:
            return None
        return {"kind": CheckKind.GRPC.value} | ({"grpc_service": service} if service else {})

    def _is_own(self, host: str, port: int | None) -> bool:
        """Returns whether a check asks the instance itself, at its address or from the same machine."""
        return port == self.port and (host.lower() in _LOCAL or url_host(host) == url_host(self.address))


def _interval(check: Any) -> dict[str, Any]:
    values = {squash(key): value for key, value in check.items()} if isinstance(check, dict) else {}
    return {"interval": values["interval"]} if values.get("interval") else {}
