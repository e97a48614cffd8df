"""Passive health checks: latency, failures and ejection of each instance, from the calls of this process.

The model is Envoy's outlier detection; the rules and their numbers are in docs/decisions/0011.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from enum import Enum
from math import exp

from registry_admin.backoff import ExponentialBackoff
from registry_admin.consul.types import ServiceInstance
from registry_admin.discovery.own_instances import instance_headers

LATENCY_DECAY_S = 5.0  # a measured latency fades by 1/e in this time, so an instance that was slow is tried again
SLOW_START_S = 10.0
OVERTAKEN_FAILURE_S = 1.0  # an attempt that was overtaken after so long counts as a failure
CONSECUTIVE_FAILURES = 3  # without a reply
CONSECUTIVE_SERVER_ERRORS = 5  # more than above, because the caller's request may be at fault
BASE_EJECTION_S, MAX_EJECTION_S = 2.0, 60.0
PROBE_OVERDUE_S = 30.0  # so long after an ejection has ended, any call may be the probe
_EJECTION = ExponentialBackoff(first_s=BASE_EJECTION_S, longest_s=MAX_EJECTION_S)
_LATENCY_RESOLUTION_S = 0.001  # smaller differences between two instances are noise


class FailureKind(Enum):
    """Kind of a failed attempt."""

    NOT_SENT = "not sent"  # the instance can't have received anything
    NO_REPLY = "no reply"
    SERVER_ERROR = "server error"  # a reply with a status of 500 or above
    MISDIRECTED = "misdirected"  # another instance answers at the address, and has refused the call


_RECEIVED = frozenset({FailureKind.NO_REPLY, FailureKind.SERVER_ERROR})  # perhaps, by the instance that was meant
_LIMITS = {  # failures in a row that eject an instance
    FailureKind.NOT_SENT: CONSECUTIVE_FAILURES,
    FailureKind.NO_REPLY: CONSECUTIVE_FAILURES,
    FailureKind.SERVER_ERROR: CONSECUTIVE_SERVER_ERRORS,
    FailureKind.MISDIRECTED: 1,
}


class OutlierDetector:
    """The ejected endpoints of one service: never more than half. `lock` guards the counters of all endpoints."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ejected: set[Endpoint] = set()
        self._size = 0

    def set_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        """Replaces the service's endpoints. An ejected endpoint that isn't among them counts no more."""
        with self.lock:
            current = set(endpoints)
            self._size = len(current)
            self.ejected &= current

    def can_eject(self) -> bool:
        """Returns whether at least half of the endpoints remain after one more ejection."""
        return 2 * (len(self.ejected) + 1) <= self._size


