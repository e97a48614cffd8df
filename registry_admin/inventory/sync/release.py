"""Releasing own instances without changing them in Consul."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Lower

from registry_admin.consul import ConsulApi, Place, ServiceInstance
from registry_admin.consul.one_agent import on_one_agent
from registry_admin.errors import ConsulUnavailableError, RegistryError
from registry_admin.inventory import selectors
from registry_admin.inventory.bulk_update import BATCH
from registry_admin.inventory.conf import consul_api
from registry_admin.inventory.models import Instance, ReleasedInstance, Service
from registry_admin.inventory.sync import identity
from registry_admin.inventory.sync.handover import HandoverResult
from registry_admin.reconcile.diffed_fields import with_actual_values
from registry_admin.reconcile.ownership import is_issued_by
from registry_admin.reconcile.registered_checks import initial_status


def release(services: QuerySet[Service]) -> HandoverResult:
    """Takes our mark off in Consul, where the instances stay as they are, and then forgets the declarations.

    What remains in Consul is a note of the release, with a revision of its own, for a database that is restored later.

    On other nodes the mark stays, and is remembered as released: nobody prunes it there. What an instance was before it
    was moved, and still waits for it to pass, is released along.

    An instance that Consul doesn't take stays declared, and its service with it. Raises ConsulUnavailableError or
    ConsulRefusedError where Consul can't even be looked at.
    """
    owner = selectors.read_owner()
    with on_one_agent(consul_api()) as api:
        registered, agent = api.agent_instances(), api.identity
    rows = list(Instance.objects.filter(service__in=services).select_related("service").order_by("consul_id"))
    # From here on no run touches them.
    Instance.objects.filter(pk__in=[row.pk for row in rows]).update(released=True)
    refused: dict[str, str] = {}
    try:
        with on_one_agent(consul_api(), agent) as api:
            marked = {key: instance for key, instance in registered.items() if is_issued_by(instance, owner)}
            releasing = identity.next_revision(owner) if marked else owner
            refused |= _unmark(
                rows, marked, lambda key: releasing.release_marks(Place(agent.datacenter, agent.name, key)), api
            )
    except RegistryError as error:  # nobody knows which agent it was that took them
        refused = {row.consul_id: str(error) for row in rows}
    refused_keys = [row.pk for row in rows if row.consul_id in refused]
    Instance.objects.filter(pk__in=refused_keys).update(released=False)
    released = [row for row in rows if row.consul_id not in refused]
    with transaction.atomic():
        # Services are locked before instances, as the mirror's writer does: another order could end in a deadlock.
        list(Service.objects.select_for_update().filter(pk__in=services.values("pk")).order_by("pk"))
        Instance.objects.filter(pk__in=[row.pk for row in released]).delete()
        Service.objects.filter(pk__in=services.values("pk"), instances=None).delete()
        _keep_releases([key for row in released for key in (row.consul_id, *row.replaces)])
    return HandoverResult(done=tuple(row.consul_id for row in released), refused=refused)


def _unmark(
    rows: Iterable[Instance],
    marked: Mapping[str, ServiceInstance],
    release_marks: Callable[[str], Mapping[str, str]],
    api: ConsulApi,
) -> dict[str, str]:
    """Takes our mark off these instances. `marked`: what carries it, by ID. `release_marks`: what stays, for an ID.

    Returns the reasons of those where that failed, by service ID.
    """
    refused: dict[str, str] = {}
    unreachable = ""
    for row in rows:
        registered = (marked.get(key) for key in (row.consul_id, *row.replaces))
        present = [instance for instance in registered if instance is not None]
        uncarried = next((instance for instance in present if instance.uncarried), None)
        try:
            if unreachable:
                refused[row.consul_id] = unreachable
            elif uncarried is not None:
                refused[row.consul_id] = uncarried.uncarried_text
            else:
                for instance in (instance for instance in present if not instance.registered_itself):
                    spec = with_actual_values(replace(row.spec(), id=instance.id), instance)
                    marks = release_marks(instance.id)
                    api.register(spec, marks=marks, status=initial_status(spec, instance), observed=instance)
        except RegistryError as error:
            refused[row.consul_id] = str(error)
            if isinstance(error, ConsulUnavailableError) and error.status is None:
                unreachable = "not tried, because Consul is away"  # each attempt would wait for its timeout
    return refused


def _keep_releases(consul_ids: Sequence[str]) -> None:
    """Remembers the releases: on other nodes, whose agents we don't speak to, the instances still carry our mark."""
    keys = [consul_id.lower() for consul_id in consul_ids]
    former = ReleasedInstance.objects.annotate(key=Lower("consul_id"))
    for start in range(0, len(keys), BATCH):
        former.filter(key__in=keys[start : start + BATCH]).delete()
    ReleasedInstance.objects.bulk_create(
        [ReleasedInstance(consul_id=consul_id) for consul_id in consul_ids], batch_size=BATCH
    )
