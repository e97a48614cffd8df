"""What the brake judges removals by: the declarations, the removals of the last minutes, and what people confirmed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from django.db.models import Q
from django.utils import timezone

from registry_admin.consul import Health, ServiceInstance
from registry_admin.inventory.conf import conf
from registry_admin.inventory.models import Instance, ObservedInstance, RemovalApproval, SyncRun, SyncStatus
from registry_admin.reconcile.brake import Approval, Brake, Limits, Member, Removal
from registry_admin.reconcile.plan import Action, Cause, Declared, Plan, PlanItem

APPROVALS_HOLD_FOR = timedelta(hours=1)
_MOST_IDS_IN_QUERY = 500


def limits() -> Limits:
    """Returns the limits that the settings name."""
    return Limits(free=conf.removal_count, share=conf.removal_share, window_s=conf.removal_window_s)


def brake_for(plan: Plan, declared: Collection[Declared], present: Mapping[str, ServiceInstance]) -> Brake:
    """Returns what the plan's removals are judged by. `present`: the declared instances in Consul, by ID.

    Two queries where the plan removes something, none where it doesn't.
    """
    removals, blocked = plan.removals, f"this is in doubt ({plan.doubt})" if plan.doubt else ""
    if not removals:
        return Brake(limits=limits(), blocked=blocked)
    now = timezone.now()
    ledger = _Ledger(now)
    items = {item.id: item for item in plan.items if item.spec is not None}
    own_node = next((item.node for item in removals), "")
    members = []
    for declaration in declared:
        spec, instance = declaration.spec, present.get(declaration.spec.id)
        if not declaration.enabled:
            continue
        item = items.get(spec.id)
        node = instance.node if instance else ""
        stands = _stands(item, instance)
        members.append(Member(spec.name, node or own_node * stands, spec.id, stands=stands))
    return Brake(
        members=members,
        recent=ledger.removals,
        new=ledger.new | {item.id for item in plan.items if _is_first(item)},
        moved=_moved([item.id for item in removals] + [removal.id for removal in ledger.removals]),
        approvals=approvals([item.id for item in removals], now=now),
        limits=limits(),
        blocked=blocked,
    )


def brake_for_declarations(without: Collection[str], *, arriving: Collection[Member] = ()) -> Brake:
    """Returns what the brake judges by, as far as the mirror knows, once `without` are no longer declared or enabled.

    `without` has instance IDs; `arriving` will be declared then. Few queries; Consul isn't asked.
    """
    now, gone = timezone.now(), set(without)
    ledger = _Ledger(now)
    present = ObservedInstance.objects.filter(declared=True).order_by().values_list("consul_id", "node", "health")
    in_consul = {consul_id: (node, health) for consul_id, node, health in present}
    rows = Instance.objects.filter(enabled=True, service__enabled=True).order_by()
    members = list(arriving)
    for consul_id, service, status in rows.values_list("consul_id", "service__name", "sync_status"):
        if consul_id in gone:
            continue
        node, health = in_consul.get(consul_id, ("", ""))
        is_ours = status in (SyncStatus.SYNCED, SyncStatus.OUT_OF_SYNC)
        stands = bool(node) and is_ours and health != Health.CRITICAL
        members.append(Member(service, node, consul_id, stands=stands))
    return Brake(
        members=members,
        recent=ledger.removals,
        new=ledger.new | {member.id for member in arriving},
        moved=_moved([*gone, *(removal.id for removal in ledger.removals)]),
        approvals=dict.fromkeys(gone, Approval.NAMED),
        limits=limits(),
    )


def approvals(consul_ids: Collection[str], *, now: datetime) -> dict[str, Approval]:
    """Returns how far people have confirmed the removal of these instances, within the last hour."""
    rows = RemovalApproval.objects.filter(approved_at__gt=now - APPROVALS_HOLD_FOR).order_by()
    if len(consul_ids) <= _MOST_IDS_IN_QUERY:
        rows = rows.filter(consul_id__in=consul_ids)
    given = set(consul_ids)
    found = rows.values_list("consul_id", "approval")
    return {consul_id: Approval(approval) for consul_id, approval in found if consul_id in given}


class _Ledger:
    """What the runs of the window have removed, and registered for the first time. One query.

    A removal whose number a person has confirmed isn't in it, nor one that failed, nor one whose place another took.
    """

    def __init__(self, now: datetime) -> None:
        self.removals: list[Removal] = []
        self.new: set[str] = set()
        changed = Q(deregistered__gt=0) | Q(registered__gt=0) | Q(updated__gt=0)
        unfinished = Q(outcome__in=[SyncRun.Outcome.RUNNING, SyncRun.Outcome.ABANDONED, SyncRun.Outcome.INTERRUPTED])
        since = now - timedelta(seconds=conf.removal_window_s)
        runs = SyncRun.objects.filter(changed | unfinished, started_at__gt=since).order_by("pk")
        for items in runs.values_list("items", flat=True):
            for item in items:
                self._add(item)

    def _add(self, item: Mapping[str, object]) -> None:
        if not item.get("ok", True):
            return
        consul_id, service, node = (str(item.get(key, "")) for key in ("id", "service", "node"))
        if item.get("action") == Action.REGISTER and item.get("cause_code") == Cause.NEVER_REGISTERED:
            self.new.add(consul_id)
        elif item.get("confirmed") or item.get("replaced") or item.get("cause_code") == Cause.ORPHANED:
            return
        elif item.get("action") == Action.DEREGISTER:
            self.removals.append(Removal(service, node, consul_id))
        elif item.get("action") == Action.UPDATE and (former := _former_name(item)):
            self.removals.append(Removal(former, node, consul_id, renamed=True))


def _moved(consul_ids: Collection[str]) -> dict[str, str]:
    """Returns the present ID of each declaration that had one of these IDs, and has another now. One query."""
    given = set(consul_ids)
    history = Instance.history.filter(consul_id__in=given) if len(given) <= _MOST_IDS_IN_QUERY else Instance.history
    former = dict(history.order_by().values_list("consul_id", "id"))
    keys = {key for consul_id, key in former.items() if consul_id in given}
    present = dict(Instance.objects.filter(pk__in=keys).order_by().values_list("pk", "consul_id"))
    moved = {consul_id: present.get(key, "") for consul_id, key in former.items() if consul_id in given}
    return {before: after for before, after in moved.items() if after and after != before}


def _former_name(item: Mapping[str, object]) -> str:
    changes = item.get("changes")
    for change in changes if isinstance(changes, list) else []:
        if change.get("field") == "name" and str(change["before"]).lower() != str(change["after"]).lower():
            return str(change["before"])
    return ""


def _is_first(item: PlanItem) -> bool:
    return item.action is Action.REGISTER and item.cause is Cause.NEVER_REGISTERED


def _stands(item: PlanItem | None, instance: ServiceInstance | None) -> bool:
    """Returns whether callers find the declared instance after the plan was applied."""
    if item is not None and item.action is Action.REGISTER:
        return True
    if instance is None or instance.health is Health.CRITICAL:
        return False
    return item is None or item.action is Action.UPDATE or item.cause is Cause.OTHER_NODE
