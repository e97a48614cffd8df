"""`manage.py prune_history`: deletes history that is old enough, and nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from registry_admin.callgraph.models import CallCount
from registry_admin.inventory.models import HealthTransition, ObservationGap, Service, SyncRun

pytestmark = pytest.mark.django_db


@pytest.fixture
def prune(capsys):
    """Returns `prune("--dry-run", …)`: runs the command and returns its output."""

    def run(*arguments: str) -> Any:
        call_command("prune_history", *arguments)
        return capsys.readouterr().out.strip()

    return run


@pytest.fixture(autouse=True)
def _rows(db):
    for days in (0, 10, 40):
        at = timezone.now() - timedelta(days=days)
        SyncRun.objects.create(trigger="watch", outcome="done", started_at=at)
        HealthTransition.objects.create(at=at)
        ObservationGap.objects.create(began_at=at, ended_at=at)
        CallCount.objects.create(at=at, caller="api", called="db")
    Service.objects.create(name="api")


def rows(number: int) -> str:
    of_history = f"{number} run(s), {number} health transition(s), 0 audit event(s), {number} observation gap(s)"
    return f"{of_history}, 0 ended session(s), 0 expired login count(s) and {number} call count(s)"


def test_prune_history_deletes_and_reports_each_kind_older_than_a_month(prune):
    assert prune() == f"deleted {rows(1)}"
    kinds = (SyncRun, HealthTransition, ObservationGap, CallCount)
    assert [kind.objects.count() for kind in kinds] == [2, 2, 2, 2]
    assert Service.objects.count() == 1


def test_prune_history_option_overrides_the_setting(prune, settings):
    settings.REGISTRY = {"HISTORY_KEPT": "120h"}
    assert prune("--dry-run") == f"would delete {rows(2)}"
    assert prune("--older-than", "720h") == f"deleted {rows(1)}"
    assert prune() == f"deleted {rows(1)}"


def test_prune_history_dry_run_deletes_no_rows(prune):
    prune("--dry-run", "--older-than", "1s")
    assert (SyncRun.objects.count(), HealthTransition.objects.count()) == (3, 3)


@pytest.mark.parametrize("length", ["30d", "10", "-1h", "", "1e999h", "99999999999h"])
def test_prune_history_invalid_duration_is_an_error(prune, length):
    with pytest.raises(CommandError, match="--older-than"):
        prune(f"--older-than={length}")
    assert SyncRun.objects.count() == 3


def test_prune_history_without_tables_says_to_migrate(prune):
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE inventory_syncrun RENAME TO moved_away")
    with pytest.raises(CommandError, match="migrate"):
        prune()
