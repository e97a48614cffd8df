"""The evictor: decides which critical instances to deregister, and probes evicted ones until they recover."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from django.utils import timezone

from registry_admin.consul import ConsulConfig, Health, ServiceInstance, ServiceSpec, Snapshot, validation
from registry_admin.inventory import selectors
from registry_admin.inventory.database import database_errors
from registry_admin.inventory.models import ConsulContact, EvictionHalt, ObservationGap
from registry_admin.inventory.selectors import Inventory, RecentChanges
from registry_admin.inventory.watcher.halt_journal import HaltJournal, ended_halts
from registry_admin.reconcile import eviction
from registry_admin.reconcile.eviction import Clock, EvictionDecision, EvictionState, WatchedInstance
from registry_admin.reconcile.outage import Group, GroupKind, Place
from registry_admin.reconcile.ownership import is_issued_by
from registry_admin.reconcile.recovery import Answer, ProbeRequest, Purpose, RecoveryProber

UNKNOWN_CHECK_S = 15.0  # an interval and a time-out of a check whose definition isn't known
EVICTED_COUNTS = timedelta(minutes=10)  # so long an evicted instance counts for an outage
ANSWER_AGE_S = 15.0  # an older answer to our own probe says nothing


class Evictor:
    """Remembers the evictions of one leader from run to run.

    `on_recovery` is called on a thread of the prober, when a probe has said something that the next run must know.
    """

    def __init__(self, *, consul: ConsulConfig, on_recovery: Callable[[], object]) -> None:
        self._on_recovery = on_recovery
        self._prober = RecoveryProber(self._add_answer, consul_host=consul.host, rules=consul.target_rules)
        self._answers: dict[Place, tuple[bool, float]] = {}  # of instances about to be evicted, by the forward clock
        self._returning: dict[str, bool] = {}  # by ID: whether its check would pass
        self._journal = HaltJournal()
        self._state: EvictionState | None = None
        self._instances: tuple[WatchedInstance, ...] = ()
        self._specs: Mapping[str, ServiceSpec] = {}
        self._is_issued_by_us: Callable[[ServiceInstance], bool] = lambda _instance: False
        self._decision = EvictionDecision()
        self._decided_at: float | None = None  # by the forward clock; None after Consul couldn't be seen
        self._recent = RecentChanges(evictions={}, flapping={})
        self._node = ""
        self._alarm = ""
        self._first_check_in_s: float | None = None

    def decide(self, snapshot: Snapshot, inventory: Inventory) -> Mapping[str, str]:
        """Returns the reasons for eviction by instance ID, for instances of the snapshot's own node."""
        now = timezone.now()
        rows = self._journal.read(now)
        self._recent = selectors.recent_changes(now, halts=rows)
        self._node = snapshot.node
        self._specs = {declared.spec.id: declared.spec for declared in inventory.declared if declared.enabled}
        self._is_issued_by_us = partial(is_issued_by, owner=inventory.owner)
        self._instances = tuple(self._watched(snapshot, inventory, now))
        elapsed_s = self._elapsed_s()
        if self._state is None:
            self._state, elapsed_s = self._carried_state(snapshot, rows, now)
        state = replace(self._state, confirmed=self._state.confirmed | self._journal.confirmed)
        self._state = state = state.next(self._instances, elapsed_s=elapsed_s)
        self._decision = eviction.decide_evictions(state, self._instances)
        self._alarm = self._journal.alarm(self._decision, now)
        self._first_check_in_s = _first_check_in_s(snapshot, self._specs)
        return {place[-1]: reason for place, reason in self._decision.evict.items()}

    def lose_sight(self) -> None:
        """Takes note that Consul couldn't be seen: the time until the next look counts for nobody."""
        self._decided_at = None

    @property
    def halted(self) -> str:
        """Reason for evicting nothing, or not everything that is due, at present; or an empty string."""
        return " ".join(text for text in (self._decision.halted, self._alarm) if text)

    @property
    def is_alarming(self) -> bool:
        """True if a halt has lasted so long that a person must look."""
        return bool(self._alarm)

    def notes(self, contention: Mapping[str, str]) -> dict[tuple[str, str], str]:
        """Returns remarks by node and instance ID: flapping, `contention` on the own node, and eviction fights."""
        return {
            **self._recent.flapping,
            **{(self._node, instance_id): text for instance_id, text in contention.items()},
            **{(self._node, place[-1]): text for place, text in self._decision.contention.items()},
        }

    @property
    def recovered(self) -> frozenset[str]:
        """IDs of evicted instances that have answered, as their check wants, since `forget_returning`."""
        return frozenset(key for key, passes in self._returning.copy().items() if passes)

    @property
    def retried(self) -> frozenset[str]:
        """IDs of evicted instances that get another chance, since `forget_returning`: their own check will tell."""
        return frozenset(key for key, passes in self._returning.copy().items() if not passes)

    def forget_returning(self, instance_ids: Iterable[str]) -> None:
        """Removes these from `recovered` and `retried`, after a run that was given them."""
        for instance_id in instance_ids:
            self._returning.pop(instance_id, None)

    def schedule(self, evicted: Mapping[str, tuple[datetime, ServiceSpec]]) -> float | None:
        """Probes whom it must; returns the seconds until the next run is due, if any.

        Probed are evicted instances whose hold is over, and those about to be evicted. A run is due when a hold ends,
        when eviction needs another round, and when a first check must have run. `evicted` has the time of the eviction
        and the declared spec of every instance that is evicted now.
        """
        now = timezone.now()
        with database_errors():
            if self._state is not None:
                self._journal.write(self._state, self._instances, now)
            relapses = selectors.relapses(now, [(self._node, instance_id) for instance_id in evicted])
        waits_s = {
            instance_id: min(0.0, (evicted_at - now).total_seconds())
            + max(
                eviction.return_hold_s(relapses.get((self._node, instance_id), 0)),
                eviction.eviction_hold_s(self._recent.evictions.get((self._node, instance_id), 0)),
            )
            for instance_id, (evicted_at, _) in evicted.items()
        }
        self._probe({key: evicted[key][1] for key, wait_s in waits_s.items() if wait_s <= 0})
        due_s = [wait_s for wait_s in waits_s.values() if wait_s > 0]
        due_s += [s for s in (self._decision.next_in_s, self._first_check_in_s) if s is not None]
        return min(due_s, default=None)

    def stop(self) -> None:
        """Stops the probes."""
        self._prober.stop()

    # -- what is known ------------------------------------------------------------------------------------------------

    def _elapsed_s(self) -> float:
        """Returns the observed seconds since the last round."""
        now, decided_at = time.monotonic(), self._decided_at
        self._decided_at = now
        return 0.0 if decided_at is None else now - decided_at

    def _watched(self, snapshot: Snapshot, inventory: Inventory, now: datetime) -> Iterator[WatchedInstance]:
        """Yields what eviction judges and counts: each declared instance once, and what registers itself."""
        for instance in (*snapshot.local.values(), *snapshot.remote):
            is_local = instance.node == snapshot.node
            if is_local or instance.id not in snapshot.local or instance.id not in self._specs:
                watched = self._watched_instance(instance, is_local=is_local)
                if watched is not None:
                    yield watched
        for declared in inventory.declared:
            spec, row = declared.spec, inventory.rows[declared.spec.id]
            if declared.evicted_reason and row.evicted_at and now - row.evicted_at < EVICTED_COUNTS:
                groups = _groups(snapshot.node, spec.name)
                yield WatchedInstance(place=(snapshot.node, spec.id), service=spec.name, groups=groups)

    def _watched_instance(self, instance: ServiceInstance, *, is_local: bool) -> WatchedInstance | None:
        """Returns what eviction must know of an instance, or None where it is never evicted.

        Only the instance's own check counts, as for Consul: a failing check of the node, or one that somebody else
        added, doesn't prove the instance dead. One without a check, or in maintenance, proves nothing either.
        """
        spec = self._specs.get(instance.id)
        after = spec.evict_after if spec else instance.evict_after if instance.registered_itself else ""
        is_ours = self._is_issued_by_us(instance) or (instance.registered_itself and not instance.is_marked)
        own = [check for check in instance.checks if check.id.startswith(f"{instance.id}:")]
        if not (after and is_ours and own) or instance.health is Health.MAINTENANCE:
            return None
        critical = [check for check in own if check.status == "critical"]
        place = (instance.node, instance.id)
        return WatchedInstance(
            place=place,
            service=instance.service,
            groups=_groups(instance.node, instance.service),
            is_critical=bool(critical),
            is_starting=bool(critical) and not any(check.output for check in critical),
            evict_after_s=validation.seconds(after) if is_local else None,
            first_check_s=_first_check_s(spec),
            evictions=self._recent.evictions.get((instance.node, instance.id), 0),
            output=instance.output,
            answers=self._answer(place, spec),
        )

    def _answer(self, place: Place, spec: ServiceSpec | None) -> bool | None:
        """Returns whether the instance answers our own probe, None where that isn't known yet."""
        if spec is None or not self._prober.can_probe(spec):
            return False
        is_alive, at = self._answers.get(place, (False, float("-inf")))
        return is_alive if time.monotonic() - at <= ANSWER_AGE_S else None

    def _carried_state(
        self, snapshot: Snapshot, rows: Sequence[EvictionHalt], now: datetime
    ) -> tuple[EvictionState, float]:
        """Returns what the mirror knows from the leader before, and the observed seconds since its last look."""
        state = EvictionState(halts=self._journal.halts, confirmed=self._journal.confirmed)
        contact = ConsulContact.objects.filter(pk=1, reachable=True, node=snapshot.node).first()
        if contact is None or contact.seen_at is None:
            return state, 0.0
        gap_s, clocks = (
            (now - contact.seen_at).total_seconds(),
            self._carried_clocks(contact.seen_at, ended_halts(rows)),
        )
        return replace(state, clocks=clocks), gap_s if gap_s <= eviction.MAX_ROUND_S else 0.0

    def _carried_clocks(self, seen_at: datetime, halts_ended: Mapping[Group, datetime]) -> dict[Place, Clock]:
        gaps = list(ObservationGap.objects.filter(ended_at__gt=seen_at - timedelta(hours=1)))
        since = {
            (is_starting, key): at
            for is_starting in (False, True)
            for key, at in selectors.critical_since(self._node, starting=is_starting).items()
        }
        clocks = {}
        for instance in self._instances:
            at = since.get((instance.is_starting, instance.place[-1]))
            if at is not None and instance.place[0] == self._node:
                at = max([at, *(halts_ended[group] for group in instance.groups if group in halts_ended)])
                seconds = selectors.observed_s(at, seen_at, gaps)
                clocks[instance.place] = Clock(critical_s=seconds, counted_s=seconds, is_starting=instance.is_starting)
        return clocks

    # -- probes -------------------------------------------------------------------------------------------------------

    def _probe(self, evicted: Mapping[str, ServiceSpec]) -> None:
        suspects = {place: self._specs[place[-1]] for place in self._decision.probe if place[-1] in self._specs}
        self._answers = {place: answer for place, answer in self._answers.items() if place in suspects}
        self._prober.watch(
            {place: ProbeRequest(spec, Purpose.EVICTION) for place, spec in suspects.items()}
            | {(self._node, key): ProbeRequest(spec) for key, spec in evicted.items()}
        )

    def _add_answer(self, place: Place, answer: Answer, purpose: Purpose) -> None:
        if purpose is Purpose.EVICTION:
            before, _ = self._answers.get(place, (None, 0.0))
            self._answers = {**self._answers, place: (answer.is_alive, time.monotonic())}
            if before is answer.is_alive:
                return
        else:
            self._returning[place[-1]] = answer.is_passing
        self._on_recovery()


def _groups(node: str, service: str) -> tuple[Group, ...]:
    return (
        Group(GroupKind.DATACENTER, ""),
        Group(GroupKind.NODE, node.lower()),
        Group(GroupKind.SERVICE, service.lower()),
    )


def _first_check_s(spec: ServiceSpec | None) -> float:
    """Returns the seconds within which a check is sure to have run."""
    if spec is None:
        return UNKNOWN_CHECK_S
    return validation.seconds(spec.check.interval) + validation.seconds(spec.check.timeout)


def _first_check_in_s(snapshot: Snapshot, specs: Mapping[str, ServiceSpec]) -> float | None:
    """Returns the seconds after which the first check of a starting instance has run, or None if nothing is starting.

    Nothing else wakes the watcher where that check fails: critical it is already, and the agent keeps a mere change of
    output from the catalog for 5 minutes (check_update_interval):
    https://developer.hashicorp.com/consul/docs/reference/agent/configuration-file/general#check_update_interval
    """
    checks = (specs[key].check for key, instance in snapshot.local.items() if instance.is_starting and key in specs)
    seconds = [validation.seconds(check.interval) + min(validation.seconds(check.timeout), 1.0) for check in checks]
    return min(seconds, default=None)
