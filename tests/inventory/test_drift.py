"""Drift and prune, applied to a real Consul."""

from __future__ import annotations

import pytest
from django.test import Client

from registry_admin.inventory.models import Instance, SyncRun
from tests.inventory import mirrored

pytestmark = pytest.mark.django_db(transaction=True)

DRIFT, PRUNE = "/drift/", "/drift/prune/"


@pytest.fixture
def drifted(consul, declare, sync, settings):
    """Two declared instances removed by hand, and noticed."""
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    declare("api", 8001, 8002)
    sync()
    for port in (8001, 8002):
        consul.deregister(f"api-127.0.0.1-{port}")
    looked()
    return consul


def looked() -> None:
    """What a watcher that only looks would note."""
    from registry_admin.inventory import mirror
    from registry_admin.inventory.passes import Pass

    look = Pass(trigger=SyncRun.Trigger.COMMAND).look()
    mirror.record_observation(look.inventory, look.observation, look.plan, looked_at=look.at)


def forget(count: int) -> None:
    """So many declared instances of `old` are deleted without anybody syncing."""
    keys = list(Instance.objects.filter(service__name="old").values_list("pk", flat=True)[:count])
    Instance.objects.filter(pk__in=keys)._raw_delete("default")
    looked()


def test_when_all_matches_that_is_said(consul, declare, operator):
    declare("api", 8001)
    text = operator.get(DRIFT).content.decode()
    assert "Consul matches the inventory." in text
    assert "Apply all" not in text


def test_each_item_says_what_is_to_be_done_and_what_has_happened(drifted, operator):
    text = operator.get(DRIFT).content.decode()
    assert "2 instances differ from the inventory." in text
    assert text.count("Removed by hand") >= 2
    assert "Apply all 2" in text
    assert "Not in Consul any more." in text
    one = operator.get(f"{DRIFT}?action=update").content.decode()
    assert "Nothing that differs matches" in one


def test_applying_some_leaves_the_others_and_shows_each_result(drifted, operator):
    response = operator.post(DRIFT, {"what": "selected", "item": "api-127.0.0.1-8001"}, follow=True)
    run = SyncRun.objects.get(trigger="action")
    assert response.redirect_chain == [(f"/history/syncs/{run.pk}/", 302)]
    assert drifted.agent_instances().keys() == {"api-127.0.0.1-8001"}
    assert "api-127.0.0.1-8001" in response.content.decode()
    assert (run.actor, run.registered) == ("operator", 1)
    assert "1 instance differs" in operator.get(DRIFT).content.decode()


def test_applying_all(drifted, operator):
    operator.post(DRIFT, {"what": "all"})
    assert len(drifted.agent_instances()) == 2
    assert "Consul matches the inventory." in operator.get(DRIFT).content.decode()


def test_choosing_nothing_applies_nothing(drifted, operator):
    response = operator.post(DRIFT, {"what": "selected"}, follow=True)
    assert "choose at least one item" in response.content.decode()
    assert not drifted.agent_instances()


def test_applying_takes_post_a_token_and_the_permission(drifted, operator, client_of, make_user):
    viewer = client_of(make_user("view_service", name="viewer"))
    assert b"Apply all" not in viewer.get(DRIFT).content
    assert viewer.post(DRIFT, {"what": "all"}).status_code == 403
    operator.get(DRIFT, {"what": "all"})
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = operator.cookies
    assert strict.post(DRIFT, {"what": "all"}).status_code == 403
    assert not drifted.agent_instances()


def test_applying_removes_nothing_that_is_no_longer_declared(drifted, operator, declare, sync):
    declare("old", 8101)
    sync()
    forget(1)
    text = operator.get(DRIFT).content.decode()
    assert "Remove 1 no longer declared" in text
    operator.post(DRIFT, {"what": "all"})
    assert "old-127.0.0.1-8101" in drifted.agent_instances()


@pytest.fixture
def prunable(consul, declare, sync, settings):
    """`prunable(3, of=30)`: so many that are no longer declared, of so many owned."""
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}

    def make(count: int, *, of: int):
        declare("old", *range(8100, 8100 + count))
        declare("kept", *range(8300, 8300 + of - count))
        sync()
        forget(count)
        return consul

    return make


def page_of(client) -> tuple[str, str]:
    text = client.get(PRUNE).content.decode()
    return text, text.partition('name="digest" value="')[2].partition('"')[0]


def test_a_few_are_removed_after_a_plain_confirmation(prunable, operator):
    consul = prunable(2, of=20)
    text, digest = page_of(operator)
    assert "old-127.0.0.1-8101" in text
    assert 'name="phrase"' not in text
    response = operator.post(PRUNE, {"digest": digest}, follow=True)
    assert "/history/syncs/" in response.redirect_chain[-1][0]
    assert len(consul.agent_instances()) == 18


def test_many_are_removed_only_after_the_right_words(prunable, operator):
    consul = prunable(5, of=10)
    text, digest = page_of(operator)
    assert "That is more than 20%" in text
    for phrase in ("", "remove", "remove 4", "yes"):
        response = operator.post(PRUNE, {"digest": digest, "phrase": phrase}, follow=True)
        assert "type “remove 5”" in response.content.decode()
    assert len(consul.agent_instances()) == 10
    operator.post(PRUNE, {"digest": digest, "phrase": " Remove  5 "})
    assert len(consul.agent_instances()) == 5


def test_what_was_not_shown_is_not_removed(prunable, operator, declare, sync):
    consul = prunable(1, of=20)
    _, digest = page_of(operator)
    Instance.objects.filter(consul_id="kept-127.0.0.1-8300")._raw_delete("default")
    looked()
    response = operator.post(PRUNE, {"digest": digest}, follow=True)
    assert "has changed since" in response.content.decode()
    assert len(consul.agent_instances()) == 20


def test_only_pruners_may(prunable, client_of, make_user):
    consul = prunable(1, of=20)
    op = client_of(make_user("view_service", "change_service", "sync_service", "delete_service", name="op"))
    assert op.get(PRUNE).status_code == 403
    assert op.post(PRUNE, {"digest": "x"}).status_code == 403
    assert "takes the permission to prune" in op.get(DRIFT).content.decode()
    assert len(consul.agent_instances()) == 20


def test_the_number_of_queries_does_not_grow(operator, count_queries):
    mirrored.look()
    mirrored.declare("api", 3, first_port=8001)
    mirrored.lose("api-127.0.0.1-8001")
    few = len(count_queries(lambda: operator.get(DRIFT)))
    mirrored.declare("web", 60, first_port=9001)
    for port in range(9001, 9056):
        mirrored.lose(f"web-127.0.0.1-{port}")
    text = operator.get(DRIFT).content.decode()
    assert len(count_queries(lambda: operator.get(DRIFT))) == few
    assert text.count('<tr id="declared-') == 50
    assert 'rel="next"' in text
