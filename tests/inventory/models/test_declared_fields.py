"""Every declared field is exported, imported, audited, editable, in the snapshot row, and wakes the watcher."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.db import connection

from registry_admin.consul.snapshot import Snapshot
from registry_admin.inventory.admin.declarations import InstanceInline
from registry_admin.inventory.exchange import export_document, prepare_import
from registry_admin.inventory.exchange.formats import OWN_FORMATS
from registry_admin.inventory.models import Instance, Service
from registry_admin.inventory.models.declared_fields import declared_fields, registered_columns
from registry_admin.inventory.models.triggers import TRIGGER, trigger_columns, update_triggers
from registry_admin.inventory.selectors import read_inventory, read_owner
from registry_admin.inventory.watcher.declaration_listener import DECLARED_CHANNEL

VALUES: dict[str, Any] = {
    "name": "renamed", "description": "New", "owner": "team-new", "documentation_url": "https://docs.example/new",
    "tags": ["new"], "meta": {"new": "yes"}, "enabled": False, "check_kind": "tcp", "check_path": "/new",
    "check_scheme": "https", "check_interval": "17s", "check_timeout": "3s", "deregister_after": "70s",
    "address": "10.0.0.77", "port": 7777, "consul_id": "new-id", "weight": 7, "extra_tags": ["extra"],
    "extra_meta": {"extra": "yes"}, "warning_weight": 0, "tag_override": True,
    "tagged_addresses": {"wan": "203.0.113.5:80"}, "check_method": "POST", "check_headers": {"X-Key": "secret"},
    "check_body": "first\nsecond", "check_disable_redirects": True, "check_tls_skip_verify": True,
    "check_tls_server_name": "api.example", "check_grpc_service": "pkg.Api", "check_grpc_use_tls": True,
    "check_success_before_passing": 2, "check_failures_before_warning": 3, "check_failures_before_critical": 4,
}  # fmt: skip
FIELDS = [(model, field) for model in (Service, Instance) for field in declared_fields(model)]

every_field = pytest.mark.parametrize(("model", "field"), FIELDS, ids=[f"{m.__name__}.{f.name}" for m, f in FIELDS])


@pytest.fixture
def declared(db) -> None:
    service = Service.objects.create(name="api")
    Instance.objects.create(service=service, address="10.0.0.1", port=80)


def change(model: type[Service | Instance], name: str) -> Any:
    row = model.objects.get()
    setattr(row, name, VALUES[name])
    row.save()
    return row


def snapshot_row() -> Any:
    snapshot = Snapshot(node="node-1", node_id="1", local={})
    [row] = read_inventory(snapshot, read_owner()).rows.values()
    return row


@every_field
@pytest.mark.parametrize("fmt", OWN_FORMATS)
def test_declared_field_survives_export_and_import(declared, model, field, fmt):
    change(model, field.name)
    text = export_document(Service.objects.all(), fmt=fmt, with_secrets=True)
    Service.objects.all().delete()
    prepare_import(text).apply()
    assert getattr(model.objects.get(), field.name) == VALUES[field.name]


@every_field
def test_declared_field_changes_the_snapshot_row_if_it_is_registered(declared, model, field):
    before = snapshot_row()
    change(model, field.name)
    after = snapshot_row()
    assert (before.declaration != after.declaration) is field.is_registered
    assert after.spec() == Instance.objects.get().spec()


@every_field
def test_declared_field_is_audited(declared, model, field):
    row = change(model, field.name)
    latest, previous = row.history.all()[:2]
    assert getattr(latest, field.name) == VALUES[field.name]
    assert field.name in {entry.field for entry in latest.diff_against(previous).changes}


@every_field
def test_declared_field_is_in_the_form(operator, declared, model, field):
    context = operator.get(f"/admin/inventory/service/{Service.objects.get().pk}/change/").context
    form = context["adminform"].form if model is Service else context["inline_admin_formsets"][0].formset.forms[0]
    assert field.name in form.fields


@pytest.mark.parametrize("model", [Service, Instance])
@pytest.mark.django_db(transaction=True)
def test_registered_fields_alone_wake_the_watcher(declared, model):
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no notifications: the listener polls there")
    with connection.cursor() as cursor:
        cursor.execute(f"LISTEN {DECLARED_CHANNEL}")
    list(connection.connection.notifies(timeout=0))  # those of the rows' creation
    notifying = set()
    for field in declared_fields(model):
        model.objects.update(**{field.name: VALUES[field.name]})
        if list(connection.connection.notifies(timeout=0.1, stop_after=1)):
            notifying.add(field.name)
    assert notifying == {field.name for field in declared_fields(model) if field.is_registered}


@pytest.mark.parametrize("model", [Service, Instance])
def test_trigger_columns_are_the_registered_columns(db, model):
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no triggers of ours")
    assert trigger_columns(connection, model._meta.db_table) == set(registered_columns(model))


def test_trigger_with_a_missing_column_is_created_anew_after_migrate(db):
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no triggers of ours")
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TRIGGER {TRIGGER} ON inventory_service")
        cursor.execute(
            f"CREATE TRIGGER {TRIGGER} AFTER UPDATE OF name ON inventory_service "
            "FOR EACH STATEMENT EXECUTE FUNCTION inventory_declarations_changed()"
        )
    assert trigger_columns(connection, "inventory_service") == {"name"}
    update_triggers(using="default")
    assert trigger_columns(connection, "inventory_service") == set(registered_columns(Service))


def test_fields_that_syncing_writes_are_neither_declared_nor_audited():
    declared_names = {field.name for _, field in FIELDS}
    audited = {field.name for field in Instance.history.model._meta.fields}
    written = {"sync_status", "claimed_node", "applied_digest", "evicted_at", "updated_at", "differences"}
    assert {"address", "weight"} <= declared_names & audited
    assert not written & (declared_names | audited)


def test_admin_form_lists_the_declared_fields_in_their_sections():
    fieldsets = admin.site.get_model_admin(Service).fieldsets
    assert [list(options["fields"]) for _, options in fieldsets] == [
        ["name", "description", "owner", "documentation_url", "enabled"],
        ["tags", "meta"],
        [("check_kind", "check_scheme", "check_path"), ("check_interval", "check_timeout", "deregister_after")],
        [
            "check_method",
            "check_headers",
            "check_body",
            "check_disable_redirects",
            "check_tls_skip_verify",
            "check_tls_server_name",
            "check_grpc_service",
            "check_grpc_use_tls",
            "check_success_before_passing",
            "check_failures_before_warning",
            "check_failures_before_critical",
        ],
        ["removals"],
    ]
    assert list(InstanceInline.fields) == [field.name for field in declared_fields(Instance)]
