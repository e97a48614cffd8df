"""An instance as this process has experienced it: calls under way, latency, failures, and whether it is left out.

Left out is what Envoy calls ejected by outlier detection; the rules are in docs/decisions/0011.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from math import exp

from registry_admin.consul.types import ServiceInstance

FADE_S = 5.0  # a latency fades by 1/e in this time, so what was slow once is tried again
SLOW_START_S = 10.0
SILENT_S = 1.0  # who let another answer first after so long counts as failed
FAILURES = 3  # in a row, without a reply
SERVER_ERRORS = 5  # in a row; they may be a caller's fault, so more of them
EJECTION_S = 2.0  # doubles each time
LONGEST_EJECTION_S = 60.0
OVERDUE_S = 30.0  # so long after an ejection was over, anything may be its probe
_ALIKE_S = 0.001  # differences below this say nothing about an instance


class Outliers:
    """Which endpoints of one service are ejected: never more than half. Its lock guards the counters of all of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ejected: set[Endpoint] = set()
        self._size = 0

    def keep(self, endpoints: Iterable[Endpoint]) -> None:
        """These are the service's endpoints from now on."""
        with self.lock:
            kept = set(endpoints)
            self._size = len(kept)
            self.ejected &= kept

    def may_eject(self) -> bool:
        """Whether one more can be spared."""
        return 2 * (len(self.ejected) + 1) <= self._size


class Endpoint:
    """One instance, and what became of the calls to it. Times are seconds of a monotonic clock."""

    __slots__ = (
        "_at", "_forgiven_at", "_latency", "_progress", "_refused", "_times", "ejected_until", "ejection_reason",
        "failures_in_row", "instance", "outliers", "outstanding", "probing", "ready_at", "url", "weight",
    )  # fmt: skip

    def __init__(self, instance: ServiceInstance, outliers: Outliers, *, now: float, warm: bool) -> None:
        """`warm`: it was there from the beginning, so it needn't start slowly."""
        self.outliers = outliers
        self._latency = self._at = self._progress = 0.0
        self.ready_at = -math.inf if warm else now + SLOW_START_S
        self._times = 0  # ejected so often, lately
        self._forgiven_at = 0.0
        self._refused = False
        self.outstanding = 0
        self.failures_in_row = 0
        self.ejected_until = 0.0  # 0 where it isn't
        self.ejection_reason = ""
        self.probing = False
        self.update(instance)

    def __repr__(self) -> str:
        return f"<Endpoint {self.instance.id} at {self.url}>"

    def update(self, instance: ServiceInstance) -> None:
        """Consul tells something new of the same address and port."""
        self.instance, self.url, self.weight = instance, instance.url, max(1, instance.weight)

    @property
    def latency(self) -> float | None:
        """As it was when last measured, or None."""
        return self._latency or None

    def began(self, now: float) -> None:
        """An attempt goes to it."""
        with self.outliers.lock:
            if not self.outstanding:
                self._progress = now
            self.outstanding += 1

    def succeeded(self, now: float, *, took: float) -> None:
        """It answered, and didn't blame itself (a status below 500)."""
        with self.outliers.lock:
            self._end(now)
            self._sample(now, took)
            self.failures_in_row = 0
            if self.ejected_until:
                self.outliers.ejected.discard(self)
                self._forgiven_at = now + _ejection_s(self._times)
                self.ejected_until, self.probing, self.ready_at = 0.0, False, now + SLOW_START_S
            elif self._times and now > self._forgiven_at:
                self._times = 0

    def failed(self, now: float, *, took: float, reason: str, refused: bool = False) -> None:
        """It didn't answer, or with a 5xx (`reason`). `refused`: it can't have received anything."""
        with self.outliers.lock:
            self._end(now)
            server_error = reason.startswith("status ")
            if server_error or (took > self._latency and not refused):  # refusing is quick, and says nothing
                self._sample(now, took)
            self.failures_in_row += 1
            self._refused = refused
            limit = SERVER_ERRORS if server_error else FAILURES
            if self.ejected_until or (self.failures_in_row >= limit and self.outliers.may_eject()):
                self._eject(now, reason)

    def abandoned(self, now: float, *, took: float) -> None:
        """Another answered first."""
        if took >= SILENT_S or self.probing:
            self.failed(now, took=took, reason="no answer while another gave one")
            return
        with self.outliers.lock:
            self._end(now)
            if took > self._latency:
                self._sample(now, took)

    def cancelled(self, now: float) -> None:
        """The caller gave up: that says nothing."""
        with self.outliers.lock:
            self._end(now)
            self.probing = False

    def _end(self, now: float) -> None:
        self.outstanding = max(0, self.outstanding - 1)
        self._progress = now

    def _sample(self, now: float, took: float) -> None:
        """Up at once, down slowly: what was slow a moment ago is likely to be slow again."""
        kept = exp(min(0.0, self._at - now) / FADE_S)
        faded = self._latency * kept
        self._latency = took if took >= faded else faded * kept + took * (1 - kept)
        self._at = now

    def _eject(self, now: float, reason: str) -> None:
        if self.ejected_until and not self.probing:
            return  # a call that was under way already
        self.ejected_until = now + _ejection_s(self._times)
        self._times += 1
        self.ejection_reason, self.probing = reason, False
        self.outliers.ejected.add(self)

    def cost(self, now: float) -> float:
        """What one more call here would wait for, roughly. A silent one grows dearer with every moment."""
        latency = self._latency * exp((self._at - now) / FADE_S)
        if not self.outstanding:
            return latency + _ALIKE_S
        return (max(latency, now - self._progress) + _ALIKE_S) * (1.0 + self.outstanding / self.weight)

    def readiness(self, now: float) -> float:
        """The share of its calls that it gets while it is new: from a tenth to all."""
        return min(1.0, max(0.1, 1.0 - (self.ready_at - now) / SLOW_START_S))

    def is_ejected(self, now: float) -> bool:
        """Whether it is left out, or is just proving itself."""
        return now < self.ejected_until

    def take(self, now: float, *, repeatable: bool) -> bool:
        """Whether a call may go to it. After an ejection one call may, as a probe."""
        if not self.ejected_until:
            return True
        if now < self.ejected_until:
            return False
        if not (repeatable or self._refused or now > self.ejected_until + OVERDUE_S):
            return False
        with self.outliers.lock:
            if now < self.ejected_until:
                return False
            self.probing = True
            self.ejected_until = now + EJECTION_S  # the next probe, should nothing be heard of this one
            return True


def _ejection_s(times: int) -> float:
    return min(LONGEST_EJECTION_S, EJECTION_S * 2.0 ** min(times, 16))
