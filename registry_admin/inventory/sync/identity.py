"""The revision that marks carry: counted up before each run that writes, and frozen where the database is behind."""

from __future__ import annotations

from dataclasses import replace

from django.db.models import F

from registry_admin.consul import Owner, Snapshot
from registry_admin.inventory import selectors
from registry_admin.inventory.models import InventoryIdentity
from registry_admin.reconcile.ownership import newest_revision


def observe(snapshot: Snapshot) -> Owner:
    """Returns this inventory, with the highest revision that Consul was ever seen to know."""
    owner = selectors.read_owner()
    newest = newest_revision((*snapshot.local.values(), *snapshot.remote), owner)
    return owner if newest <= owner.newest_revision else replace(owner, newest_revision=newest)


def record(owner: Owner) -> None:
    """Remembers that the database is behind, until a person acknowledges it: `acknowledge`."""
    if owner.is_behind:
        newest = owner.newest_revision
        InventoryIdentity.objects.filter(pk=1, newest_revision__lt=newest).update(newest_revision=newest)


def doubt(owner: Owner) -> str:
    """Returns why nothing may be removed, where the database is older than Consul; else an empty string."""
    if not owner.is_behind:
        return ""
    return (
        f"Consul knows newer declarations than this database (revision {owner.newest_revision}, here "
        f"{owner.revision}): it was probably restored from a backup. See what would change with: "
        "manage.py take_over_registry --restored --dry-run"
    )


def next_revision(owner: Owner) -> Owner:
    """Counts the revision up, and returns the owner with it. Where the database is behind, it stays as it is."""
    if owner.is_behind:
        return owner
    InventoryIdentity.objects.filter(pk=1).update(revision=F("revision") + 1)
    return selectors.read_owner()


def acknowledge(owner: Owner) -> Owner:
    """Goes on from the highest revision that Consul knows, because a person has seen that the database was restored.

    What the lost revisions have registered, and isn't declared, stays in doubt. Returns the owner from now on.
    """
    if not owner.is_behind:
        return owner
    lost_after = min(owner.revision, owner.lost_after) if owner.lost_until else owner.revision
    InventoryIdentity.objects.filter(pk=1).update(
        revision=owner.newest_revision, lost_after=lost_after, lost_until=owner.newest_revision
    )
    return selectors.read_owner()
