"""Tokens of modules: shown once, stored as a hash, each for one module, with a quota that is looked at first."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client

from registry_admin.callgraph import reports, tokens
from registry_admin.callgraph.models import CallCount, ModuleToken
from registry_admin.callgraph.tokens import make_token, recognize_token, revoke_token, take_report
from registry_admin.errors import InvalidValueError
from registry_admin.inventory.models import AuditEvent

pytestmark = pytest.mark.django_db

SHARED = "a shared token for tests"
CALLS = {"called": "backend-api", "calls": 10, "failures": 1, "milliseconds": 100.0, "slowest_ms": 40.0}
MINUTE = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


def post(token: str, caller: str = "research-api", *calls: dict[str, object], body: bytes | None = None):
    content = json.dumps({"caller": caller, "calls": calls or [CALLS]}).encode() if body is None else body
    headers = {"Authorization": f"Bearer {token}"}
    return Client().post("/api/calls", content, content_type="application/json", headers=headers)


def test_make_token_stores_a_hash_and_records_who_made_it():
    row, text = make_token("research-api")
    key, _, secret = text.removeprefix("rmt_").partition(".")
    assert (row.key, len(secret)) == (key, 43)
    assert secret not in str(list(ModuleToken.objects.values_list()))
    event = AuditEvent.objects.get(action=AuditEvent.Action.TOKEN_MADE)
    assert (event.target, event.detail) == ("research-api", key)


@pytest.mark.parametrize("module", ["", "a/b", "<script>", "a" * 200])
def test_make_token_for_what_is_no_service_is_refused(module):
    with pytest.raises(InvalidValueError):
        make_token(module)


def test_token_speaks_for_its_module_only():
    _, text = make_token("research-api")
    assert post(text).status_code == 204
    refused = post(text, "backend-api")
    assert (refused.status_code, refused.json()) == (403, {"error": "this token speaks for research-api only"})
    assert set(CallCount.objects.values_list("caller", flat=True)) == {"research-api"}
    event = AuditEvent.objects.get(action=AuditEvent.Action.PERMISSION_REFUSED)
    assert (event.actor, event.target) == ("module research-api", "backend-api")


def test_variants_of_the_modules_name_are_counted_as_one():
    _, text = make_token("research-api")
    assert [post(text, name).status_code for name in ("research-api", "Research-API")] == [204, 204]
    assert CallCount.objects.get().calls == 20


def test_shared_token_speaks_for_modules_without_a_token_of_their_own(settings):
    settings.REGISTRY_REPORT_TOKEN = SHARED
    assert post(SHARED).status_code == 204
    row, text = make_token("research-api")
    assert post(SHARED, "Research-API").status_code == 403
    assert post(SHARED, "backend-api").status_code == 204
    assert post(text).status_code == 204
    revoke_token(row.key)
    assert post(text).status_code == 401
    assert post(SHARED).status_code == 204


@pytest.mark.parametrize("text", [
    "", "rmt_", "rmt_0123456789abcdef.short", "\N{SNOWMAN}", f"rmt_0123456789abcde\N{FULLWIDTH DIGIT ONE}.{'a' * 43}",
    "a" * 10_000, "rmt_0123456789abcdef." + "a" * 44,
])  # fmt: skip
def test_token_without_the_form_of_one_costs_no_query(text, count_queries):
    assert count_queries(lambda: recognize_token(f"Bearer {text}", shared_token=SHARED)) == []
    assert recognize_token(f"Bearer {text}", shared_token=SHARED) is None


def test_wrong_secret_and_unknown_key_are_refused_alike():
    _, text = make_token("research-api")
    wrong = text[:-1] + ("a" if text[-1] != "a" else "b")
    unknown = f"rmt_{'0' * 16}.{text.partition('.')[2]}"
    answers = [post(token) for token in (wrong, unknown)]
    assert [(answer.status_code, answer.content) for answer in answers] == [(401, answers[0].content)] * 2
    assert answers[0]["WWW-Authenticate"] == "Bearer"
    assert post(text).status_code == 204


def test_quota_is_looked_at_before_the_body(monkeypatch):
    monkeypatch.setattr(tokens, "MAX_REPORTS", 2)
    _, text = make_token("research-api")
    now = [MINUTE]
    monkeypatch.setattr("registry_admin.callgraph.views.timezone.now", lambda: now[0])
    assert [post(text, body=b"no JSON").status_code for _ in range(3)] == [400, 400, 429]
    assert post(text)["Retry-After"] == "60"
    now[0] += timedelta(minutes=1)
    assert post(text).status_code == 204


def test_take_report_counts_each_minute_anew():
    row, _ = make_token("research-api")
    assert take_report(row, now=MINUTE)
    assert take_report(row, now=MINUTE + timedelta(seconds=59))
    row.refresh_from_db()
    assert (row.reports, row.used_at) == (2, MINUTE)
    assert take_report(row, now=MINUTE + timedelta(seconds=60))
    row.refresh_from_db()
    assert row.reports == 1


@pytest.mark.django_db(transaction=True)
def test_take_report_of_many_at_once_lets_no_more_pass(monkeypatch):
    monkeypatch.setattr(tokens, "MAX_REPORTS", 20)
    row, _ = make_token("research-api")
    taken: list[bool] = []

    def take() -> None:
        try:
            taken.extend(take_report(row, now=MINUTE) for _ in range(10))
        finally:
            connection.close()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), taken.count(True)) == (80, 20)


def test_pairs_of_a_module_are_bounded(monkeypatch):
    monkeypatch.setattr(reports, "MAX_CALLED_SERVICES", 3)
    _, text = make_token("research-api")
    statuses = [post(text, "research-api", CALLS | {"called": f"s{number}"}).status_code for number in range(5)]
    assert statuses == [204, 204, 204, 429, 429]
    _, other = make_token("backend-api")
    assert post(other, "backend-api").status_code == 204


def test_pairs_by_the_shared_token_are_bounded(monkeypatch, settings):
    monkeypatch.setattr(reports, "MAX_PAIRS", 3)
    settings.REGISTRY_REPORT_TOKEN = SHARED
    statuses = [post(SHARED, f"caller-{number}").status_code for number in range(5)]
    assert statuses == [204, 204, 204, 429, 429]
    assert CallCount.objects.count() == 3


def test_admin_shows_a_new_token_once(operator):
    page = operator.post("/admin/callgraph/moduletoken/add/", {"module": "research-api"})
    text = page.content.decode().partition('id="module-token">')[2].partition("<")[0]
    assert "no-store" in page["Cache-Control"]
    assert post(text).status_code == 204
    row = ModuleToken.objects.get()
    assert (row.created_by, row.module) == ("operator", "research-api")
    listing = operator.get("/admin/callgraph/moduletoken/").content.decode()
    assert row.key in listing
    assert text.partition(".")[2] not in listing
    assert row.secret_hash not in listing


def test_admin_revokes_and_never_changes_or_deletes(operator):
    row, text = make_token("research-api")
    page = "/admin/callgraph/moduletoken/"
    assert operator.post(f"{page}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert operator.post(f"{page}{row.pk}/change/", {"module": "backend-api"}).status_code == 403
    operator.post(page, {"action": "revoke", "_selected_action": [row.pk]})
    assert post(text).status_code == 401
    row.refresh_from_db()
    assert (row.module, row.revoked_at is None) == ("research-api", False)


@pytest.mark.parametrize("module", ["a/b", "", "x" * 200])
def test_admin_refuses_what_is_no_service(module, operator):
    page = operator.post("/admin/callgraph/moduletoken/add/", {"module": module})
    assert (page.status_code, ModuleToken.objects.count()) == (200, 0)
    assert b"errorlist" in page.content


def test_tokens_need_a_permission_of_their_own(client_of, make_user):
    client = client_of(make_user("view_service", "change_service"))
    assert client.get("/admin/callgraph/moduletoken/").status_code == 403
    assert client.post("/admin/callgraph/moduletoken/add/", {"module": "api"}).status_code == 403
    assert not ModuleToken.objects.exists()


def run(*arguments: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command("module_token", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_command_makes_lists_and_revokes():
    text = run("make", "research-api")[0].strip()
    assert post(text).status_code == 204
    key = ModuleToken.objects.get().key
    listing, _ = run("list")
    assert f"{key} research-api: in use, last report " in listing
    assert text.partition(".")[2] not in listing
    assert run("revoke", key) == ("", f"Revoked: research-api ({key})\n")
    assert post(text).status_code == 401
    with pytest.raises(CommandError, match="key"):
        run("revoke", key)
    with pytest.raises(CommandError, match="module"):
        run("make", "a/b")


def test_shared_row_is_not_revoked(settings):
    settings.REGISTRY_REPORT_TOKEN = SHARED
    post(SHARED)
    with pytest.raises(CommandError, match="key"):
        run("revoke", "shared")
    assert post(SHARED).status_code == 204
