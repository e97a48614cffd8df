"""Whether this process serves already: it asks itself what Consul will ask it."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from enum import Enum

from registry_admin.consul.types import CheckKind, ServiceSpec

TIMEOUT_S = 1.0


class Answer(Enum):
    """How far it got."""

    SILENT = "nothing listens there"
    UNHEALTHY = "it accepts connections but its health check doesn't pass"
    HEALTHY = "its health check passes"


def ask(spec: ServiceSpec) -> Answer:
    """One try of the spec's own check, a second long. TTL and no check at all leave nothing to ask."""
    if spec.check.kind in (CheckKind.TTL, CheckKind.NONE):
        return Answer.HEALTHY
    try:
        with socket.create_connection((spec.address, spec.port), timeout=TIMEOUT_S):
            pass
    except OSError:
        return Answer.SILENT
    if spec.check.kind is CheckKind.TCP:
        return Answer.HEALTHY
    try:
        status = _status(spec)
    except (OSError, http.client.HTTPException):
        return Answer.UNHEALTHY
    return Answer.HEALTHY if 200 <= status < 300 else Answer.UNHEALTHY


def _status(spec: ServiceSpec) -> int:
    connection: http.client.HTTPConnection
    if spec.check.scheme == "https":
        # It talks to itself, and only whether it answers is of interest; Consul's own check verifies the certificate.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(spec.address, spec.port, timeout=TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection(spec.address, spec.port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request("GET", spec.check.path, headers={"User-Agent": "registry-admin", "Connection": "close"})
        return connection.getresponse().status
