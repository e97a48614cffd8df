"""The journal of eviction halts: rows, so that a halt outlives a change of leader and a person can confirm it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta

from django.db.models import Q, QuerySet

from registry_admin.inventory import selectors
from registry_admin.inventory.conf import conf
from registry_admin.inventory.models import EvictionHalt
from registry_admin.inventory.sync.counters import CounterName, add_to_counters
from registry_admin.inventory.sync.runs import TRAIL_KEPT
from registry_admin.reconcile.eviction import EvictionDecision, EvictionState, WatchedInstance
from registry_admin.reconcile.outage import Group, GroupKind, Halt, Place

ALARM_AFTER = timedelta(minutes=30)
MAX_NAMES = 5


class HaltJournal:
    """The open halts and those of the last hour, as read at the beginning of a round."""

    def __init__(self) -> None:
        self._rows: Sequence[EvictionHalt] = ()

    def read(self, now: datetime) -> Sequence[EvictionHalt]:
        """Returns the rows: open halts, and those that have ended within the last hour."""
        self._rows = selectors.recent_halts(now)
        return self._rows

    @property
    def halts(self) -> dict[Group, Halt]:
        """The open halts, for a leader that begins: it doesn't know for how long a group has been calm."""
        return {_group(row): Halt() for row in self._rows if row.ended_at is None}

    @property
    def confirmed(self) -> frozenset[Place]:
        """Instances that a person has confirmed to be dead."""
        rows = (row for row in self._rows if row.ended_at is None and row.confirmed_at is not None)
        return frozenset(tuple(place) for row in rows for place in row.instances)

    def write(self, state: EvictionState, instances: Collection[WatchedInstance], now: datetime) -> None:
        """Opens, updates and closes rows as the state says."""
        known = {_group(row): row for row in self._rows if row.ended_at is None}
        for group in state.halts.keys() | known.keys():
            row = known.get(group)
            down = sorted(list(one.place) for one in instances if one.is_down and group in one.groups)
            total = sum(group in one.groups for one in instances)
            if group not in state.halts and row is not None and not _has_confirmed(row, state):
                EvictionHalt.objects.filter(pk=row.pk).update(ended_at=now)
            elif group in state.halts and row is None:
                fields = {"kind": str(group.kind), "name": group.name, "instances": down, "total": total}
                EvictionHalt.objects.create(began_at=now, **fields)
                add_to_counters({(CounterName.HALTS, str(group.kind)): 1})
                _old_halts(now).delete()
            elif row is not None and row.confirmed_at is None and (row.instances, row.total) != (down, total):
                # Only while nobody has confirmed it: what was confirmed are the instances of that moment.
                EvictionHalt.objects.filter(pk=row.pk, confirmed_at=None).update(instances=down, total=total)

    def alarm(self, decision: EvictionDecision, now: datetime) -> str:
        """Returns a text with names once a halt that withholds evictions has lasted for 30 minutes, else nothing."""
        rows = [
            row
            for row in self._rows
            if row.ended_at is None and _group(row) in decision.withheld and now - row.began_at >= ALARM_AFTER
        ]
        if not rows:
            return ""
        since = min(row.began_at for row in rows)
        names = sorted({place[-1] for row in rows for place in decision.withheld[_group(row)]})
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        return (
            f"This has lasted since {since:%Y-%m-%d %H:%M} UTC: {', '.join(names[:MAX_NAMES])}{more}. Mend them, or "
            "confirm among the eviction halts in the admin that they are dead."
        )


def ended_halts(rows: Iterable[EvictionHalt]) -> dict[Group, datetime]:
    """Returns when the last halt of each group has ended."""
    ended: dict[Group, datetime] = {}
    for row in rows:
        if row.ended_at is not None:
            ended[_group(row)] = max(row.ended_at, ended.get(_group(row), row.ended_at))
    return ended


def _old_halts(now: datetime) -> QuerySet[EvictionHalt]:
    """Returns halts to delete: one that a person has confirmed is part of the audit trail."""
    of_the_trail = Q(confirmed_at__gte=now - TRAIL_KEPT)
    return EvictionHalt.objects.exclude(of_the_trail).filter(
        ended_at__lt=now - timedelta(seconds=conf.history_retention_s)
    )


def _group(row: EvictionHalt) -> Group:
    return Group(GroupKind(row.kind), row.name)


def _has_confirmed(row: EvictionHalt, state: EvictionState) -> bool:
    """Returns whether an instance that was confirmed with this halt is still down."""
    return row.confirmed_at is not None and any(tuple(place) in state.confirmed for place in row.instances)
