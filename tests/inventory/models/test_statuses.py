"""The table of sync statuses and healths, and everything that has to know each of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from registry_admin.consul import Health
from registry_admin.inventory.models import HEALTHS, SYNC_STATUSES, Colour, Instance, ObservedInstance, Service
from registry_admin.reconcile.plan import SyncStatus

ROOT = Path(__file__).parents[3]
STYLES = (ROOT / "registry_admin/inventory/static/inventory/inventory.css").read_text()
CELLS = (ROOT / "registry_admin/dashboard/static/dashboard/overview.css").read_text()
DOCS = (ROOT / "docs/reference/statuses.md").read_text()
STATUSES = [*HEALTHS.statuses, *SYNC_STATUSES.statuses]


def test_status_table_has_one_row_for_each_enum_member():
    assert sorted(HEALTHS.values) == sorted(Health)
    assert sorted(SYNC_STATUSES.values) == sorted(SyncStatus)


@pytest.mark.parametrize("axis", [HEALTHS, SYNC_STATUSES], ids=["health", "sync"])
def test_severities_and_labels_are_distinct(axis):
    assert len({status.severity for status in axis.statuses}) == len(axis.statuses)
    assert len({status.label for status in axis.statuses}) == len(axis.statuses)


@pytest.mark.parametrize("status", STATUSES, ids=lambda status: status.label)
def test_status_has_a_colour_in_the_stylesheets_and_a_line_in_the_docs(status):
    assert re.search(rf"\.status-{status.colour} {{ --chip: .*--shape: \"{status.colour.symbol}\"", STYLES)
    assert (".cell-absent {" if status.is_absent else f".cell.status-{status.colour} {{") in CELLS or (
        status.value not in HEALTHS.values
    )
    assert f"| {status.label} |" in DOCS


def test_colour_symbols_are_distinct():
    assert len({colour.symbol for colour in Colour}) == len(Colour)


def test_health_severity_is_that_of_consul():
    assert [status.value for status in HEALTHS.by_severity] == sorted(
        Health, key=lambda health: -Health(health).severity
    )


@pytest.mark.parametrize("axis", [HEALTHS, SYNC_STATUSES], ids=["health", "sync"])
def test_urgency_follows_severity(axis):
    urgent = [status.urgency for status in axis.by_severity if status.urgency is not None]
    assert urgent == sorted(urgent)
    assert all(status.urgency is not None for status in axis.by_severity[: len(urgent)])


@pytest.mark.parametrize("model", [Service, Instance, ObservedInstance])
def test_model_choices_are_those_of_the_table(model):
    assert list(model._meta.get_field("sync_status").choices) == SYNC_STATUSES.choices


@pytest.mark.django_db
@pytest.mark.parametrize("health", HEALTHS.values)
def test_rank_in_sql_is_the_rank_in_python(health):
    ObservedInstance.objects.create(consul_id="api-1", service_name="api", port=1, health=health, sync_status="synced")
    (rank,) = ObservedInstance.objects.values_list(HEALTHS.rank("health"), flat=True)
    assert (rank, HEALTHS.by_severity[rank].value) == (HEALTHS.rank_of(health), health)
