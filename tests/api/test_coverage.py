"""Each page and each of its actions has an operation of the API, or a reason why it has none."""

from __future__ import annotations

import pytest

from registry_admin.api.urls import document
from registry_admin.inventory.admin.declarations import ServiceAdmin
from registry_admin.inventory.admin.history import EvictionHaltAdmin
from registry_admin.inventory.admin.observed import ObservedInstanceAdmin
from tests.access.walk_table import TABLE

OPERATIONS = {
    "dashboard:home": "listServices",
    "dashboard:service": "getService",
    "admin:inventory_service_changelist": "listServices",
    "admin:inventory_observedinstance_changelist": "listInstances",
    "admin:inventory_observedinstance_change": "listInstances",
}
HISTORY, WRITES, PROBE = "not built: history", "not built: the API only reads", "an address for programs already"
MISSING = {
    "dashboard:drift": "not built: drift, and what to do about it",
    "dashboard:map": "not built: the call graph",
    "dashboard:change-history": HISTORY,
    "dashboard:health-history": HISTORY,
    "dashboard:sync-history": HISTORY,
    "dashboard:sync-run": HISTORY,
    "dashboard:prune": WRITES,
    "dashboard:health": PROBE,
    "dashboard:ready": PROBE,
    "admin:inventory_service_import": WRITES,
    "admin:inventory_service_export": "not built: documents (manage.py export_registry writes them)",
}
MISSING_ACTIONS = {
    "delete_selected": WRITES, "sync_now": WRITES, "enable": WRITES, "disable": WRITES, "release": WRITES,
    "export": MISSING["admin:inventory_service_export"], "confirm": WRITES, "adopt": WRITES,
}  # fmt: skip


def test_each_page_has_its_operation_or_a_reason():
    pages = {name for name in TABLE if name.startswith("dashboard:")}
    assert pages == {name for name in OPERATIONS | MISSING if name.startswith("dashboard:")}


@pytest.mark.parametrize("admin_class", [ServiceAdmin, EvictionHaltAdmin, ObservedInstanceAdmin])
def test_each_action_has_a_reason(admin_class):
    assert admin_class.actions
    assert set(admin_class.actions) <= set(MISSING_ACTIONS)


def test_operations_are_those_of_the_document():
    operations = {operation["operationId"] for path in document()["paths"].values() for operation in path.values()}
    assert set(OPERATIONS.values()) | {"getStatus"} == operations
    assert set(OPERATIONS | MISSING) <= set(TABLE)