class Endpoint:
    """An instance and the results of the calls to it. Times are seconds of a monotonic clock."""

    __slots__ = (
        "_ejections", "_latency", "_latency_at", "_not_sent", "_progress_at", "_reset_ejections_at", "ejected_until",
        "ejection_reason", "failures_in_row", "headers", "instance", "outlier_detector", "outstanding", "probing",
        "slow_start_until", "url", "weight",
    )  # fmt: skip

    def __init__(self, instance: ServiceInstance, outlier_detector: OutlierDetector, *, now: float, warm: bool) -> None:
        """Makes an endpoint without any calls. `warm` skips the slow start, for the first list of a service."""
        self.outlier_detector = outlier_detector
        self._latency = self._latency_at = self._progress_at = 0.0
        self.slow_start_until = -math.inf if warm else now + SLOW_START_S
        self._ejections = 0  # in a row
        self._reset_ejections_at = 0.0
        self._not_sent = False  # by the last failure
        self.outstanding = 0
        self.failures_in_row = 0
        self.ejected_until = 0.0  # 0 if it isn't ejected
        self.ejection_reason = ""
        self.probing = False
        self.update(instance)

    def __repr__(self) -> str:
        return f"<Endpoint {self.instance.id} at {self.url}>"

    def update(self, instance: ServiceInstance) -> None:
        """Replaces the instance by newer data of the same address and port."""
        self.instance, self.url, self.weight = instance, instance.url, max(1, instance.weight)
        self.headers = instance_headers(instance.id, instance.address, instance.port)

    @property
    def latency(self) -> float | None:
        """Seconds, as measured last, or None before the first reply."""
        return self._latency or None

    @property
    def is_ejected(self) -> bool:
        """True until a call has succeeded after the ejection."""
        return bool(self.ejected_until)

    def start_attempt(self, now: float) -> None:
        """Counts an attempt as outstanding, until one of the `record_…` methods ends it."""
        with self.outlier_detector.lock:
            if not self.outstanding:
                self._progress_at = now
            self.outstanding += 1

    def record_success(self, now: float, *, duration_s: float) -> None:
        """Ends an attempt with a reply below 500. Ends an ejection too, with a slow start."""
        with self.outlier_detector.lock:
            self._end_attempt(now)
            self._sample_latency(now, duration_s)
            self.failures_in_row = 0
            if self.ejected_until:
                self.outlier_detector.ejected.discard(self)
                self._reset_ejections_at = now + _EJECTION.pause_s(self._ejections + 1)
                self.ejected_until, self.probing, self.slow_start_until = 0.0, False, now + SLOW_START_S
            elif self._ejections and now > self._reset_ejections_at:
                self._ejections = 0

    def record_head(self, now: float, *, duration_s: float) -> None:
        """Ends an attempt with the head of a reply whose body is yet to come: no success so far, and no failure."""
        with self.outlier_detector.lock:
            self._end_attempt(now)
            self._sample_latency(now, duration_s)

    def record_failure(self, now: float, *, duration_s: float, kind: FailureKind, reason: str) -> None:
        """Ends an attempt without a reply, or with a server error. `reason` is for people."""
        with self.outlier_detector.lock:
            self._end_attempt(now)
            received = kind in _RECEIVED
            if kind is FailureKind.SERVER_ERROR or (duration_s > self._latency and received):
                self._sample_latency(now, duration_s)
            self.failures_in_row += 1
            self._not_sent = not received
            if self.ejected_until or (self.failures_in_row >= _LIMITS[kind] and self.outlier_detector.can_eject()):
                self._eject(now, reason)

    def record_overtaken(self, now: float, *, duration_s: float) -> None:
        """Ends an attempt because another instance replied first. Only a long silence counts as a failure."""
        if duration_s >= OVERTAKEN_FAILURE_S or self.probing:
            reason = "no answer while another gave one"
            self.record_failure(now, duration_s=duration_s, kind=FailureKind.NO_REPLY, reason=reason)
            return
        with self.outlier_detector.lock:
            self._end_attempt(now)
            if duration_s > self._latency:
                self._sample_latency(now, duration_s)

    def record_cancelled(self, now: float) -> None:
        """Ends an attempt that the caller gave up. It is neither a success nor a failure."""
        with self.outlier_detector.lock:
            self._end_attempt(now)
            self.probing = False

    def _end_attempt(self, now: float) -> None:
        self.outstanding = max(0, self.outstanding - 1)
        self._progress_at = now

    def _sample_latency(self, now: float, duration_s: float) -> None:
        """Raises the latency at once and lowers it slowly: an instance that was slow is likely to be slow again."""
        decay = exp(min(0.0, self._latency_at - now) / LATENCY_DECAY_S)
        decayed = self._latency * decay
        self._latency = duration_s if duration_s >= decayed else decayed * decay + duration_s * (1 - decay)
        self._latency_at = now

    def _eject(self, now: float, reason: str) -> None:
        if self.ejected_until and not self.probing:
            return  # an attempt that was under way before the ejection
        self.ejected_until = now + _EJECTION.pause_s(self._ejections + 1)
        self._ejections += 1
        self.ejection_reason, self.probing = reason, False
        self.outlier_detector.ejected.add(self)

    def cost(self, now: float) -> float:
        """Estimated seconds until the reply of one more call. Grows while outstanding calls make no progress."""
        latency = self._latency * exp((self._latency_at - now) / LATENCY_DECAY_S)
        if not self.outstanding:
            return latency + _LATENCY_RESOLUTION_S
        return (max(latency, now - self._progress_at) + _LATENCY_RESOLUTION_S) * (1.0 + self.outstanding / self.weight)

    def slow_start_share(self, now: float) -> float:
        """Share of its calls that a new endpoint gets: rises from 0.1 to 1 during the slow start."""
        return min(1.0, max(0.1, 1.0 - (self.slow_start_until - now) / SLOW_START_S))

    def admit(self, now: float, *, repeatable: bool) -> bool:
        """Returns whether a call may go to this endpoint. After an ejection it admits one call, as the probe.

        A call that isn't `repeatable` is a probe only if the last failure was not sent, or the probe is overdue.
        """
        if not self.ejected_until:
            return True
        if now < self.ejected_until:
            return False
        if not (repeatable or self._not_sent or now > self.ejected_until + PROBE_OVERDUE_S):
            return False
        with self.outlier_detector.lock:
            if now < self.ejected_until:
                return False
            self.probing = True
            self.ejected_until = now + BASE_EJECTION_S  # until the next probe, if this one never ends
            return True
