"""Removing from Consul in the admin, on pages and in forms: the right that it takes, and the brake."""

from __future__ import annotations

import pytest

from registry_admin.inventory.exchange import export_document
from registry_admin.inventory.models import Instance, Service

pytestmark = pytest.mark.django_db(transaction=True)
SERVICES = "/admin/inventory/service/"
OPERATOR = (
    "view_service", "add_service", "change_service", "delete_service", "view_instance", "add_instance",
    "change_instance", "delete_instance", "sync_service",
)  # fmt: skip


@pytest.fixture
def unprivileged(make_user, client_of):
    """A client logged in as a user who may do everything but remove from Consul."""
    return client_of(make_user(*OPERATOR, name="op"))


@pytest.fixture
def registered(consul, declare):
    """Returns `registered()`: how many instances the agent has; services api (10 instances) and web (1) are synced."""
    declare("api", *range(8001, 8011))
    declare("web", 8101)
    return lambda: len(consul.agent_instances())


def form_of(service: Service, **changes: str) -> dict[str, str]:
    """Returns the fields of the service's form, unchanged but for `changes`."""
    rows = list(service.instances.order_by("pk"))
    fields = {
        "name": service.name, "enabled": "on", "check_kind": service.check_kind, "check_path": service.check_path,
        "check_scheme": service.check_scheme, "check_interval": service.check_interval,
        "check_timeout": service.check_timeout, "deregister_after": service.deregister_after,
        "instances-TOTAL_FORMS": str(len(rows)), "instances-INITIAL_FORMS": str(len(rows)),
    }  # fmt: skip
    for number, row in enumerate(rows):
        prefix = f"instances-{number}-"
        fields |= {
            f"{prefix}id": str(row.pk), f"{prefix}service": str(service.pk), f"{prefix}address": row.address,
            f"{prefix}port": str(row.port), f"{prefix}consul_id": row.consul_id, f"{prefix}weight": "1",
            f"{prefix}enabled": "on",
        }  # fmt: skip
    return {key: value for key, value in (fields | changes).items() if value is not None}


def save(client, service_name: str, **changes: str):
    service = Service.objects.get(name=service_name)
    return client.post(f"{SERVICES}{service.pk}/change/", form_of(service, **changes), follow=True)


def act(client, action: str, *names: str, **fields: str) -> str:
    """Runs a confirmed action on these services, and returns the next page."""
    keys = [str(pk) for pk in Service.objects.filter(name__in=names).values_list("pk", flat=True)]
    data = {"action": action, "_selected_action": keys, "confirmed": "yes", **fields}
    return client.post(SERVICES, data, follow=True).content.decode()


# -- the right --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["disable", "delete_selected"])
def test_action_without_the_right_to_remove_is_refused_before_anything_is_saved(registered, unprivileged, action):
    text = act(unprivileged, action, "web")
    assert "takes the permission" in text
    assert "web-127.0.0.1-8101" in text
    assert Service.objects.filter(name="web", enabled=True).exists()
    assert registered() == 11


@pytest.mark.parametrize(
    "changes",
    [{"enabled": None}, {"instances-0-DELETE": "on"}, {"instances-0-enabled": None}, {"name": "other"}],
    ids=["disabled", "deleted", "instance disabled", "renamed"],
)
def test_form_without_the_right_to_remove_is_refused_before_anything_is_saved(registered, unprivileged, changes):
    text = save(unprivileged, "web", **changes).content.decode()
    assert "Nothing was saved. That takes the permission" in text
    row = Instance.objects.select_related("service").get(consul_id="web-127.0.0.1-8101")
    assert (row.enabled, row.service.enabled, row.service.name) == (True, True, "web")
    assert registered() == 11


def test_deletion_without_the_right_to_remove_is_refused(registered, unprivileged):
    url = f"{SERVICES}{Service.objects.get(name='web').pk}/delete/"
    for response in (unprivileged.get(url, follow=True), unprivileged.post(url, {"post": "yes"}, follow=True)):
        assert "takes the permission" in response.content.decode()
    assert registered() == 11


