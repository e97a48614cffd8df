"""Asks what was evicted, and what Consul therefore doesn't check any more, whether it answers again."""

from __future__ import annotations

import contextlib
import heapq
import ipaddress
import logging
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from registry_admin.consul import validation
from registry_admin.consul.config import url_host
from registry_admin.consul.types import CheckKind, ServiceSpec

logger = logging.getLogger(__name__)

CONCURRENCY = 16
EAGER_TRIES = 10  # at the check's own interval
SLOWEST_S = 60.0
FIRST_BLIND_S = 60.0  # where there is nobody to ask
LONGEST_BLIND_S = 600.0
_LONGEST_HEAD = 4096
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r\n]")


@dataclass
class _Target:
    spec: ServiceSpec
    due: float
    tries: int = 0


class Prober:
    """Probes a set of instances from this machine, on threads of its own, and tells `on_answer` who answers.

    `consul_host` is where Consul is: an instance on loopback there can't be asked from another machine. Such, and those
    whose check asks nobody (TTL), are said to answer after growing waits, so that they get another chance.
    """

    def __init__(
        self,
        on_answer: Callable[[str], object],
        *,
        consul_host: str = "127.0.0.1",
        random_share: Callable[[], float] = random.random,
    ) -> None:
        """`on_answer` gets an instance's ID, on one of the threads, and does so again while the instance is watched."""
        self._on_answer = on_answer
        self._near_consul = _is_this_machine(consul_host)
        self._random_share = random_share
        self._targets: dict[str, _Target] = {}
        self._queue: list[tuple[float, str]] = []  # a heap; entries whose target has another time are void
        self._changed = threading.Condition()
        self._stopped = False
        self._threads: list[threading.Thread] = []

    def watch(self, specs: Mapping[str, ServiceSpec]) -> None:
        """These, by instance ID, and no others from now on. What is watched already keeps its rhythm."""
        now = time.monotonic()
        with self._changed:
            kept = {key: one for key, one in self._targets.items() if specs.get(key) == one.spec}
            self._targets = kept
            for key, spec in specs.items():
                if key not in kept:
                    blind = not self._can_be_asked(spec)
                    first = FIRST_BLIND_S if blind else interval_s(spec) * self._random_share()
                    kept[key] = _Target(spec, now + first)
                    heapq.heappush(self._queue, (now + first, key))
            while not self._stopped and len(self._threads) < min(CONCURRENCY, len(kept)):
                thread = threading.Thread(target=self._work, name=f"probe-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify_all()

    def stop(self) -> None:
        """Asks nobody any more. Doesn't wait for a probe that is under way."""
        with self._changed:
            self._stopped = True
            self._targets = {}
            self._changed.notify_all()

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            instance_id, target = taken
            answers = not self._can_be_asked(target.spec) or ask(target.spec)
            with self._changed:
                if self._targets.get(instance_id) is not target:
                    continue  # it was taken off, or declared otherwise, in the meantime
                target.due = time.monotonic() + self._pause(target)
                heapq.heappush(self._queue, (target.due, instance_id))
                self._changed.notify()
            if answers:
                logger.debug("answers again", extra={"event": "answers", "instance": instance_id})
                self._on_answer(instance_id)

    def _take(self) -> tuple[str, _Target] | None:
        """The next one whose time has come, waiting for it; None once stopped."""
        with self._changed:
            while not self._stopped:
                left = self._queue[0][0] - time.monotonic() if self._queue else None
                if left is not None and left <= 0:
                    due, instance_id = heapq.heappop(self._queue)
                    target = self._targets.get(instance_id)
                    if target is not None and target.due == due:
                        target.tries += 1
                        target.due = float("inf")  # nobody else's until it has answered or not
                        return instance_id, target
                else:
                    self._changed.wait(left)
        return None

    def _pause(self, target: _Target) -> float:
        if not self._can_be_asked(target.spec):
            return float(min(LONGEST_BLIND_S, FIRST_BLIND_S * 2 ** min(target.tries, 16)))
        return pause_s(interval_s(target.spec), target.tries)

    def _can_be_asked(self, spec: ServiceSpec) -> bool:
        if spec.check.kind not in (CheckKind.HTTP, CheckKind.TCP):
            return False
        return self._near_consul or not _is_loopback(spec.address)


def interval_s(spec: ServiceSpec) -> float:
    """How often Consul checks it, in seconds."""
    return validation.seconds(spec.check.interval)


def pause_s(interval: float, tries: int) -> float:
    """Seconds to the next try after so many: the check's interval, later growing up to a minute."""
    if tries < EAGER_TRIES:
        return interval
    return float(min(max(SLOWEST_S, interval), interval * 2 ** min(tries - EAGER_TRIES + 1, 32)))


def ask(spec: ServiceSpec) -> bool:
    """Whether one try of the spec's own check finds it alive; see `try_check`."""
    return try_check(spec)[0]


def try_check(spec: ServiceSpec) -> tuple[bool, str]:
    """One try of the spec's own check, within its own timeout: whether it answers, and what was seen, in words.

    As Consul asks, but no redirect is followed. A redirect answers, and so does 429, which Consul only warns of.
    Certificates aren't verified: it is about life.
    """
    if spec.check.kind not in (CheckKind.HTTP, CheckKind.TCP):
        return True, "its check asks nobody"
    deadline = time.monotonic() + validation.seconds(spec.check.timeout)
    try:
        with contextlib.ExitStack() as stack:
            place = (spec.address, spec.port)
            connection = stack.enter_context(socket.create_connection(place, timeout=_left(deadline)))
            if spec.check.kind is CheckKind.TCP:
                return True, "connected"
            if spec.check.scheme == "https":
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                wrapped = context.wrap_socket(connection, server_hostname=spec.address)
                connection = stack.enter_context(wrapped)
            status = _status(connection, spec, deadline)
    except TimeoutError:
        return False, f"no answer within {spec.check.timeout}"
    except (OSError, ValueError) as error:  # a name that can't be one, among others
        return False, getattr(error, "strerror", None) or str(error)
    if not status:
        return False, "what answered doesn't speak HTTP"
    return 200 <= status < 400 or status == 429, f"answered with status {status}"


def _status(connection: socket.socket, spec: ServiceSpec, deadline: float) -> int:
    """Only the reply's first line is read, so that no peer can make this last longer than the timeout."""
    head = (
        f"GET {spec.check.path} HTTP/1.1\r\nHost: {url_host(spec.address)}:{spec.port}\r\n"
        "User-Agent: registry-admin\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
    connection.settimeout(_left(deadline))
    connection.sendall(head.encode("latin-1"))
    line = b""
    while b"\n" not in line and len(line) < _LONGEST_HEAD:
        connection.settimeout(_left(deadline))
        piece = connection.recv(_LONGEST_HEAD)
        if not piece:
            break
        line += piece
    found = _STATUS_LINE.match(line)
    return int(found[1]) if found else 0


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower().rstrip(".").rpartition(".")[2] == "localhost"


def _is_this_machine(host: str) -> bool:
    """Whether this is an address of our own: only then can something be bound to it."""
    if _is_loopback(host):
        return True
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as trial:
            trial.bind(address)
    except OSError:
        return False
    return True
