"""Removals on a real database and a real agent: what the brake holds, and how people release it."""

from __future__ import annotations

import pytest

from registry_admin.errors import UnsafePlanError
from registry_admin.inventory.models import Instance, ObservedInstance, RemovalApproval, Service, SyncRun
from registry_admin.inventory.sync.removals import approve_removals, preview_removals
from tests.parts import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ids(consul):
    """Returns `ids("api")`: the IDs that the agent has of a service."""
    return lambda name: {key for key, instance in consul.agent_instances().items() if instance.service == name}


@pytest.fixture(autouse=True)
def _without_sync_on_save(settings):
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}


def test_bulk_disabling_is_held_and_the_status_says_how_to_release_it(declare, sync, ids):
    declare("api", *range(8001, 8011))
    sync()
    Service.objects.update(enabled=False)
    held = sync(only={"api"})
    assert isinstance(held.error, UnsafePlanError)
    assert len(ids("api")) == 10
    row = Instance.objects.first()
    assert "held by the brake" in row.sync_reason
    assert row.sync_action == "deregister"
    assert sync(only={"api"}, expected_removals=9).results == ()
    assert sync(only={"api"}, expected_removals=10).ok
    assert ids("api") == set()


def test_deleting_one_service_by_itself_passes(declare, sync, ids):
    declare("small", 8001, 8002)
    declare("large", *range(8101, 8111))
    sync()
    Service.objects.get(name="small").delete()
    assert sync().error is None
    assert (ids("small"), len(ids("large"))) == (set(), 10)
    assert not RemovalApproval.objects.exists()


def test_deleting_a_small_service_in_bulk_is_held_until_its_number_is_confirmed(declare, sync, ids):
    declare("small", 8001, 8002)
    declare("large", *range(8101, 8119))
    sync()
    Service.objects.filter(name="small").delete()
    assert "the service small would leave Consul as a whole" in str(sync().error)
    assert len(ids("small")) == 2
    assert sync(expected_removals=2).error is None
    assert ids("small") == set()


def test_ten_small_steps_are_held_like_one_large_one(declare, sync, ids):
    declare("api", *range(8001, 8011))
    sync()
    outcomes = []
    for row in Instance.objects.order_by("pk")[:8]:
        row.delete()
        outcomes.append(sync(only={"api"}))
    assert [outcome.error is None for outcome in outcomes] == [True] * 3 + [False] * 5
    assert len(ids("api")) == 7


def test_steps_outside_the_window_are_not_counted(declare, sync, ids, settings):
    settings.REGISTRY = {"SYNC_ON_SAVE": "0", "REMOVAL_WINDOW": "0.1s"}
    declare("api", *range(8001, 8011))
    sync()
    for row in Instance.objects.order_by("pk")[:5]:
        row.delete()
        wait_until(lambda: sync(only={"api"}).error is None, 5, "the window to end")
    assert len(ids("api")) == 5


def test_confirmed_number_is_not_counted_against_later_steps(declare, sync, ids):
    declare("api", *range(8001, 8011))
    declare("web", 8101)
    sync()
    Service.objects.filter(name="api").delete()
    assert sync(expected_removals=10).error is None
    Service.objects.get(name="web").delete()
    assert sync().error is None
    assert ids("web") == set()


def test_removal_named_while_consul_was_away_passes_later(declare, sync, ids, proxied_consul):
    declare("small", 8001)
    declare("large", 8101)
    sync()
    proxied_consul.cut()
    Service.objects.get(name="small").delete()
    assert sync().is_unavailable
    proxied_consul.restore()
    assert sync().error is None
    assert ids("small") == set()


def test_approval_lapses_when_the_declaration_is_enabled_again(declare, sync, ids):
    service = declare("small", 8001)
    declare("large", 8101)
    sync()
    service.enabled = False
    service.save()
    service.enabled = True
    service.save()
    Service.objects.filter(name="small").delete()
    assert isinstance(sync().error, UnsafePlanError)
    assert len(ids("small")) == 1


def test_renamed_service_in_bulk_is_held_and_by_itself_passes(declare, sync, ids):
    service = declare("old", 8001)
    declare("large", 8101)
    sync()
    Service.objects.filter(name="old").update(name="new")
    assert "the service old would leave Consul as a whole" in str(sync().error)
    assert len(ids("old")) == 1
    service.name = "new"
    service.save()
    assert sync().error is None
    assert len(ids("new")) == 1


def test_run_of_somebody_who_may_not_remove_holds_every_removal(declare, sync, ids):
    service = declare("api", 8001)
    declare("large", 8101)
    sync()
    service.enabled = False
    service.save()
    assert "permission to remove" in str(sync(may_remove=False).error)
    assert len(ids("api")) == 1
    assert sync().error is None


def test_preview_names_what_would_leave_and_the_phrase_that_confirms_it(consul, declare, sync):
    declare("api", *range(8001, 8011))
    declare("web", 8101)
    sync()
    keys = list(Instance.objects.filter(service__name="api").values_list("consul_id", flat=True))
    few, many = preview_removals(keys[:2]), preview_removals(keys)
    assert (few.ids, few.held, few.phrase) == (keys[:2], "", "")
    assert (many.ids, many.phrase) == (keys, "remove 10")
    assert many.is_confirmed_by(" Remove  10")
    assert not many.is_confirmed_by("remove 9")
    assert preview_removals(["web-127.0.0.1-8101"]).held == ""
    assert "as a whole" in preview_removals(["web-127.0.0.1-8101"], named=False).held


def test_preview_leaves_out_what_is_not_ours_to_remove(consul, declare, sync):
    declare("api", 8001)
    consul.register(Instance.objects.get().spec(), marks={})
    sync()
    assert ObservedInstance.objects.get().consul_id == "api-127.0.0.1-8001"
    assert preview_removals(["api-127.0.0.1-8001", "nobody"]).removals == ()


def test_prune_page_releases_what_the_brake_holds(declare, sync, ids, operator):
    declare("api", *range(8001, 8011))
    sync()
    Service.objects.update(enabled=False)
    sync()
    text = operator.get("/drift/prune/").content.decode()
    assert "The brake holds this" in text
    digest = text.partition('name="digest" value="')[2].partition('"')[0]
    operator.post("/drift/prune/", {"digest": digest, "phrase": "remove 9"})
    assert len(ids("api")) == 10
    operator.post("/drift/prune/", {"digest": digest, "phrase": "remove 10"})
    assert ids("api") == set()
    assert SyncRun.objects.first().deregistered == 10


def test_approve_removals_replaces_an_earlier_approval(db):
    approve_removals(["a"])
    approve_removals(["a"], counted=True)
    assert [row.get_approval_display() for row in RemovalApproval.objects.all()] == ["COUNTED"]


def test_moved_instances_replace_the_former_ones_and_pass(declare, sync, ids, settings):
    settings.REGISTRY = {"SYNC_ON_SAVE": "0", "REMOVAL_WINDOW": "10m"}
    declare("api", *range(8001, 8011))
    sync()
    for row in Instance.objects.order_by("pk"):
        row.port += 100
        row.save()
    assert sync(only={"api"}).error is None
    wait_until(lambda: sync(only={"api"}).error is None and len(ids("api")) == 10, 20, "the former instances to leave")
    assert ids("api") == {f"api-127.0.0.1-{port}" for port in range(8101, 8111)}
