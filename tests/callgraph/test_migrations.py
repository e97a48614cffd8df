"""Migration of CallCount from the inventory app to the callgraph app."""

from __future__ import annotations

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from registry_admin.callgraph.models import CallCount
from tests.parts.audit_trail import release_trail

pytestmark = pytest.mark.django_db(transaction=True)

FORMER = [("inventory", "0005_dashboard"), ("callgraph", None)]


@pytest.fixture
def former_apps():
    """Models of the state before the migration; migrates forwards again afterwards."""
    latest = MigrationExecutor(connection).loader.graph.leaf_nodes()
    executor = MigrationExecutor(connection)
    executor.migrate(FORMER)
    yield MigrationExecutor(connection).loader.project_state([FORMER[0]]).apps
    MigrationExecutor(connection).migrate(latest)
    release_trail()


def test_migrate_from_the_former_state_keeps_rows_and_permissions(former_apps):
    at = timezone.now()
    former = former_apps.get_model("inventory", "CallCount")
    former.objects.create(at=at, caller="web", called="api", calls=7, failures=2, milliseconds=1.5, slowest_ms=1)
    content_types = ContentType.objects
    content_types.filter(app_label__in=["inventory", "callgraph"], model="callcount").delete()
    former_type = content_types.create(app_label="inventory", model="callcount")
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())
    row = CallCount.objects.get()
    assert (row.at, row.caller, row.called, row.calls, row.failures) == (at, "web", "api", 7, 2)
    moved = content_types.get(pk=former_type.pk)
    assert (moved.app_label, moved.model) == ("callgraph", "callcount")
