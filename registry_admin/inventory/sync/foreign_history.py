"""History of foreign instances, bounded: whoever may register at Consul decides how often they change."""

from __future__ import annotations

from collections.abc import Collection

from django.db.models import Exists, F, OuterRef, QuerySet, Window
from django.db.models.functions import RowNumber

from registry_admin.inventory.bulk_update import BATCH
from registry_admin.inventory.models import Health, HealthTransition, Instance

MAX_PER_INSTANCE = 100
MAX_IN_ALL = 200_000


def trim(places: Collection[tuple[str, str]]) -> None:
    """Deletes all but the newest changes of health of each instance, named by node and ID.

    What was before the oldest that stays isn't known any more, and the row says so.
    """
    ids = sorted({consul_id for _, consul_id in places})
    for start in range(0, len(ids), BATCH):
        _trim(ids[start : start + BATCH], places)


def _trim(ids: Collection[str], places: Collection[tuple[str, str]]) -> None:
    number = Window(RowNumber(), partition_by=["node", "consul_id"], order_by=F("pk").desc())
    numbered = HealthTransition.objects.filter(consul_id__in=ids).order_by().annotate(number=number)
    rows = numbered.filter(number__gte=MAX_PER_INSTANCE).values_list("pk", "node", "consul_id", "number")
    surplus, oldest = [], {}
    for pk, node, consul_id, position in rows:
        if (node, consul_id) in places and position > MAX_PER_INSTANCE:
            surplus.append(pk)
        elif (node, consul_id) in places:
            oldest[node, consul_id] = pk
    if surplus:
        HealthTransition.objects.filter(pk__in=surplus).delete()
        HealthTransition.objects.filter(pk__in=oldest.values()).update(before=Health.UNKNOWN)


def surplus_in_all() -> QuerySet[HealthTransition]:
    """Returns the changes of health of instances that aren't declared, beyond the newest `MAX_IN_ALL`."""
    declared = Instance.objects.filter(consul_id=OuterRef("consul_id"))
    foreign = HealthTransition.objects.filter(~Exists(declared)).order_by()
    newest_surplus = foreign.order_by("-pk").values("pk")[MAX_IN_ALL : MAX_IN_ALL + 1]
    return foreign.filter(pk__lte=newest_surplus)
