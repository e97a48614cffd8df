"""Tokens: what Consul lets through with a right one, a wrong one and none, and that no token ever shows up anywhere."""

from __future__ import annotations

import dataclasses
import inspect
import json
import platform
import uuid
from contextlib import suppress

import pytest

from registry_admin.consul import CheckSpec, ConsulApi, ConsulConfig, ServiceSpec, transport
from registry_admin.errors import ConsulPermissionError, InvalidReplyError, RegistryError
from tests.parts import wait_until

SPEC = ServiceSpec(name="backend-api", address="127.0.0.1", port=8000, check=CheckSpec(kind="ttl", interval="1h"))
SECRET = "5ec7e700-0000-4000-8000-000000000000"

WRITES = {
    "register": lambda api: api.register(SPEC, marks={}),
    "deregister": lambda api: api.deregister(SPEC.id),
    "deregister_check": lambda api: api.deregister_check(SPEC.check_id),
    "deregister_from_catalog": lambda api: api.deregister_from_catalog(platform.node(), SPEC.id),
    "set_maintenance": lambda api: api.set_maintenance(SPEC.id, enable=True, reason="a disk"),
    "update_ttl": lambda api: api.update_ttl(SPEC.check_id, "passing", output="fine"),
}
READS = {
    "agent_instances": lambda api: api.agent_instances(),
    "agent_instance": lambda api: api.agent_instance(SPEC.id),
    "catalog_instance": lambda api: api.catalog_instance("some-node", SPEC.id),
    "failing_checks": lambda api: api.failing_checks(),
    "instance_checks": lambda api: api.instance_checks(SPEC.id),
    "created_indexes": lambda api: api.created_indexes("some-node"),
    "agent_node": lambda api: api.agent_node(),
    "agent_address": lambda api: api.agent_address(),
    "agent_version": lambda api: api.agent_version(),
    "leader": lambda api: api.leader(),
    "services": lambda api: api.services(index=1, wait_s=0.01),
    "health_states": lambda api: api.health_states(),
    "instances": lambda api: api.instances("backend-api", tag="api", passing=True),
    "text": lambda api: api.text("catalog", "nodes", stale=True),
}


@pytest.fixture
def with_token(guarded_agent, monkeypatch):
    """`with_token(rules)` or `with_token(token=…)`: an API on the guarded agent, where one instance is registered."""
    monkeypatch.setattr(transport, "REPEAT_PAUSES_S", (0.0, 0.0))
    owner = ConsulApi(guarded_agent.config)
    owner.register(SPEC, marks={})
    wait_until(lambda: owner.instances("backend-api").data, what="the catalog")
    made = [owner]

    def make(rules="", *, token=None):
        token = guarded_agent.make_token(rules) if rules else token
        made.append(ConsulApi(dataclasses.replace(guarded_agent.config, token=token)))
        return made[-1]

    yield make
    for api in made:
        api.close()
    guarded_agent.forget_services()


def test_every_method_that_speaks_to_consul_is_tried_here():
    offline = {"connect", "http_connect", "close", "check_target", "refuse_own_port", "agent_of"}
    public = {name for name, value in vars(ConsulApi).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert public - offline == WRITES.keys() | READS.keys()


@pytest.mark.parametrize("call", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("token", [None, SECRET], ids=["none", "unknown"])
def test_without_a_right_token_nothing_can_be_changed(with_token, call, token):
    with pytest.raises(ConsulPermissionError, match="`service:write`") as caught:
        call(with_token(token=token))
    assert caught.value.status == 403
    assert SECRET not in str(caught.value)
    hint = "No token was sent; give one in CONSUL_HTTP_TOKEN" if token is None else "Consul doesn't know this token"
    assert hint in str(caught.value)


@pytest.mark.parametrize("call", WRITES.values(), ids=WRITES)
def test_token_that_may_only_read_can_not_change_anything(with_token, call):
    api = with_token('service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }')
    with pytest.raises(ConsulPermissionError, match="The token needs `service:write` for this service") as caught:
        call(api)
    assert api.config.token not in str(caught.value)


def test_token_for_one_service_can_not_change_another(with_token):
    api = with_token('service "research-api" { policy = "write" }')
    api.register(dataclasses.replace(SPEC, name="research-api", id="r1"), marks={})
    with pytest.raises(ConsulPermissionError):
        api.deregister(SPEC.id)
    with pytest.raises(ConsulPermissionError):
        api.register(SPEC, marks={})
    api.deregister("r1")


def test_without_a_token_lists_come_back_empty_and_that_is_no_error(with_token, guarded_agent):
    """So an empty list is no proof that nothing is there. From Consul 1.9 on a header tells of the default policy."""
    api = with_token(token=None)
    assert api.agent_instances() == {}
    for reply in (api.services(), api.health_states(), api.instances("backend-api")):
        assert len(reply.data) == 0
        assert not reply.filtered_by_acls
        assert reply.may_be_hidden is (guarded_agent.version >= (1, 9))


def test_with_a_token_lists_that_acls_have_filtered_say_so(with_token, guarded_agent):
    """From Consul 1.11 on."""
    api = with_token('service_prefix "frontend" { policy = "read" } node_prefix "" { policy = "read" }')
    for reply in (api.text("agent", "services"), api.services(), api.instances("backend-api")):
        assert "backend-api" not in reply.data
        assert reply.filtered_by_acls is (guarded_agent.version >= (1, 11))
        assert not reply.may_be_hidden


def test_without_node_read_a_token_sees_no_instances(with_token):
    api = with_token('service_prefix "" { policy = "write" }')
    assert api.instances("backend-api").data == []
    assert api.health_states().data == []


def test_asking_the_agent_for_its_name_needs_its_own_permission(with_token):
    api = with_token('service_prefix "" { policy = "write" } node_prefix "" { policy = "read" }')
    assert [item.id for item in api.instances("backend-api").data] == [SPEC.id]
    with pytest.raises(ConsulPermissionError, match="`agent:read`"):
        api.agent_node()


@pytest.mark.parametrize("name", ["agent_instances", "services", "health_states", "instances"])
def test_unknown_token_is_an_error_and_not_an_empty_list(with_token, name):
    with pytest.raises(ConsulPermissionError, match="doesn't know this token") as caught:
        READS[name](with_token(token=str(uuid.uuid4())))
    assert "`service:read` and `node:read`" in str(caught.value)


def test_token_for_one_request_of_the_library_is_used_for_it(guarded_agent):
    stranger = ConsulApi(dataclasses.replace(guarded_agent.config, token=None))
    with pytest.raises(ConsulPermissionError):
        stranger.kv.put("a", "b")
    assert stranger.kv.put("a", "b", token=guarded_agent.management_token)
    assert stranger.kv.delete("a", token=guarded_agent.management_token)
    stranger.close()


# -- where the token is, and where it isn't ------------------------------------------------------------------

LIBRARY = {
    "kv.get": lambda api, **options: api.kv.get("a", **options),
    "kv.put": lambda api, **options: api.kv.put("a", "b", **options),
    "kv.delete": lambda api, **options: api.kv.delete("a", **options),
    "event.fire": lambda api, **options: api.event.fire("a", **options),
    "agent.service.register": lambda api, **options: api.agent.service.register("a", **options),
    "agent.check.register": lambda api, **options: api.agent.check.register("a", {"ttl": "1s"}, **options),
    "catalog.nodes": lambda api, **options: api.catalog.nodes(**options),
    "catalog.services": lambda api, **options: api.catalog.services(**options),
    "catalog.service": lambda api, **options: api.catalog.service("a", **options),
    "health.service": lambda api, **options: api.health.service("a", **options),
    "health.node": lambda api, **options: api.health.node("a", **options),
    "health.state": lambda api, **options: api.health.state("any", **options),
    "health.checks": lambda api, **options: api.health.checks("a", **options),
    "query.list": lambda api, **options: api.query.list(**options),
}
WITHOUT_TOKEN_OPTION = {
    "catalog.node": lambda api: api.catalog.node("a"),
    "catalog.deregister": lambda api: api.catalog.deregister("a"),
    "agent.self": lambda api: api.agent.self(),
    "agent.services": lambda api: api.agent.services(),
    "agent.service.deregister": lambda api: api.agent.service.deregister("a"),
    "agent.check.deregister": lambda api: api.agent.check.deregister("a"),
    "status.leader": lambda api: api.status.leader(),
    "session.list": lambda api: api.session.list(),
}


@pytest.mark.parametrize("status", [200, 403, 404, 500])
def test_token_goes_out_in_a_header_only(http_service, status):
    service = http_service(status=status, body=b"{}", headers={"X-Consul-Index": "1"})
    api = ConsulApi(ConsulConfig(host=service.host, port=service.port, token=SECRET))
    for name, call in (WRITES | READS | LIBRARY | WITHOUT_TOKEN_OPTION).items():
        service.requests.clear()
        with suppress(RegistryError, TypeError, KeyError, AttributeError):  # {} isn't what each of them waits for
            call(api)
        assert service.requests, name
        for request in service.requests:
            assert request.headers["X-Consul-Token"] == SECRET, name
            assert SECRET not in request.path, name
            assert SECRET.encode() not in request.body, name
    api.close()


def test_token_given_to_the_library_goes_out_in_a_header_only(http_service):
    service = http_service(body=b"{}", headers={"X-Consul-Index": "1"})
    api = ConsulApi(ConsulConfig(host=service.host, port=service.port, token="the-usual-one"))
    for name, call in LIBRARY.items():
        service.requests.clear()
        with suppress(RegistryError, TypeError, KeyError, AttributeError):
            call(api, token=SECRET)
        assert service.requests, name
        for request in service.requests:
            assert request.headers["X-Consul-Token"] == SECRET, name
            assert "token" not in request.path, name
            assert SECRET not in request.path, name
    api.close()


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 413, 429, 500, 503])
@pytest.mark.parametrize("name", [*WRITES, *READS, "kv.get"])
def test_reply_that_echoes_the_token_does_not_bring_it_into_an_error(http_service, status, name, monkeypatch):
    monkeypatch.setattr(transport, "REPEAT_PAUSES_S", (0.0,))
    echo = json.dumps(f"you sent X-Consul-Token: {SECRET}").encode()
    service = http_service(status=status, body=echo)
    api = ConsulApi(ConsulConfig(host=service.host, port=service.port, token=SECRET))
    try:
        (WRITES | READS | {"kv.get": LIBRARY["kv.get"]})[name](api)
    except Exception as error:  # noqa: BLE001 - the library's own among them, where the reply is none that it knows
        message = f"{error!r} {error} {error.__cause__!r} {vars(error)}"
    else:
        message = ""
    assert SECRET not in message
    api.close()


def test_token_in_the_path_of_the_old_acl_endpoints_does_not_get_into_an_error(http_service):
    service = http_service(status=403)
    api = ConsulApi(ConsulConfig(host=service.host, port=service.port))
    with pytest.raises(ConsulPermissionError) as caught:
        api.http.get(lambda _: None, f"/v1/acl/info/{SECRET}")
    assert SECRET not in str(caught.value)
    api.close()


def test_redirect_is_not_followed_so_no_other_host_gets_the_token(http_service):
    elsewhere = http_service(body=b"{}")
    service = http_service(status=307, headers={"Location": elsewhere.url + "/v1/catalog/services"})
    api = ConsulApi(ConsulConfig(host=service.host, port=service.port, token=SECRET))
    with pytest.raises(InvalidReplyError, match="redirect"):
        api.services()
    with pytest.raises(InvalidReplyError, match="redirect"):
        api.register(SPEC, marks={})
    assert elsewhere.requests == []
    api.close()
