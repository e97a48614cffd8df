"""What is remembered, from look to look, of differences between our agent and the catalog."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from registry_admin.consul import Snapshot
from registry_admin.inventory.models import ConsulContact
from registry_admin.inventory.sanitize import sanitized
from registry_admin.reconcile.divergence import NO_DIVERGENCE, Difference, Divergence, follow, sync_interval

PUSH_S = 0.5  # an agent that can tell the catalog has done so by then
SETTLED_S = 2.0  # after a run that has written: where the catalog isn't told of that, nothing else wakes a watcher


def observe(snapshot: Snapshot, *, now: datetime, changed: Collection[str] = ()) -> Divergence:
    """Returns what differs, with since when. At most one query, and none where nothing differs.

    `changed`: the IDs of what was just written, of which the catalog may not know yet.
    """
    comparison = snapshot.catalog
    if comparison is None or not comparison.ids:
        return NO_DIVERGENCE
    return follow(
        comparison.without(changed), _known(snapshot), now=now, interval=sync_interval(len(snapshot.nodes) + 1)
    )


def to_json(divergence: Divergence) -> dict[str, Any]:
    """Returns what a later look needs, for ConsulContact."""
    return {
        sanitized(key): {"text": sanitized(difference.text), "since": difference.since.isoformat()}
        for key, difference in divergence.differences.items()
    }


def _known(snapshot: Snapshot) -> dict[str, Difference]:
    stored = ConsulContact.objects.filter(pk=1, node=snapshot.node).values_list("divergence", flat=True).first()
    return {
        key: Difference(entry["text"], datetime.fromisoformat(entry["since"])) for key, entry in (stored or {}).items()
    }
