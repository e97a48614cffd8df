"""One service's page, and the buttons that mend it, on a real Consul."""

from __future__ import annotations

import pytest

from registry_admin.inventory.models import Instance, Service, SyncRun
from tests.inventory import mirrored

pytestmark = pytest.mark.django_db(transaction=True)

API = "/services/api/"
ID = "api-127.0.0.1-8001"


@pytest.fixture
def messages(operator):
    """`messages(action="sync", …)`: what the page says after that POST."""

    def post(client=operator, url=API, **data) -> str:
        response = client.post(url, data, follow=True)
        assert response.status_code == 200
        return " ".join(map(str, response.context["messages"]))

    return post


def test_a_name_that_nobody_knows_is_a_helpful_404(operator):
    response = operator.get("/services/nothing/")
    assert response.status_code == 404
    assert b"Neither the inventory nor Consul has a service called" in response.content
    evil = operator.get("/services/%3Cscript%3Ex/")
    assert (evil.status_code, b"<script>x" in evil.content) == (404, False)


def test_desired_stands_beside_live_and_what_differs_is_said(operator):
    mirrored.look()
    service = mirrored.declare("api", 2, first_port=8001, tags=["v1"], description="The backend", owner="team-blue")
    change = {"field": "port", "before": 81, "after": 8001}
    Instance.objects.filter(consul_id=ID).update(
        sync_status="out_of_sync",
        sync_reason="differs from its declaration",
        sync_cause="edited by hand",
        differences=[change],
    )
    text = operator.get(API).content.decode()
    for words in ("The backend", "team-blue", "differs from its declaration (edited by hand)".capitalize(), "differs",
                  "/admin/inventory/service/", "call_service", "100 %", str(service.check_spec())):  # fmt: skip
        assert words in text
    assert "<ins>8001</ins>" in text
    assert operator.get("/services/API/").status_code == 200


def test_hostile_output_is_escaped_and_folded_open(operator):
    mirrored.look()
    mirrored.declare("api", 1, first_port=8001)
    mirrored.fail(ID, mirrored.HOSTILE)
    text = operator.get(API).content.decode()
    assert "<script>alert" not in text
    assert "\x1b" not in text
    assert "&lt;/textarea&gt;" in text


def test_sync_registers_and_says_what_it_did(consul, declare, messages, settings):
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    declare("api", 8001)
    assert f"Synced with Consul: registered {ID}." in messages(action="sync")
    assert consul.agent_instances().keys() == {ID}
    run = SyncRun.objects.get()
    assert (run.trigger, run.actor) == ("action", "operator")


def test_disable_and_enable(consul, declare, messages):
    declare("api", 8001)
    assert "api is disabled." in messages(action="disable")
    assert not consul.agent_instances()
    assert "api is enabled." in messages(action="enable")
    assert consul.agent_instances().keys() == {ID}
    who = Service.history.model.objects.filter(name="api").values_list("history_user_id", "history_change_reason")
    assert ("operator", "dashboard") in set(who)


def test_maintenance_needs_a_reason_shows_at_once_and_ends(consul, declare, messages, operator, sync):
    declare("api", 8001)
    sync()
    assert "say why" in messages(action="maintenance_on")
    assert f"In maintenance: {ID}." in messages(action="maintenance_on", reason="new disks")
    [check] = [one for one in consul.agent_instances()[ID].checks if one.is_maintenance]
    assert "new disks (operator)" in (check.notes or check.output)
    page = operator.get(API).content.decode()
    assert "chip-maintenance" in page
    assert "new disks" in page
    assert f"Out of maintenance: {ID}." in messages(action="maintenance_off", instance=ID)
    assert not any(one.is_maintenance for one in consul.agent_instances()[ID].checks)


def test_nothing_foreign_is_put_into_maintenance(consul, consul_agent, declare, messages, sync):
    consul_agent.request("PUT", "/v1/agent/service/register", body={"Name": "api", "ID": "theirs", "Port": 9})
    declare("api", 8001)
    sync()
    assert "theirs: it isn't a declared instance" in messages(action="maintenance_on", reason="x", instance="theirs")
    assert consul.agent_instances()["theirs"].health == "passing"


def test_a_foreign_service_is_adopted_and_released_again(consul, consul_agent, messages, operator, sync):
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


def test_the_check_is_tried_once_from_here(consul, http_service, operator, messages):
    up, down = http_service(), http_service()
    service = Service.objects.create(name="api", check_path="/health")
    for server in (up, down):
        Instance.objects.create(service=service, address="127.0.0.1", port=server.port)
    down.stop()
    told = messages(action="try_check")
    assert f"Check of api-127.0.0.1-{up.port}, tried from here: answered with status 200." in told
    assert f"Check of api-127.0.0.1-{down.port}, tried from here: Connection refused." in told


@pytest.mark.parametrize(
    "action", ["sync", "enable", "disable", "maintenance_on", "maintenance_off", "adopt", "release", "try_check"]
)
def test_a_viewer_is_shown_no_button_and_refused(action, client_of, make_user):
    mirrored.look()
    mirrored.declare("api", 1, first_port=8001)
    viewer = client_of(make_user("view_service", name="viewer"))
    assert b'name="action"' not in viewer.get(API).content
    data = {"action": action, "reason": "x", "confirmed": "yes"}
    assert viewer.post(API, data).status_code == 403
    assert viewer.get(API, data).status_code == 200
    assert not SyncRun.objects.filter(trigger="action").exists()
    assert Service.objects.get().enabled


def test_an_operator_s_sync_removes_nothing(consul, declare, make_user, client_of, messages):
    declare("api", 8001, 8002)
    Instance.objects.filter(port=8002)._raw_delete("default")  # as if nobody had noticed
    operator = client_of(make_user("view_service", "sync_service", name="op"))
    messages(client=operator, action="sync")
    assert len(consul.agent_instances()) == 2
    pruner = client_of(make_user("view_service", "sync_service", "prune_service", name="pruner"))
    messages(client=pruner, action="sync")
    assert consul.agent_instances().keys() == {ID}


def test_with_consul_away_a_button_says_so_and_nothing_breaks(declare, messages, operator):
    declare("api", 8001)
    assert "not in Consul yet" in messages(action="sync")
    assert "refused the connection" in operator.get(API).content.decode()


def test_the_number_of_queries_does_not_grow_with_instances(operator, count_queries):
    mirrored.look()
    mirrored.declare("api", 5, first_port=8001)
    few = len(count_queries(lambda: operator.get(API)))
    mirrored.declare("big", 70, first_port=9001)
    many = count_queries(lambda: operator.get("/services/big/"))
    assert len(many) <= few + 1
    text = operator.get("/services/big/?page=2").content.decode()
    assert text.count('<tr id="instance-') == 20
