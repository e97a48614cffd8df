"""Rules for the fields of a health check: each returns a value in its canonical form or raises InvalidValueError."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from registry_admin.consul import validation
from registry_admin.errors import InvalidValueError

MAX_BODY = 4096
MAX_GRPC_SERVICE = 255
MAX_RUNS = 100
_GRPC_SERVICE = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*")
_FORBIDDEN_HEADERS = validation.FORBIDDEN_HEADERS - {"host"}  # which a check may have: it names a virtual host


def scheme(value: object, field: str) -> str:
    """`http` or `https`."""
    if value not in ("http", "https"):
        raise InvalidValueError(field, value, "give 'http' or 'https'")
    return str(value)


def headers(value: object, field: str) -> dict[str, str]:
    """Headers of a check's request; a `Host` may be among them. Their values are secrets: never part of an error."""
    pairs = validation.headers(value, field, forbidden=_FORBIDDEN_HEADERS)
    for name, content in pairs.items():
        if content == validation.HIDDEN:
            raise InvalidValueError(f"{field}.{name}", content, "this stands for a value that isn't known: give it")
    return dict(sorted(pairs.items()))


def body(value: object, field: str) -> str:
    """Returns the body of a check's request; empty for none."""
    if not isinstance(value, str) or len(value) > MAX_BODY:
        raise InvalidValueError(field, validation.HIDDEN, f"give text of at most {MAX_BODY} characters")
    text = value.replace("\r\n", "\n")  # as browsers send it
    if not all(validation.is_clean(line.replace("\t", "")) for line in text.split("\n")):
        raise InvalidValueError(field, validation.HIDDEN, "control and invisible characters are not allowed")
    return text


def server_name(value: object, field: str) -> str:
    """The host name that a certificate must have; nothing for that of the address."""
    return validation.host_name(validation.text(value, field, maximum=253), field) if value != "" else ""


def grpc_service(value: object, field: str) -> str:
    """The service that a gRPC health check asks for; nothing for the whole server."""
    if value == "":
        return ""
    name = validation.text(value, field, maximum=MAX_GRPC_SERVICE)
    if not _GRPC_SERVICE.fullmatch(name):
        raise InvalidValueError(field, value, "give a service's name, such as 'pkg.Service'")
    return name


def flag(value: object, field: str) -> bool:
    """True or false, and nothing that only counts as such."""
    if not isinstance(value, bool):
        raise InvalidValueError(field, value, "give true or false")
    return value


_runs = partial(validation.whole_number, minimum=0, maximum=MAX_RUNS)

# By the name in CheckSpec. Models derive their own rules from these.
RULES: Mapping[str, Callable[[Any, str], Any]] = MappingProxyType(
    {
        "path": validation.http_path,
        "scheme": scheme,
        "interval": validation.duration,
        "timeout": partial(validation.duration, minimum_s=0.1, maximum_s=600),
        "method": validation.method,
        "headers": headers,
        "body": body,
        "disable_redirects": flag,
        "tls_skip_verify": flag,
        "tls_server_name": server_name,
        "grpc_service": grpc_service,
        "grpc_use_tls": flag,
        "success_before_passing": _runs,
        "failures_before_warning": _runs,
        "failures_before_critical": _runs,
    }
)


class CheckOption(NamedTuple):
    """An option of checks: its key in Consul's definition, its text for people, and the first Consul that knows it."""

    key: str
    label: str
    since: tuple[int, ...] = ()


OPTIONS: Mapping[str, CheckOption] = MappingProxyType(
    {
        "method": CheckOption("Method", "method {}"),
        "headers": CheckOption("Header", "headers {}"),
        "body": CheckOption("Body", "with a body"),
        "disable_redirects": CheckOption("DisableRedirects", "no redirects", (1, 11, 5)),
        "grpc_use_tls": CheckOption("GRPCUseTLS", "TLS"),
        "tls_skip_verify": CheckOption("TLSSkipVerify", "certificate not verified"),
        "tls_server_name": CheckOption("TLSServerName", "certificate of {}", (1, 10)),
        "success_before_passing": CheckOption("SuccessBeforePassing", "passing after {} in a row"),
        "failures_before_warning": CheckOption("FailuresBeforeWarning", "warning after {} in a row", (1, 11)),
        "failures_before_critical": CheckOption("FailuresBeforeCritical", "critical after {} in a row"),
    }
)
RUNS = ("success_before_passing", "failures_before_warning", "failures_before_critical")


def option_texts(values: Mapping[str, Any]) -> Iterator[str]:
    """Yields the texts of the options among a check's values; of headers the names only."""
    for name, option in OPTIONS.items():
        if name in values:
            value = values[name]
            yield option.label.format(", ".join(value) if isinstance(value, Mapping) else value)


def option_definitions(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options among a check's values as Consul's check definition has them.

    A number of failures before a warning that is above the one before critical is never reached, and Consul refuses it.
    """
    unreachable = {"failures_before_warning"} if warns_too_late(values) else set()
    return {
        option.key: {key: [text] for key, text in value.items()} if isinstance(value, Mapping) else value
        for name, option in OPTIONS.items()
        if (value := values.get(name)) is not None and name not in unreachable
    }


def warns_too_late(values: Mapping[str, Any]) -> bool:
    """Returns whether a check with these values is critical before it would warn."""
    return int(values.get("failures_before_warning", 0)) > int(values.get("failures_before_critical", 0))


def known_definitions(
    definitions: Iterable[dict[str, Any]], version: Callable[[], tuple[int, ...]]
) -> list[dict[str, Any]]:
    """Returns check definitions without options that the agent is too old for: it would refuse unknown keys.

    `version` returns the agent's; it is called where that matters only.
    """
    checks = list(definitions)
    newer = {option.key: option.since for option in OPTIONS.values() if option.since}
    if not any(key in newer for check in checks for key in check):
        return checks
    agent_version = version()
    unknown = {key for key, since in newer.items() if agent_version < since}
    return [{key: value for key, value in check.items() if key not in unknown} for check in checks]
