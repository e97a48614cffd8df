"""Adopting instances that others registered: they are declared as they are in Consul at that moment."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import transaction

from registry_admin.consul import Health, Place, ServiceInstance, ServiceSpec
from registry_admin.consul.addresses import is_loopback, is_this_machine
from registry_admin.consul.check_probe import probe_instance
from registry_admin.consul.checks import CheckKind
from registry_admin.consul.marks import Owner
from registry_admin.consul.one_agent import on_one_agent
from registry_admin.errors import RegistryError
from registry_admin.inventory import selectors
from registry_admin.inventory.conf import conf, consul_api
from registry_admin.inventory.models import Instance, ObservedInstance, Service
from registry_admin.inventory.sync.handover import HandoverResult
from registry_admin.reconcile.adoption import adoption_changes
from registry_admin.reconcile.plan import FieldChange

PROBES_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class AdoptionPreview:
    """What adopting an instance would do: `refusal` is why it can't be, `changes` is what it would change in Consul."""

    consul_id: str
    refusal: str = ""
    changes: tuple[FieldChange, ...] = ()
    instance: ServiceInstance | None = None

    @property
    def text(self) -> str:
        """The effect in words."""
        if self.refusal:
            return f"left alone: {self.refusal}"
        if not self.changes:
            return "declared and marked as ours; nothing else changes"
        changes = "; ".join(f"{change.field}: {change.before} -> {change.after}" for change in self.changes)
        return f"declared, marked as ours, and changed: {changes}"


def preview_adoption(rows: Iterable[ObservedInstance]) -> list[AdoptionPreview]:
    """Returns what adopting these instances would do, in the order of their services. Writes nothing.

    Each is read from our agent: what the mirror knows may be old. An instance is refused where registering it anew
    would break it, such as one of the mesh, or one that the check of its declared service would make critical.
    """
    chosen = sorted(rows, key=lambda row: (row.service_name, row.consul_id))
    try:
        with on_one_agent(consul_api()) as api:
            registered, agent = api.agent_instances(), api.identity
    except RegistryError as error:
        return [AdoptionPreview(consul_id=row.consul_id, refusal=str(error)) for row in chosen]
    owner = selectors.read_owner()
    previews: list[AdoptionPreview] = []
    specs: list[ServiceSpec] = []
    with transaction.atomic():
        for row in chosen:
            instance = registered.get(row.consul_id)
            is_here = row.node.lower() == agent.name.lower()
            if instance is None or not is_here:
                elsewhere = f"it is on node {row.node}, and can only be changed through that node's own agent"
                refusal = "it isn't in Consul any more" if is_here else elsewhere
                previews.append(AdoptionPreview(consul_id=row.consul_id, refusal=refusal))
                continue
            placed = replace(instance, node=row.node, datacenter=row.datacenter)
            preview, spec = _preview(placed, owner, peers=_peers(placed, registered.values(), chosen))
            previews.append(preview)
            specs += [spec] if spec is not None else []
        transaction.set_rollback(True)
    refusals = _broken_by_their_check(previews, specs)
    return [
        replace(preview, refusal=refusals[preview.consul_id]) if preview.consul_id in refusals else preview
        for preview in previews
    ]


def adopt(rows: Iterable[ObservedInstance], *, accept_changes: bool = True) -> HandoverResult:
    """Declares instances as they are in Consul; a single run, on commit, sets our owner mark on all of them.

    An instance keeps its checks, unless its service is declared already: then it takes that service's check. Without
    `accept_changes`, an instance that would be changed so is left alone.
    """
    previews = preview_adoption(rows)
    refused = {preview.consul_id: preview.refusal for preview in previews if preview.refusal}
    if not accept_changes:
        where = "confirm that in the list of instances in Consul"
        refused |= {
            preview.consul_id: f"it would be {preview.text.partition('and ')[2]}; {where}"
            for preview in previews
            if preview.changes and not preview.refusal
        }
    accepted = [preview.instance for preview in previews if preview.consul_id not in refused and preview.instance]
    done: list[str] = []
    with transaction.atomic():
        for instance in accepted:
            try:
                with transaction.atomic():
                    _declare(instance, peers=[peer for peer in accepted if peer.service == instance.service])
                done.append(instance.id)
            except ValidationError as error:  # somebody has declared something meanwhile
                refused[instance.id] = _error_text(error)
    return HandoverResult(done=tuple(done), refused=refused)


def _peers(
    instance: ServiceInstance, registered: Iterable[ServiceInstance], chosen: Sequence[ObservedInstance]
) -> list[ServiceInstance]:
    """Returns the instances that are adopted together with this one into its service."""
    ids = {row.consul_id for row in chosen}
    return [peer for peer in registered if peer.service == instance.service and peer.id in ids]