def test_other_edits_and_unregistered_services_need_no_right_to_remove(registered, unprivileged, declare, settings):
    assert "was changed successfully" in save(unprivileged, "web", description="new").content.decode()
    assert Service.objects.get(name="web").description == "new"
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    declare("never", 8201)
    assert "1 service was disabled" in act(unprivileged, "disable", "never")
    assert "1 service was deleted" in act(unprivileged, "delete_selected", "never")


def test_live_page_disables_only_with_the_right_to_remove(registered, unprivileged, operator):
    text = unprivileged.post("/services/web/", {"action": "disable"}, follow=True).content.decode()
    assert "takes the permission" in text
    assert registered() == 11
    operator.post("/services/web/", {"action": "disable"})
    assert registered() == 10
    text = operator.post("/services/api/", {"action": "disable"}, follow=True).content.decode()
    assert "pi was not disabled. The brake holds it" in text
    assert registered() == 10


# -- the brake --------------------------------------------------------------------------------------------------------


def test_one_service_or_instance_is_removed_without_typing_anything(registered, operator):
    assert "was changed successfully" in save(operator, "api", **{"instances-0-DELETE": "on"}).content.decode()
    assert registered() == 10
    operator.post(f"{SERVICES}{Service.objects.get(name='web').pk}/delete/", {"post": "yes"})
    assert registered() == 9


@pytest.mark.parametrize("action", ["disable", "delete_selected"])
def test_action_on_everything_asks_for_the_number(registered, operator, action):
    text = act(operator, action, "api", "web")
    assert "type <code>remove 11</code>" in text
    act(operator, action, "api", "web", removals="remove 10")
    assert registered() == 11
    assert Service.objects.filter(enabled=True).count() == 2
    act(operator, action, "api", "web", removals="remove 11")
    assert registered() == 0


def test_deletion_of_a_large_service_asks_for_the_number(registered, operator):
    url = f"{SERVICES}{Service.objects.get(name='api').pk}/delete/"
    assert "type <code>remove 10</code>" in operator.get(url).content.decode()
    assert "type “remove 10”" in operator.post(url, {"post": "yes"}, follow=True).content.decode()
    assert registered() == 11
    operator.post(url, {"post": "yes", "removals": "remove 10"})
    assert registered() == 1


def test_form_that_removes_much_asks_for_the_number(registered, operator):
    deletions = {f"instances-{number}-DELETE": "on" for number in range(6)}
    assert "type “remove 6”" in save(operator, "api", **deletions).content.decode()
    assert (registered(), Instance.objects.count()) == (11, 11)
    save(operator, "api", removals="remove 6", **deletions)
    assert (registered(), Instance.objects.count()) == (5, 5)


def test_import_page_shows_what_leaves_consul_and_asks_for_the_number(registered, operator, unprivileged):
    document = export_document(Service.objects.filter(name="web"), fmt="yaml")
    fields = {"text": document, "delete_others": "on"}
    assert "takes the permission" in unprivileged.post(f"{SERVICES}import/", fields).content.decode()
    text = operator.post(f"{SERVICES}import/", fields).content.decode()
    assert "It takes 10 out of Consul" in text
    assert "type <code>remove 10</code>" in text
    digest = text.partition('name="digest" value="')[2].partition('"')[0]
    kept = text.partition('name="kept" value="')[2].partition('"')[0]
    confirmed = {"kept": kept, "delete_others": "on", "digest": digest}
    assert "type “remove 10”" in operator.post(f"{SERVICES}import/", confirmed).content.decode()
    assert registered() == 11
    operator.post(f"{SERVICES}import/", confirmed | {"removals": "remove 10"})
    assert (registered(), Service.objects.get().name) == (1, "web")
