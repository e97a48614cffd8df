"""Asks an instance once, as its health check would."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

from registry_admin.consul import validation
from registry_admin.consul.check_targets import ANY_TARGET, TargetRules
from registry_admin.consul.checks import Probe
from registry_admin.consul.name_resolution import resolve
from registry_admin.consul.service_spec import ServiceSpec
from registry_admin.errors import InvalidValueError

MAX_S = 5.0  # a probe is about life: who takes longer gets its verdict from Consul's own check
MAX_REDIRECTS = 10  # as Go's client, and so Consul: https://pkg.go.dev/net/http#Client
_MAX_HEAD = 16 * 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r\n]")
_LOCATION = re.compile(rb"\r?\nlocation:[ \t]*([^\r\n]*)", re.IGNORECASE)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class ProbeStage(Enum):
    """Stages that a probe can reach."""

    NOT_PROBED = auto()  # nobody asks an instance with such a check
    NOT_CONNECTED = auto()
    CONNECTED = auto()  # a reply is not needed, or did not come: see ProbeResult.failed
    REPLIED = auto()


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """Result of one probe. `text` is for people; `status` is HTTP's, 0 without a reply.

    `is_undecided`: the instance took longer than a probe may, but its check allows it even more.
    """

    stage: ProbeStage
    text: str
    status: int = 0
    failed: bool = False
    is_undecided: bool = False

    @property
    def is_alive(self) -> bool:
        """True if the instance answers: also with a redirect to nowhere, or with 429, of which Consul only warns."""
        if self.stage is ProbeStage.REPLIED:
            return 200 <= self.status < 400 or self.status == 429
        return not self.failed

    @property
    def is_passing(self) -> bool:
        """True if Consul would take the check as passing."""
        return 200 <= self.status < 300 if self.stage is ProbeStage.REPLIED else not self.failed


class _Reply(NamedTuple):
    """A reply's status, 0 where it isn't HTTP, and where it redirects to."""

    status: int
    location: str = ""


class _Attempt:
    """One probe on its way, and how far it has come."""

    def __init__(self, spec: ServiceSpec, probe: Probe, deadline: float, rules: TargetRules) -> None:
        self.stage = ProbeStage.NOT_CONNECTED
        self.status = 0  # of the last reply
        self._probe = probe
        self._deadline = deadline
        self._rules = rules
        scheme = "https" if probe.tls else "http"
        self._url = urlsplit(f"{scheme}://{spec.target}")

    def run(self) -> _Reply:
        """Connects, asks if that is needed, and follows redirects. Raises OSError and ValueError."""
        request, url = self._probe.request, self._url
        for _ in range(MAX_REDIRECTS + 1):
            reply = self._ask(url, request)
            self.status = reply.status
            if reply.status not in _REDIRECTS or not reply.location or not self._probe.follows_redirects:
                return reply
            following = urlsplit(urljoin(url.geturl(), reply.location))
            request, url = _redirected(request, reply.status, url, following), following
        raise ValueError(f"it redirected more than {MAX_REDIRECTS} times")

    def failure(self, problem: str, *, is_undecided: bool = False) -> ProbeResult:
        """Returns the result of a probe that ended so: a redirect that leads nowhere is an answer still."""
        if self.status:
            text = f"answered with status {self.status}, and where that leads to: {problem}"
            return ProbeResult(stage=ProbeStage.REPLIED, text=text, status=self.status, is_undecided=is_undecided)
        return ProbeResult(stage=self.stage, text=problem, failed=True, is_undecided=is_undecided)

    def _ask(self, url: SplitResult, request: bytes) -> _Reply:
        with contextlib.ExitStack() as stack:
            connection: socket.socket = stack.enter_context(self._connection(url))
            if self.stage is ProbeStage.NOT_CONNECTED:
                self.stage = ProbeStage.CONNECTED
            if not request:
                return _Reply(0)
            if url.scheme == "https":
                connection.settimeout(_remaining(self._deadline))
                connection = stack.enter_context(_with_tls(connection, self._server_name(url)))
            return self._exchange(connection, request)

    def _server_name(self, url: SplitResult) -> str:
        return (self._probe.server_name if url is self._url else "") or url.hostname or ""

    @contextlib.contextmanager
    def _connection(self, url: SplitResult) -> Iterator[socket.socket]:
        """Connects to the first address that may be asked and accepts, all of them within the deadline.

        The address that was judged is connected to, so that a name which changes meanwhile gains nothing.
        """
        port = url.port or (443 if url.scheme == "https" else 80)
        self._rules.check_port(port)
        problem: OSError | InvalidValueError = OSError("the name has no address")
        for family, address in resolve(url.hostname or "", port, timeout_s=_remaining(self._deadline)):
            try:
                self._rules.check_address(address[0])
            except InvalidValueError as error:
                problem = error
                continue
            with socket.socket(family, socket.SOCK_STREAM) as connection:
                connection.settimeout(_remaining(self._deadline))
                try:
                    connection.connect(address)
                except TimeoutError:
                    raise
                except OSError as error:
                    problem = error
                    continue
                yield connection
                return
        raise problem

    def _exchange(self, connection: socket.socket, request: bytes) -> _Reply:
        """Sends the request and reads the reply's head, or its first line only where that decides."""
        connection.settimeout(_remaining(self._deadline))
        connection.sendall(request)
        head, status = b"", 0
        while len(head) < _MAX_HEAD and b"\n\r\n" not in head and b"\n\n" not in head:
            connection.settimeout(_remaining(self._deadline))
            chunk = connection.recv(4096)
            head += chunk
            if not status and (match := _STATUS_LINE.match(head)) and b"\n" in head:
                status = int(match[1])
            if not chunk or (b"\n" in head and status not in _REDIRECTS):
                break
        location = _LOCATION.search(head)
        return _Reply(status, location[1].decode("latin-1").strip() if location else "")