def _preview(
    instance: ServiceInstance, owner: Owner, *, peers: Collection[ServiceInstance]
) -> tuple[AdoptionPreview, ServiceSpec | None]:
    """Returns the preview, and what would be registered. Declares the instance within the caller's transaction."""
    refusal = _refusal(instance, owner)
    if not refusal:
        try:
            with transaction.atomic():
                spec = _declare(instance, peers=peers)
        except ValidationError as error:
            refusal = _error_text(error)
        else:
            changes = adoption_changes(spec, instance)
            return AdoptionPreview(consul_id=instance.id, changes=changes, instance=instance), spec
    return AdoptionPreview(consul_id=instance.id, refusal=refusal, instance=instance), None


def _refusal(instance: ServiceInstance, owner: Owner) -> str:
    """Returns why an instance must not be adopted, else nothing."""
    if reason := _mark_refusal(instance, owner):
        return reason
    if instance.uncarried:
        return instance.uncarried_text
    if Instance.objects.filter(consul_id__iexact=instance.id).exists():
        return "it is declared already"
    return ""


def _mark_refusal(instance: ServiceInstance, owner: Owner) -> str:
    """Returns why the mark of an instance forbids its adoption, else nothing."""
    mark = instance.mark
    if instance.has_unreadable_mark:
        return "its mark can't be read, or a newer version of Registry Admin has written it"
    is_foreign = instance.owner not in ("", owner.name) if mark is None else mark.inventory != owner.inventory
    if is_foreign:
        return f"another inventory owns it: {instance.owner}"
    if mark is not None and not instance.is_in_marked_place:
        return "its mark was made for another place: take it over with manage.py take_over_registry --from-node"
    return ""


def _declare(instance: ServiceInstance, *, peers: Collection[ServiceInstance]) -> ServiceSpec:
    """Declares an instance as it is, and returns what is registered for it. Raises ValidationError.

    A service that is declared with it keeps the checks that its instances have in Consul; nothing tells whether and
    when they are evicted, so that isn't declared.
    """
    service = Service.objects.filter(name__iexact=instance.service).first()
    if service is None:
        kind = CheckKind.KEEP if any(peer.own_checks for peer in peers) else CheckKind.NONE
        service = Service(name=instance.service, check_kind=kind.value, deregister_after="")
        service.full_clean()
        service.save()
    row = Instance(
        service=service,
        address=instance.registered_address,
        port=instance.port,
        consul_id=instance.id,
        weight=instance.weight,
        warning_weight=instance.warning_weight,
        tag_override=instance.tag_override,
        tagged_addresses=dict(instance.tagged_addresses),
        extra_tags=[tag for tag in instance.tags if tag not in service.tags],
        extra_meta={key: value for key, value in instance.user_meta.items() if service.meta.get(key) != value},
    )
    row.id_is_given = True
    row.full_clean()
    row.save()
    if not instance.registered_itself:  # no fields of the form, and validation clears them for a new ID
        place: Place = instance.place
        Instance.objects.filter(pk=row.pk).update(claimed_datacenter=place.datacenter, claimed_node=place.node)
    return row.spec()


def _broken_by_their_check(previews: Sequence[AdoptionPreview], specs: Iterable[ServiceSpec]) -> dict[str, str]:
    """Returns why instances that pass now would turn critical, by ID: the check that they would get fails on them."""
    passing = {
        preview.consul_id
        for preview in previews
        if preview.instance is not None and preview.instance.health is Health.PASSING
    }
    is_near = is_this_machine(consul_api().config.host)
    probed = [
        spec
        for spec in specs
        if spec.id in passing
        and spec.check.type.is_registered
        and spec.probe is not None
        and (is_near or not (spec.address == "" or is_loopback(spec.address)))
    ]
    if not probed:
        return {}
    probe = partial(probe_instance, rules=conf.target_rules)
    with ThreadPoolExecutor(min(PROBES_AT_ONCE, len(probed))) as pool:
        results = list(zip(probed, pool.map(probe, probed), strict=True))
    return {
        spec.id: f"the check of service {spec.name} fails on it ({result.text}), and would make it critical"
        for spec, result in results
        if not result.is_passing
    }


def _error_text(error: ValidationError) -> str:
    """Returns the error's messages, each with the name of its field."""
    if not hasattr(error, "error_dict"):
        return "; ".join(error.messages)
    return "; ".join(
        text if name == NON_FIELD_ERRORS else f"{name}: {text}"
        for name, texts in error.message_dict.items()
        for text in texts
    )
