"""Completeness of a snapshot: tells missing instances from a blind token, an agent without state, or an empty reply."""

from __future__ import annotations

from django.db.models import QuerySet

from registry_admin.consul import Owner, Snapshot
from registry_admin.inventory.models import ConsulContact, ObservedInstance
from registry_admin.reconcile.ownership import is_issued_by
from registry_admin.reconcile.plan import Cause

MAX_VANISHING_INSTANCES = 3  # up to so many may go at once; more are not believed


def agent_lost_state(snapshot: Snapshot, owner: Owner) -> bool:
    """Returns whether the agent has lost its registrations: its node has another ID, or no owned instance is left.

    Takes at most two queries.
    """
    known_id = ConsulContact.objects.filter(pk=1, node=snapshot.node).values_list("node_id", flat=True).first()
    if known_id and known_id != snapshot.node_id:
        return True
    if any(is_issued_by(instance, owner) for instance in snapshot.local.values()):
        return False
    return _owned(snapshot).count() > MAX_VANISHING_INSTANCES


def incomplete_reason(snapshot: Snapshot) -> str:
    """Returns why the snapshot may lack instances, or an empty string.

    Takes at most two queries, and none for a snapshot with instances that nothing was filtered from. A token for some
    prefixes never sees all of Consul; that matters only where an owned instance is missing.
    """
    if snapshot.is_filtered and (missing := _missing_owned(snapshot)):
        return f"Consul has left out what the token may not read, and {missing} instance(s) of ours aren't to be seen"
    if snapshot.local or snapshot.is_confirmed_empty:
        return ""
    if not ConsulContact.objects.filter(pk=1, node=snapshot.node, node_id=snapshot.node_id).exists():
        return ""
    before = ObservedInstance.objects.filter(node=snapshot.node).exclude(sync_cause=Cause.ORPHANED).count()
    if before <= MAX_VANISHING_INSTANCES:
        return ""
    return f"the agent shows no instance at all, and had {before} at the last look"


def uncompared_reason(snapshot: Snapshot) -> str:
    """Returns why our node in the catalog wasn't compared with what its agent says, or an empty string."""
    if snapshot.catalog is not None or not snapshot.local:
        return ""
    return (
        f"the token may not read node {snapshot.node!r} in the catalog, so it isn't known whether callers find what "
        'the agent has. Its policy needs node_prefix or node with policy = "read", as docs/consul-policy.hcl has it'
    )


def _missing_owned(snapshot: Snapshot) -> int:
    ids = _owned(snapshot).order_by().values_list("consul_id", flat=True)
    return sum(instance_id not in snapshot.local for instance_id in ids)


def _owned(snapshot: Snapshot) -> QuerySet[ObservedInstance]:
    """Returns the mirrored instances of ours that the agent had."""
    return ObservedInstance.objects.filter(node=snapshot.node, owned=True).exclude(sync_cause=Cause.ORPHANED)