def probe_instance(
    spec: ServiceSpec, *, timeout_s: float | None = None, maximum_s: float = MAX_S, rules: TargetRules = ANY_TARGET
) -> ProbeResult:
    """Tries the spec's own check once, within `timeout_s` seconds, or the check's time-out.

    It takes `maximum_s` at most, all in all. What `rules` refuse isn't connected to. Never raises. Unlike Consul it
    verifies no certificate: it is about life.
    """
    probe = spec.probe
    if probe is None:
        return ProbeResult(stage=ProbeStage.NOT_PROBED, text="its check asks nobody")
    allowed_s = validation.seconds(spec.check.timeout) if timeout_s is None else timeout_s
    limit_s = min(allowed_s, maximum_s)
    attempt = _Attempt(spec, probe, time.monotonic() + limit_s, rules)
    try:
        reply = attempt.run()
    except TimeoutError:
        is_undecided = attempt.stage is ProbeStage.CONNECTED and allowed_s > maximum_s
        return attempt.failure(f"no answer within {limit_s:g}s", is_undecided=is_undecided)
    except (OSError, ValueError) as error:  # ValueError: a name that can't be a host's
        return attempt.failure(getattr(error, "strerror", None) or str(error))
    if not probe.request:
        return ProbeResult(stage=attempt.stage, text="connected")
    if not reply.status:
        return attempt.failure("what answered doesn't speak HTTP")
    text = f"answered with status {reply.status}"
    return ProbeResult(stage=ProbeStage.REPLIED, text=text, status=reply.status)


def _redirected(request: bytes, status: int, url: SplitResult, following: SplitResult) -> bytes:
    """Returns the request for a redirect's target. Raises ValueError where it leads to something that isn't HTTP.

    As Go's client it turns all but GET and HEAD into GET (307 and 308 keep the method), and leaves credentials out for
    another host. Raises InvalidValueError for addresses that a check must not have either.
    """
    if following.scheme not in ("http", "https") or not following.hostname:
        raise ValueError("it redirects to something that isn't HTTP")
    validation.address(following.hostname)
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method = first.split(b" ", 1)[0]
    if status not in (307, 308) and method != b"HEAD":
        method, body = b"GET", b""
    dropped = {b"host"} | (set() if body else {b"content-length", b"content-type"})
    if following.netloc != url.netloc:
        dropped |= {b"authorization", b"cookie", b"www-authenticate"}
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in dropped]
    path = (following.path or "/") + (f"?{following.query}" if following.query else "")
    if any(ord(character) <= 32 or ord(character) > 126 for character in path + following.netloc):
        raise ValueError("it redirects to something that can't be asked for")
    start = [method + b" " + path.encode("ascii") + b" HTTP/1.1", b"Host: " + following.netloc.encode("ascii")]
    return b"\r\n".join([*start, *kept]) + b"\r\n\r\n" + body


def _with_tls(connection: socket.socket, host: str) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection, server_hostname=host)


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining
