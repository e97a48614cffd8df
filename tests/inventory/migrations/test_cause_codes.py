"""Migration 0007: causes become codes, and past runs keep their sentence beside the code."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.apps import apps
from django.db import connection

from registry_admin.inventory.models import Instance, ObservedInstance, SyncRun
from registry_admin.reconcile.plan import Cause
from tests.parts import mirrored

migration = import_module("registry_admin.inventory.migrations.0007_cause_codes")


def test_codes_are_those_of_the_causes():
    assert migration.CODES.items() <= {cause.label: cause.value for cause in Cause}.items()


@pytest.mark.django_db
def test_migration_turns_sentences_into_codes_and_back():
    mirrored.declare("api", 1)
    Instance.objects.update(sync_cause="edited by hand")
    ObservedInstance.objects.update(sync_cause="someone else's")
    SyncRun.objects.create(items=[{"id": "api-1", "cause": "removed by hand"}, {"id": "api-2", "cause": ""}])

    migration.codes_from_sentences(apps, connection.schema_editor())
    assert (Instance.objects.get().sync_cause, ObservedInstance.objects.get().sync_cause) == ("edited", "foreign")
    assert [(item["cause"], item["cause_code"]) for item in SyncRun.objects.get().items] == [
        ("removed by hand", "removed"),
        ("", ""),
    ]

    migration.sentences_from_codes(apps, connection.schema_editor())
    assert Instance.objects.get().sync_cause == "edited by hand"
