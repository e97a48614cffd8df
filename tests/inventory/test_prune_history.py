"""`manage.py prune_history`: forgets what is older than it was told, and nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from registry_admin.inventory.models import HealthTransition, Service, SyncRun

pytestmark = pytest.mark.django_db


@pytest.fixture
def prune(capsys):
    """`prune("--dry-run", …)`: what the command printed."""

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
    Service.objects.create(name="api")


def test_a_month_is_kept_unless_told_otherwise(prune):
    assert prune() == "deleted 1 run(s) and 1 health transition(s)"
    assert (SyncRun.objects.count(), HealthTransition.objects.count(), Service.objects.count()) == (2, 2, 1)


def test_the_setting_is_heeded_and_the_option_goes_before_it(prune, settings):
    settings.REGISTRY = {"HISTORY_KEPT": "120h"}
    assert prune("--dry-run") == "would delete 2 run(s) and 2 health transition(s)"
    assert prune("--older-than", "720h") == "deleted 1 run(s) and 1 health transition(s)"
    assert prune() == "deleted 1 run(s) and 1 health transition(s)"


def test_a_dry_run_deletes_nothing(prune):
    prune("--dry-run", "--older-than", "1s")
    assert (SyncRun.objects.count(), HealthTransition.objects.count()) == (3, 3)


@pytest.mark.parametrize("length", ["30d", "10", "-1h", "", "1e999h", "99999999999h"])
def test_a_length_that_is_none_is_refused_and_deletes_nothing(prune, length):
    with pytest.raises(CommandError, match="--older-than"):
        prune(f"--older-than={length}")
    assert SyncRun.objects.count() == 3


def test_without_its_tables_it_says_what_to_do(prune):
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE inventory_syncrun RENAME TO moved_away")
    with pytest.raises(CommandError, match="migrate"):
        prune()
