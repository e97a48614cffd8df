"""Page of a service and its buttons, with a real Consul."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from registry_admin.inventory.models import HealthTransition, Instance, Service, SyncRun
from tests.parts import mirrored

pytestmark = pytest.mark.django_db(transaction=True)

API = "/services/api/"
ID = "api-127.0.0.1-8001"


@pytest.fixture
def messages(operator):
    """Returns `messages(action="sync", …)`: posts the form and returns the messages of the page."""

    def post(client=operator, url=API, **data) -> str:
        response = client.post(url, data, follow=True)
        assert response.status_code == 200
        return " ".join(map(str, response.context["messages"]))

    return post


def test_service_page_of_unknown_name_is_404_with_a_hint(operator):
    response = operator.get("/services/nothing/")
    assert response.status_code == 404
    assert b"Neither the inventory nor Consul has a service called" in response.content
    evil = operator.get("/services/%3Cscript%3Ex/")
    assert (evil.status_code, b"<script>x" in evil.content) == (404, False)


def test_service_page_shows_declared_and_live_values_and_differences(operator):
    mirrored.look()
    service = mirrored.declare("api", 2, first_port=8001, tags=["v1"], description="The backend", owner="team-blue")
    change = {"field": "port", "before": 81, "after": 8001}
    Instance.objects.filter(consul_id=ID).update(
        sync_status="out_of_sync",
        sync_reason="differs from its declaration",
        sync_cause="edited",
        differences=[change],
    )
    text = operator.get(API).content.decode()
    for words in ("The backend", "team-blue", "differs from its declaration (edited by hand)".capitalize(), "differs",
                  "/admin/inventory/service/", "call_service", "100 %", str(service.check_spec())):  # fmt: skip
        assert words in text
    assert "<ins>8001</ins>" in text
    assert operator.get("/services/API/").status_code == 200


def test_service_page_escapes_hostile_check_output(operator):
    mirrored.look()
    mirrored.declare("api", 1, first_port=8001)
    mirrored.fail(ID, mirrored.HOSTILE)
    text = operator.get(API).content.decode()
    assert "<script>alert" not in text
    assert "\x1b" not in text
    assert "&lt;/textarea&gt;" in text


def test_sync_button_registers_and_reports_instances(consul, declare, messages, settings):
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    declare("api", 8001)
    assert f"Synced with Consul: registered {ID}." in messages(action="sync")
    assert consul.agent_instances().keys() == {ID}
    run = SyncRun.objects.get()
    assert (run.trigger, run.actor) == ("action", "operator")


def test_disable_deregisters_and_enable_registers_instances(consul, declare, messages):
    declare("api", 8001)
    assert "api is disabled." in messages(action="disable")
    assert not consul.agent_instances()
    assert "api is enabled." in messages(action="enable")
    assert consul.agent_instances().keys() == {ID}
    actors = Service.history.model.objects.filter(name="api").values_list("history_user_id", "history_change_reason")
    assert ("operator", "dashboard") in set(actors)


def test_maintenance_needs_a_reason_and_is_shown_until_its_end(consul, declare, messages, operator, sync):
    declare("api", 8001)
    sync()
    assert "say why" in messages(action="maintenance_on")
    assert f"In maintenance: {ID}." in messages(action="maintenance_on", reason="new disks")
    [check] = [check for check in consul.agent_instances()[ID].checks if check.is_maintenance]
    assert "new disks (operator)" in (check.notes or check.output)
    page = operator.get(API).content.decode()
    assert "chip-maintenance" in page
    assert "new disks" in page
    assert f"Out of maintenance: {ID}." in messages(action="maintenance_off", instance=ID)
    assert not any(check.is_maintenance for check in consul.agent_instances()[ID].checks)


def test_maintenance_of_an_absent_instance_that_is_kept_for_its_return_is_shown(declare, operator):
    declare("api", 8001)
    Instance.objects.update(maintenance="a disk")
    page = operator.get(API).content.decode()
    assert "will be in maintenance when it is registered: a disk" in page


def test_maintenance_of_foreign_instance_is_refused(consul, consul_agent, declare, messages, sync):
    consul_agent.request("PUT", "/v1/agent/service/register", body={"Name": "api", "ID": "theirs", "Port": 9})
    declare("api", 8001)
    sync()
    assert "theirs: it isn't a declared instance" in messages(action="maintenance_on", reason="x", instance="theirs")
    assert consul.agent_instances()["theirs"].health == "passing"


def test_foreign_service_is_adopted_and_released(consul, consul_agent, messages, operator, sync):
    body = {"Name": "api", "ID": "theirs", "Address": "127.0.0.1", "Port": 9}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    sync()
    page = operator.get(API).content.decode()
    assert "never touched" in page
    assert "Adopt: declare it" in page
    assert "Declared as in Consul: theirs." in messages(action="adopt")
    assert Service.objects.get().name == "api"
    assert consul.agent_instances()["theirs"].owner == "registry-admin"
    assert "Nothing was released" in messages(action="release")
    assert "Released, and left in Consul as they are: theirs." in messages(action="release", confirmed="yes")
    assert not Service.objects.exists()
    assert consul.agent_instances()["theirs"].owner == ""


def test_try_check_reports_result_of_each_instance(consul, http_service, operator, messages):
    up, down = http_service(), http_service()
    service = Service.objects.create(name="api", check_path="/health")
    for server in (up, down):
        Instance.objects.create(service=service, address="127.0.0.1", port=server.port)
    down.stop()
    results = messages(action="try_check")
    assert f"Check of api-127.0.0.1-{up.port}, tried from here: answered with status 200." in results
    assert f"Check of api-127.0.0.1-{down.port}, tried from here: Connection refused." in results


@pytest.mark.parametrize(
    "action", ["sync", "enable", "disable", "maintenance_on", "maintenance_off", "adopt", "release", "try_check"]
)
def test_viewer_has_no_buttons_and_post_is_refused(action, client_of, make_user):
    mirrored.look()
    mirrored.declare("api", 1, first_port=8001)
    viewer = client_of(make_user("view_service", name="viewer"))
    page = viewer.get(API).content
    assert ID.encode() in page
    assert b'name="action"' not in page
    data = {"action": action, "reason": "x", "confirmed": "yes"}
    assert viewer.post(API, data).status_code == 403
    assert viewer.get(API, data).status_code == 200
    assert not SyncRun.objects.filter(trigger="action").exists()
    assert Service.objects.get().enabled


def test_sync_button_prunes_with_the_permission_only(consul, declare, make_user, client_of, messages):
    declare("api", 8001, 8002)
    Instance.objects.filter(port=8002)._raw_delete("default")  # without signals, so without a sync
    operator = client_of(make_user("view_service", "sync_service", name="op"))
    messages(client=operator, action="sync")
    assert len(consul.agent_instances()) == 2
    pruner = client_of(make_user("view_service", "sync_service", "prune_service", name="pruner"))
    messages(client=pruner, action="sync")
    assert consul.agent_instances().keys() == {ID}


def test_sync_button_without_consul_reports_the_error(declare, messages, operator):
    declare("api", 8001)
    assert "not in Consul yet" in messages(action="sync")
    assert "refused the connection" in operator.get(API).content.decode()


def test_service_page_query_count_does_not_grow_with_instances(operator, count_queries):
    mirrored.look()
    mirrored.declare("api", 5, first_port=8001)
    few = len(count_queries(lambda: operator.get(API)))
    mirrored.declare("big", 70, first_port=9001)
    many = count_queries(lambda: operator.get("/services/big/"))
    assert len(many) <= few + 1
    text = operator.get("/services/big/?page=2").content.decode()
    assert text.count('<tr id="instance-') == 20


def test_instance_id_on_several_nodes_has_a_row_for_each_node(operator):
    mirrored.look()
    mirrored.declare("api", 2, first_port=8001)
    mirrored.observe(ID, node="node-2")
    mirrored.observe("foreign", service="API")
    mirrored.observe("other", service="web")
    rows = operator.get(API).context["view"].rows
    assert sorted((row.consul_id, row.observed.node, row.declared is not None) for row in rows) == [
        (ID, "node-1", True), (ID, "node-2", False), ("api-127.0.0.1-8002", "node-1", True),
        ("foreign", "node-1", False),
    ]  # fmt: skip


@pytest.mark.parametrize(("output", "text"), [("", "100 %"), ("connection refused", "50 %")])
def test_availability_counts_from_the_first_run_of_the_check(output, text, operator):
    mirrored.look()
    now = timezone.now().replace(second=0, microsecond=0)
    mirrored.observe("web-1", "web", first_seen=now - timedelta(minutes=20))
    for minutes, before, after, reply in ((20, "", "critical", output), (10, "critical", "passing", "")):
        HealthTransition.objects.create(
            at=now - timedelta(minutes=minutes), node=mirrored.NODE, service_name="web", consul_id="web-1",
            before=before, after=after, output=reply,
        )  # fmt: skip
    share = operator.get("/services/web/").content.decode().partition("Availability <strong>")[2].partition("<")[0]
    assert share == text or (output and float(share.split()[0]) < 60)


def test_undeclared_service_that_registers_itself_says_so(operator):
    mirrored.look()
    mirrored.observe("web-1", "web", registered_itself=True)
    mirrored.observe("other-1", "other")
    assert "Not declared here: registers itself" in operator.get("/services/web/").content.decode()
    assert "somebody else" in operator.get("/services/other/").content.decode()
