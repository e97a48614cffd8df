"""Asks instances whether they answer: evicted ones, which Consul doesn't check any more, and those about to be."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from registry_admin.backoff import ExponentialBackoff
from registry_admin.consul import validation
from registry_admin.consul.addresses import is_loopback, is_this_machine
from registry_admin.consul.check_probe import ProbeResult, ProbeStage, probe_instance
from registry_admin.consul.check_targets import ANY_TARGET, TargetRules
from registry_admin.consul.service_spec import ServiceSpec
from registry_admin.reconcile.outage import Place

logger = logging.getLogger(__name__)

CONCURRENCY = 16
SERVICE_CONCURRENCY = 4  # so that one service's hanging instances never keep others waiting
SLOW_CONCURRENCY = 8  # the same for instances of many services that took long before
SLOW_S = 1.0
EAGER_TRIES = 10  # at the check's own interval
SLOWEST_S = 60.0
CONFIRMING_S = 5.0  # between the two answers that bring an instance back, at most
BLIND = ExponentialBackoff(first_s=60.0, longest_s=600.0)  # where there is nobody to ask


class Purpose(Enum):
    """Reasons for a probe."""

    RETURN = auto()  # it is evicted: does it answer again?
    EVICTION = auto()  # its check fails: does it answer us either?


class ProbeRequest(NamedTuple):
    """An instance to ask again and again, and what for."""

    spec: ServiceSpec
    purpose: Purpose = Purpose.RETURN


class Answer(NamedTuple):
    """What the probes of an instance say. `is_passing`: Consul's own check would pass too."""

    is_alive: bool
    is_passing: bool = False


@dataclass(eq=False)
class _Target:
    place: Place
    request: ProbeRequest
    due: float
    tries: int = 0
    undecided: int = 0
    answers: int = 0  # in a row
    is_slow: bool = False
    is_running: bool = False

    @property
    def service(self) -> str:
        return self.request.spec.name


class RecoveryProber:
    """Probes a set of instances from this machine, on threads of its own, and tells `on_answer` what it has learned.

    `consul_host` is where Consul is: an instance on loopback there can't be asked from another machine. Such, those
    whose check asks nobody (TTL), and those that need longer than a probe may take are said to answer after growing
    waits, so that they get another chance by their own check. `rules`: what isn't asked.
    """

    def __init__(
        self,
        on_answer: Callable[[Place, Answer, Purpose], object],
        *,
        consul_host: str = "127.0.0.1",
        random_share: Callable[[], float] = random.random,
        rules: TargetRules = ANY_TARGET,
    ) -> None:
        """`on_answer` gets an instance's place, on one of the threads, again and again while it is watched.

        For an evicted instance it is called after two answers in a row only, for the others after each probe.
        """
        self._on_answer = on_answer
        self._rules = rules
        self._near_consul = is_this_machine(consul_host)
        self._random_share = random_share
        self._targets: dict[Place, _Target] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._threads: list[threading.Thread] = []

    def watch(self, requests: Mapping[Place, ProbeRequest]) -> None:
        """Probes these instances and no others. Instances that are probed already keep their rhythm."""
        now = time.monotonic()
        with self._changed:
            known = self._targets
            self._targets = {
                place: known[place]
                if place in known and known[place].request == request
                else _Target(place, request, now + self._first_pause_s(request))
                for place, request in requests.items()
            }
            while not self._stopped and len(self._threads) < min(CONCURRENCY, len(self._targets)):
                thread = threading.Thread(target=self._work, name=f"probe-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify_all()

    def can_probe(self, spec: ServiceSpec) -> bool:
        """Returns whether the instance can be asked from this machine at all."""
        if spec.probe is None:
            return False
        return self._near_consul or not (spec.address == "" or is_loopback(spec.address))

    def stop(self) -> None:
        """Stops probing, without waiting for probes that are running."""
        with self._changed:
            self._stopped = True
            self._targets = {}
            self._changed.notify_all()

    def _work(self) -> None:
        while (target := self._take()) is not None:
            started, result = time.monotonic(), self._probe(target)
            with self._changed:
                target.is_running = False
                target.is_slow = time.monotonic() - started > SLOW_S
                answer = _record(target, result)
                target.due = time.monotonic() + self._pause_s(target, result)
                self._changed.notify()  # its next probe may be the first that is due
                if self._targets.get(target.place) is not target:
                    continue  # it was taken off, or declared otherwise, in the meantime
            if answer is not None:
                self._on_answer(target.place, answer, target.request.purpose)

    def _probe(self, target: _Target) -> ProbeResult:
        spec = target.request.spec
        if not self.can_probe(spec):
            return ProbeResult(stage=ProbeStage.NOT_PROBED, text="it can't be asked from here", is_undecided=True)
        return probe_instance(spec, rules=self._rules)

    def _take(self) -> _Target | None:
        """Waits for the next instance that is due and may be asked now, and returns it; None once stopped."""
        with self._changed:
            while not self._stopped:
                target = min(self._eligible(), key=lambda target: target.due, default=None)
                wait_s = None if target is None else target.due - time.monotonic()
                if target is not None and wait_s is not None and wait_s <= 0:
                    target.tries += 1
                    target.is_running = True
                    return target
                self._changed.wait(wait_s)
        return None

    def _eligible(self) -> list[_Target]:
        """Returns the instances that no limit keeps from being asked."""
        running = [target for target in self._targets.values() if target.is_running]
        by_service = Counter(target.service for target in running)
        is_slow_lane_full = sum(target.is_slow for target in running) >= SLOW_CONCURRENCY
        return [
            target
            for target in self._targets.values()
            if not target.is_running
            and by_service[target.service] < SERVICE_CONCURRENCY
            and not (target.is_slow and is_slow_lane_full)
        ]

    def _first_pause_s(self, request: ProbeRequest) -> float:
        if not self.can_probe(request.spec):
            return BLIND.first_s
        return 0.0 if request.purpose is Purpose.EVICTION else interval_s(request.spec) * self._random_share()

    def _pause_s(self, target: _Target, result: ProbeResult) -> float:
        interval = interval_s(target.request.spec)
        if target.request.purpose is Purpose.EVICTION:
            return min(interval, CONFIRMING_S)
        if result.is_undecided:
            return BLIND.pause_s(target.undecided + (not self.can_probe(target.request.spec)))
        if target.answers == 1:
            return min(interval / 2, CONFIRMING_S)
        return pause_s(interval, target.tries)


def _record(target: _Target, result: ProbeResult) -> Answer | None:
    """Counts the result, and returns what there is to tell, if anything."""
    target.answers = target.answers + 1 if result.is_alive else 0
    target.undecided = target.undecided + 1 if result.is_undecided else 0
    if target.request.purpose is Purpose.EVICTION:
        return Answer(is_alive=result.is_alive, is_passing=result.is_passing)
    if result.is_undecided:
        # What can't be asked at all gets its chance now; what is slow gets it when it was slow again.
        is_blind = result.stage is ProbeStage.NOT_PROBED
        return Answer(is_alive=True) if is_blind or target.undecided > 1 else None
    return Answer(is_alive=True, is_passing=result.is_passing) if target.answers >= 2 else None


def interval_s(spec: ServiceSpec) -> float:
    """Returns the seconds between two checks by Consul."""
    return validation.seconds(spec.check.interval)


def pause_s(interval: float, tries: int) -> float:
    """Returns the seconds to the next probe after `tries`: the check's interval, later growing up to a minute."""
    backoff = ExponentialBackoff(first_s=interval, longest_s=max(SLOWEST_S, interval))
    return backoff.pause_s(tries - EAGER_TRIES + 2)
