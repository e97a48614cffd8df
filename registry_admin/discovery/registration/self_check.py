"""Self-check: runs the health check of this process, as Consul does, to find out whether it serves yet."""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import ssl
from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import unquote

from registry_admin.consul import validation
from registry_admin.consul.check_probe import ProbeResult, ProbeStage, probe_instance
from registry_admin.consul.checks import CheckKind
from registry_admin.consul.service_spec import ServiceSpec
from registry_admin.discovery import own_instances
from registry_admin.discovery.registration import listening_sockets
from registry_admin.discovery.registration.switch import verifies_address
from registry_admin.printable import to_single_line

_NETWORK_ERRORS = (OSError, http.client.HTTPException)
_FOREIGN_ADVICE = (
    "Set SERVICE_ADDRESS and SERVICE_PORT to where this process listens, or SERVICE_VERIFY_ADDRESS=0 where a proxy "
    "answers health checks in its place."
)


class SelfCheckStatus(Enum):
    """What a self-check has met at the address that is to be registered."""

    NOT_LISTENING = auto()
    FOREIGN = auto()  # another process answers there
    UNHEALTHY = auto()
    WARNING = auto()
    HEALTHY = auto()


@dataclass(frozen=True)
class SelfCheck:
    """Result of a self-check. `text` says who answered what, and what to do about it."""

    status: SelfCheckStatus
    text: str = ""

    @property
    def is_serving(self) -> bool:
        """True if Consul's check would not be critical."""
        return self.status in {SelfCheckStatus.HEALTHY, SelfCheckStatus.WARNING}


def run_self_check(spec: ServiceSpec) -> SelfCheck:
    """Runs the spec's check once, for as long as Consul lets it take. A check that asks nobody (TTL, none) is healthy.

    Where this process refuses calls that are meant for others, it also has to be the one that answers.
    """
    result = probe_instance(spec, maximum_s=validation.seconds(spec.check.timeout))
    if not result.is_passing:
        is_warning = result.stage is ProbeStage.REPLIED and result.status == 429
        return SelfCheck(SelfCheckStatus.WARNING if is_warning else _failed_status(result), _describe(spec, result))
    foreign = _foreign_instance(spec)
    if foreign:
        return SelfCheck(SelfCheckStatus.FOREIGN, f"{spec.target} is answered by {foreign}. {_FOREIGN_ADVICE}")
    return SelfCheck(SelfCheckStatus.HEALTHY)


def _failed_status(result: ProbeResult) -> SelfCheckStatus:
    is_connected = result.stage is not ProbeStage.NOT_CONNECTED
    return SelfCheckStatus.UNHEALTHY if is_connected else SelfCheckStatus.NOT_LISTENING


def _describe(spec: ServiceSpec, result: ProbeResult) -> str:
    url = f"{spec.check.scheme}://{spec.target}{spec.check.path}"
    what = f"{spec.check.method} {url}" if spec.check.kind is CheckKind.HTTP else spec.target
    return f"{what}: {to_single_line(result.text, max_length=200)}. {_advice(spec, result)}"


def _advice(spec: ServiceSpec, result: ProbeResult) -> str:
    if result.stage is ProbeStage.NOT_CONNECTED:
        return (
            f"Let the server listen on {spec.address} (or on all addresses: 0.0.0.0) and port {spec.port}, "
            "or set SERVICE_ADDRESS and SERVICE_PORT to where it listens."
        )
    if not result.status:
        return f"Let it answer within the check's time-out, {spec.check.timeout}, by the check's scheme."
    if result.status == 400:
        return f"Allow the Host {spec.address}, in Django by ALLOWED_HOSTS."
    if result.status in {401, 403}:
        return "Let this path be requested without a login, or give the check a header."
    if result.status in {404, 405}:
        return "Add this route, or set SERVICE_HEALTH_CHECK_PATH or `health_check_path` to another one."
    return "The check passes with a status from 200 to 299."


def _foreign_instance(spec: ServiceSpec) -> str:
    """Returns the name of who answers in this process's place; empty where nobody does, or where it can't be known.

    A call that is meant for an instance which nobody is makes the middleware of this process name itself. Without its
    answer, a socket of this process that listens on the port is a proof as well: the middleware may serve a part of the
    application only.
    """
    if spec.check.kind is not CheckKind.HTTP or not own_instances.refuses_calls() or not verifies_address(os.environ):
        return ""
    instance_id = _answering_instance(spec)
    if instance_id and own_instances.is_own(instance_id, spec.address, spec.port):
        return ""
    if instance_id:
        return to_single_line(unquote(instance_id), max_length=100)
    return "" if listening_sockets.is_listening("self", spec.port) else "another process"


def _answering_instance(spec: ServiceSpec) -> str:
    """Returns the encoded ID by which whoever answers at the spec's address refuses a call; empty without a refusal."""
    nobody = own_instances.instance_headers(secrets.token_hex(8), spec.address, spec.port)
    connection = _connection(spec)
    with contextlib.closing(connection), contextlib.suppress(*_NETWORK_ERRORS):
        connection.request("GET", spec.check.path, headers=nobody)
        response = connection.getresponse()
        if response.status == own_instances.MISDIRECTED:
            return response.getheader(own_instances.HEADER) or ""
    return ""


def _connection(spec: ServiceSpec) -> http.client.HTTPConnection:
    timeout_s = validation.seconds(spec.check.timeout)
    if spec.check.scheme != "https":
        return http.client.HTTPConnection(spec.address, spec.port, timeout=timeout_s)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(spec.address, spec.port, timeout=timeout_s, context=context)
