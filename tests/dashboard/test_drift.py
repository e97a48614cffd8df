"""Drift and prune, applied to a real Consul."""

from __future__ import annotations

import pytest
from django.test import Client

from registry_admin.inventory.models import Instance, SyncRun
from tests.parts import mirrored

pytestmark = pytest.mark.django_db(transaction=True)

DRIFT, PRUNE = "/drift/", "/drift/prune/"


@pytest.fixture
def drifted_consul(consul, declare, sync, settings):
    """Consul from which two declared instances were removed by hand; the mirror shows it."""
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    declare("api", 8001, 8002)
    sync()
    for port in (8001, 8002):
        consul.deregister(f"api-127.0.0.1-{port}")
    observe()
    return consul


def observe() -> None:
    """Mirrors a snapshot and its plan without applying it."""
    from registry_admin.inventory.sync import mirror
    from registry_admin.inventory.sync.reconciler import Reconciler

    comparison = Reconciler(trigger=SyncRun.Trigger.COMMAND).plan()
    mirror.record_snapshot(comparison.inventory, comparison.snapshot, comparison.plan, read_at=comparison.read_at)


def delete_declarations(count: int) -> None:
    """Deletes `count` declared instances of `old` without a sync."""
    keys = list(Instance.objects.filter(service__name="old").values_list("pk", flat=True)[:count])
    Instance.objects.filter(pk__in=keys)._raw_delete("default")
    observe()


def test_drift_page_without_differences_says_so_and_offers_no_apply(consul, declare, operator):
    declare("api", 8001)
    text = operator.get(DRIFT).content.decode()
    assert "Consul matches the inventory." in text
    assert "Apply all" not in text


def test_drift_page_items_show_action_and_cause(drifted_consul, operator):
    text = operator.get(DRIFT).content.decode()
    assert "2 instances differ from the inventory." in text
    assert text.count("Removed by hand") >= 2
    assert "Apply all 2" in text
    assert "Not in Consul any more." in text
    updates = operator.get(f"{DRIFT}?action=update").content.decode()
    assert "Nothing that differs matches" in updates


def test_apply_of_selected_item_leaves_other_items_and_shows_result(drifted_consul, operator):
    response = operator.post(DRIFT, {"what": "selected", "item": "api-127.0.0.1-8001"}, follow=True)
    run = SyncRun.objects.get(trigger="action")
    assert response.redirect_chain == [(f"/history/syncs/{run.pk}/", 302)]
    assert drifted_consul.agent_instances().keys() == {"api-127.0.0.1-8001"}
    assert "api-127.0.0.1-8001" in response.content.decode()
    assert (run.actor, run.registered) == ("operator", 1)
    assert "1 instance differs" in operator.get(DRIFT).content.decode()


def test_apply_all_registers_every_instance(drifted_consul, operator):
    operator.post(DRIFT, {"what": "all"})
    assert len(drifted_consul.agent_instances()) == 2
    assert "Consul matches the inventory." in operator.get(DRIFT).content.decode()


def test_apply_without_selection_asks_to_choose_and_changes_no_instance(drifted_consul, operator):
    response = operator.post(DRIFT, {"what": "selected"}, follow=True)
    assert "choose at least one item" in response.content.decode()
    assert not drifted_consul.agent_instances()


def test_apply_needs_post_csrf_token_and_permission(drifted_consul, operator, client_of, make_user):
    viewer = client_of(make_user("view_service", name="viewer"))
    assert b"Apply all" not in viewer.get(DRIFT).content
    assert viewer.post(DRIFT, {"what": "all"}).status_code == 403
    operator.get(DRIFT, {"what": "all"})
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = operator.cookies
    assert strict.post(DRIFT, {"what": "all"}).status_code == 403
    assert not drifted_consul.agent_instances()


def test_apply_all_leaves_instance_that_is_no_longer_declared(drifted_consul, operator, declare, sync):
    declare("old", 8101)
    sync()
    delete_declarations(1)
    text = operator.get(DRIFT).content.decode()
    assert "Remove 1 no longer declared" in text
    operator.post(DRIFT, {"what": "all"})
    assert "old-127.0.0.1-8101" in drifted_consul.agent_instances()


@pytest.fixture
def prunable(consul, declare, sync, settings):
    """Returns `prunable(3, of=30)`: deletes the declarations of 3 of 30 owned instances and returns Consul."""
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}

    def make(count: int, *, of: int):
        declare("old", *range(8100, 8100 + count))
        declare("kept", *range(8300, 8300 + of - count))
        sync()
        delete_declarations(count)
        return consul

    return make


def prune_page(client) -> tuple[str, str]:
    """Returns the text of the prune page and the digest of its list."""
    text = client.get(PRUNE).content.decode()
    return text, text.partition('name="digest" value="')[2].partition('"')[0]


def test_prune_of_few_instances_needs_no_phrase(prunable, operator):
    consul = prunable(2, of=20)
    text, digest = prune_page(operator)
    assert "old-127.0.0.1-8101" in text
    assert 'name="phrase"' not in text
    response = operator.post(PRUNE, {"digest": digest}, follow=True)
    assert "/history/syncs/" in response.redirect_chain[-1][0]
    assert len(consul.agent_instances()) == 18


def test_prune_of_many_instances_needs_the_phrase(prunable, operator):
    consul = prunable(5, of=10)
    text, digest = prune_page(operator)
    assert "more than 20% within 10 minutes" in text
    for phrase in ("", "remove", "remove 4", "yes"):
        response = operator.post(PRUNE, {"digest": digest, "phrase": phrase}, follow=True)
        assert "type “remove 5”" in response.content.decode()
    assert len(consul.agent_instances()) == 10
    operator.post(PRUNE, {"digest": digest, "phrase": " Remove  5 "})
    assert len(consul.agent_instances()) == 5


def test_prune_of_a_changed_list_is_refused(prunable, operator, declare, sync):
    consul = prunable(1, of=20)
    _, digest = prune_page(operator)
    Instance.objects.filter(consul_id="kept-127.0.0.1-8300")._raw_delete("default")
    observe()
    response = operator.post(PRUNE, {"digest": digest}, follow=True)
    assert "has changed since" in response.content.decode()
    assert len(consul.agent_instances()) == 20


def test_prune_without_permission_is_refused(prunable, client_of, make_user):
    consul = prunable(1, of=20)
    op = client_of(make_user("view_service", "change_service", "sync_service", "delete_service", name="op"))
    assert op.get(PRUNE).status_code == 403
    assert op.post(PRUNE, {"digest": "x"}).status_code == 403
    assert "takes the permission to prune" in op.get(DRIFT).content.decode()
    assert len(consul.agent_instances()) == 20


def test_drift_page_query_count_does_not_grow_with_items(operator, count_queries):
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
