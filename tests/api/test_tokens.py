"""Tokens for the API: shown once, stored as a hash, ended by time or by a person, and counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError
from django.test import Client
from django.utils import timezone

from registry_admin.api import authentication, tokens
from registry_admin.api.models import ApiToken
from registry_admin.api.tokens import make_token, recognize_token, record_use, revoke_token
from registry_admin.callgraph.tokens import make_token as make_module_token
from registry_admin.errors import InvalidValueError
from registry_admin.inventory.models import AuditEvent

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


def make(name: str = "pipeline", *, days: int = 1) -> tuple[ApiToken, str]:
    return make_token(name, days=days, now=NOON)


def status(token: str) -> int:
    return Client().get("/api/v1/status", headers={"Authorization": f"Bearer {token}"}).status_code


def test_make_token_stores_a_hash_and_records_who_made_it():
    row, text = make()
    key, _, secret = text.removeprefix("rat_").partition(".")
    assert (row.key, len(secret)) == (key, 43)
    assert secret not in str(list(ApiToken.objects.values_list()))
    event = AuditEvent.objects.get(action=AuditEvent.Action.API_TOKEN_MADE)
    assert (event.target, event.detail, event.actor) == ("pipeline", key, row.created_by)


@pytest.mark.parametrize(
    ("name", "days"), [("", 1), ("  ", 1), ("a" * 101, 1), ("a\nb", 1), ("a\x00", 1), ("a", 0), ("a", 3661)]
)
def test_make_token_with_a_wrong_value_is_refused(name, days):
    with pytest.raises(InvalidValueError):
        make(name, days=days)
    assert not ApiToken.objects.exists()


def test_token_is_recognized_until_it_ends():
    row, text = make()
    assert recognize_token(f"Bearer {text}", now=NOON + timedelta(hours=23)) == row
    assert recognize_token(f"Bearer {text}", now=NOON + timedelta(days=1)) is None


def test_token_with_another_secret_is_not_recognized():
    row, text = make()
    _, other = make("other")
    mixed = f"rat_{row.key}.{other.partition('.')[2]}"
    assert recognize_token(f"Bearer {mixed}", now=NOON) is None
    assert recognize_token(f"bearer {text}", now=NOON) == row


def test_revoked_token_is_refused_at_once():
    row, text = make_token("pipeline", days=1, now=timezone.now())
    assert status(text) == 200
    revoke_token(row.key, now=timezone.now())
    assert status(text) == 401
    assert AuditEvent.objects.get(action=AuditEvent.Action.API_TOKEN_REVOKED).target == "pipeline"
    with pytest.raises(InvalidValueError):
        revoke_token(row.key, now=timezone.now())


def test_token_of_a_module_opens_nothing_here():
    _, text = make_module_token("api")
    assert status(text) == 401


def test_use_is_recorded_once_a_minute():
    row, _ = make()
    for seconds, address in ((0, "192.0.2.1"), (59, "192.0.2.2"), (60, "192.0.2.3")):
        row.refresh_from_db()
        record_use(row, address=address, now=NOON + timedelta(seconds=seconds))
    row.refresh_from_db()
    assert (row.used_at, row.used_from) == (NOON + timedelta(seconds=60), "192.0.2.3")


def test_use_of_a_token_that_another_process_has_recorded_is_not_recorded_again():
    row, _ = make()
    stale = ApiToken.objects.get(pk=row.pk)
    record_use(row, address="192.0.2.1", now=NOON)
    record_use(stale, address="192.0.2.2", now=NOON + timedelta(seconds=1))
    row.refresh_from_db()
    assert row.used_from == "192.0.2.1"


def test_reading_goes_on_where_the_use_cannot_be_recorded(monkeypatch):
    row, text = make_token("pipeline", days=1, now=timezone.now())

    def fail(*_args: object, **_options: object) -> None:
        raise DatabaseError("cannot execute UPDATE in a read-only transaction")

    monkeypatch.setattr("django.db.models.query.QuerySet.update", fail)
    assert status(text) == 200
    row.refresh_from_db()
    assert row.used_at is None


def test_token_with_too_many_requests_is_429_and_others_are_not(monkeypatch):
    monkeypatch.setattr(authentication, "MAX_REQUESTS", 2)
    monkeypatch.setattr(authentication.time, "monotonic", lambda: 100.0)
    (_, first), (_, second) = (make_token(name, days=1, now=timezone.now()) for name in ("first", "second"))
    assert [status(first) for _ in range(3)] == [200, 200, 429]
    response = Client().get("/api/v1/status", headers={"Authorization": f"Bearer {first}"})
    assert (response["Retry-After"], response["Content-Type"]) == ("60", "application/problem+json")
    assert status(second) == 200


def run(*arguments: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command("api_token", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_command_prints_a_token_that_works_and_lists_it_without_its_secret():
    token, note = run("make", "the pipeline", "--days", "30")
    assert "shown only now" in note
    assert status(token.strip()) == 200
    listed, _ = run("list")
    assert "the pipeline: in use until" in listed
    assert "from 127.0.0.1" in listed
    assert token.strip().partition(".")[2] not in listed
    run("revoke", ApiToken.objects.get().key)
    assert "revoked" in run("list")[0]
    assert status(token.strip()) == 401


@pytest.mark.parametrize("arguments", [("make", ""), ("make", "x", "--days", "0"), ("revoke", "nothing")])
def test_command_names_what_is_wrong(arguments):
    with pytest.raises(CommandError, match=r"name|days|key"):
        run(*arguments)


def test_prefix_differs_from_the_one_of_modules():
    assert tokens.PREFIX == "rat_"
