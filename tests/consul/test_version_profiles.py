"""The contract of answers that differ between versions: the proxy that translates them, and the agent itself.

Every test runs against the agent as it is, by the facts of its own version, and against each profile that it can answer
as. So the proxy says what a real agent says, wherever CONSUL_BIN names one of that version.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests

from tests.fixtures.consul import answering_as
from tests.parts import ConsulAgent, wait_until
from tests.parts.version_profile import CHECK_OPTIONS, MAX_BODY, PROFILES, VersionProfile

API = {"ID": "api-1", "Name": "api", "Port": 8001}
UNKNOWN_TOKEN = "5ec7e700-0000-4000-8000-00000000dead"
ALL = ["the agent", *PROFILES]


@dataclass
class Answering:
    """An agent, or a proxy before one, that answers as `profile` says; `agent` is the real one."""

    url: str
    profile: VersionProfile
    agent: ConsulAgent
    session: requests.Session = field(default_factory=requests.Session)

    def __call__(
        self, method: str, path: str, body: Any = None, *, token: str | None = "", data: bytes | None = None
    ) -> requests.Response:
        """Sends a request with this token; with the agent's own unless one is given, and with none for None."""
        chosen = self.agent.management_token if token == "" else token
        headers = {"X-Consul-Token": chosen} if chosen else {}
        return self.session.request(method, self.url + path, json=body, data=data, headers=headers, timeout=40)


def answering(name: str, agent: ConsulAgent) -> Iterator[Answering]:
    if name == "the agent":
        yield Answering(agent.own_url, VersionProfile(version=agent.own_version), agent)
        agent.forget_services()
    else:
        with answering_as(name, agent) as proxy:
            yield Answering(proxy.url, proxy.profile, agent)


@pytest.fixture(params=ALL)
def ask(request: pytest.FixtureRequest, consul_agent: ConsulAgent) -> Iterator[Answering]:
    """Without ACLs."""
    yield from answering(request.param, consul_agent)


@pytest.fixture(params=ALL)
def ask_guarded(request: pytest.FixtureRequest, guarded_agent: ConsulAgent) -> Iterator[Answering]:
    """With ACLs that deny by default."""
    yield from answering(request.param, guarded_agent)


def register(ask: Answering, body: Mapping[str, Any] = API) -> None:
    assert ask("PUT", "/v1/agent/service/register", body).ok
    wait_until(lambda: ask("GET", f"/v1/health/service/{body['Name']}").json(), what="the catalog")


# -- headers ----------------------------------------------------------------------------------------------------------


def test_default_policy_is_told_with_every_reply(ask, ask_guarded):
    for item, policy in ((ask, "allow"), (ask_guarded, "deny")):
        for path in ("/v1/agent/services", "/v1/catalog/services", "/v1/health/service/api"):
            expected = policy if item.profile.tells_default_policy else None
            assert item("GET", path).headers.get("X-Consul-Default-ACL-Policy") == expected


def test_blocking_read_of_health_is_streamed_and_knows_no_leader(ask):
    register(ask)
    plain = ask("GET", "/v1/health/service/api")
    index = int(plain.headers["X-Consul-Index"])
    assert plain.headers["X-Consul-KnownLeader"] == "true"
    assert plain.headers.get("X-Consul-Query-Backend") == ("blocking-query" if ask.profile.streams else None)
    blocking = ask("GET", f"/v1/health/service/api?index={index - 1}&wait=1s")
    assert [entry["Service"]["ID"] for entry in blocking.json()] == ["api-1"]
    assert blocking.headers["X-Consul-KnownLeader"] == ("false" if ask.profile.streams else "true")
    assert blocking.headers.get("X-Consul-Query-Backend") == ("streaming" if ask.profile.streams else None)


@pytest.mark.parametrize("path", ["/v1/catalog/services", "/v1/health/state/any", "/v1/catalog/nodes"])
def test_blocking_read_of_anything_else_knows_the_leader(ask, path):
    reply = ask("GET", f"{path}?index=1&wait=1s")
    assert reply.headers["X-Consul-KnownLeader"] == "true"
    assert reply.headers.get("X-Consul-Query-Backend") in (None, "blocking-query")


def test_filtered_list_is_told_to_whoever_sent_a_token(ask_guarded):
    register(ask_guarded)
    token = ask_guarded.agent.make_token('node_prefix "" { policy = "read" }')
    for path in ("/v1/agent/services", "/v1/catalog/services", "/v1/health/service/api"):
        headers = [ask_guarded("GET", path, token=sent).headers for sent in (token, None, "")]
        filtered = [item.get("X-Consul-Results-Filtered-By-ACLs") for item in headers]
        assert filtered == ["true" if ask_guarded.profile.tells_filtering else None, None, None], path


def test_refusal_is_plain_text_where_a_browser_might_show_it(ask):
    reply = ask("PUT", "/v1/agent/service/register", data=b"<script>")
    assert reply.status_code == 400
    expected = "text/plain; charset=utf-8"
    assert reply.headers["Content-Type"] == expected


# -- refusals ---------------------------------------------------------------------------------------------------------

CHANGES: Mapping[str, tuple[str, Any]] = {
    "service": ("/v1/agent/service/deregister/none", None),
    "maintenance": ("/v1/agent/service/maintenance/none?enable=true", None),
    "check": ("/v1/agent/check/deregister/none", None),
    "update": ("/v1/agent/check/update/none", {"Status": "passing"}),
}


@pytest.mark.parametrize(("path", "body"), CHANGES.values(), ids=CHANGES)
def test_change_of_an_unknown_id_is_not_found(ask, ask_guarded, path, body):
    kind = "check" if "/check/" in path else "service"
    for item in (ask, ask_guarded):
        reply = item("PUT", path, body)
        if item.profile.refuses_unknown_ids:
            expected = f'Unknown {kind} ID "none". Ensure that the {kind} ID is passed, not the {kind} name.'
            assert (reply.status_code, reply.text) == (404, expected)
        else:
            assert reply.status_code in (200, 404, 500)


DENIED: Mapping[str, tuple[str, str, Any, str]] = {
    "register": ("PUT", "/v1/agent/service/register", API, "'service:write' on \"api\""),
    "deregister": ("PUT", "/v1/agent/service/deregister/api-1", None, "'service:write' on \"api\""),
    "check": ("PUT", "/v1/agent/check/deregister/service:api-1", None, "'service:write' on \"api\""),
}


@pytest.mark.parametrize(("method", "path", "body", "permission"), DENIED.values(), ids=DENIED)
def test_denial_names_the_token_and_the_permission(ask_guarded, method, path, body, permission):
    register(ask_guarded, {**API, "Check": {"TTL": "1h"}})
    token = ask_guarded.agent.make_token('service_prefix "" { policy = "read" }')
    accessor = ask_guarded("GET", "/v1/acl/token/self", token=token).json()["AccessorID"]
    reply = ask_guarded(method, path, body, token=token)
    expected = f"Permission denied: token with AccessorID '{accessor}' lacks permission {permission}"
    assert reply.status_code == 403
    assert reply.text == expected if ask_guarded.profile.names_token else reply.text.startswith("Permission denied")


def test_denial_of_a_request_without_a_token_speaks_of_the_anonymous_one(ask_guarded):
    reply = ask_guarded("PUT", "/v1/agent/service/register", API, token=None)
    expected = (
        "Permission denied: anonymous token lacks permission 'service:write' on \"api\". "
        "The anonymous token is used implicitly when a request does not specify a token."
    )
    assert reply.status_code == 403
    assert reply.text == expected if ask_guarded.profile.names_token else reply.text.startswith("Permission denied")


@pytest.mark.parametrize("path", ["/v1/agent/services", "/v1/catalog/services", "/v1/health/service/api"])
def test_unknown_token_is_denied(ask_guarded, path):
    reply = ask_guarded("GET", path, token=UNKNOWN_TOKEN)
    assert (reply.status_code, reply.text) == (403, "ACL not found")


def test_registration_above_the_limit_is_too_large(ask):
    body = {**API, "Meta": {"padding": "x" * MAX_BODY}}
    reply = ask("PUT", "/v1/agent/service/register", body)
    if ask.profile.max_body is None:  # the value is too long for a Meta
        assert reply.status_code == 400
    else:
        expected = f"Request body({len(json.dumps(body))} bytes) too large, max size: 524288 bytes."
        assert reply.status_code == 413
        assert reply.text.startswith(expected)


# -- fields -----------------------------------------------------------------------------------------------------------


def service(ask: Answering, read: str) -> dict[str, Any]:
    """Returns the registered service as one of the reads shows it."""
    reads: Mapping[str, Callable[[Any], dict[str, Any]]] = {
        "/v1/agent/services": lambda data: data["api-1"],
        "/v1/agent/service/api-1": lambda data: data,
        "/v1/health/service/api": lambda data: data[0]["Service"],
        f"/v1/catalog/node/{ask('GET', '/v1/agent/self').json()['Config']['NodeName']}": (
            lambda data: data["Services"]["api-1"]
        ),
    }
    path = next(path for path in reads if path.startswith(read))
    return reads[path](ask("GET", path).json())


READS = ["/v1/agent/services", "/v1/agent/service/", "/v1/health/service/", "/v1/catalog/node/"]


@pytest.mark.parametrize("read", READS)
def test_service_names_its_peer_or_its_datacenter(ask, read):
    register(ask)
    is_agents = read.startswith("/v1/agent/")
    knows_peers = ask.profile.knows_peers
    assert service(ask, read).get("PeerName") == ("" if knows_peers and not is_agents else None)
    assert service(ask, read).get("Datacenter") == ("dc1" if knows_peers and is_agents else None)


def test_registration_with_an_unknown_field_is_refused(ask):
    reply = ask("PUT", "/v1/agent/service/register", {**API, "Nonsense": 1})
    assert reply.status_code == 400
    assert "Nonsense" in reply.text


def test_check_options_of_newer_versions_are_taken_where_they_are_known(ask):
    options = {"TLSServerName": "api", "FailuresBeforeWarning": 1, "DisableRedirects": True}
    for name, value in options.items():
        check = {"HTTP": "http://127.0.0.1:9/", "Interval": "1h", "FailuresBeforeCritical": 1, name: value}
        reply = ask("PUT", "/v1/agent/service/register", {**API, "Checks": [check]})
        assert reply.ok is (ask.profile.version >= CHECK_OPTIONS[name]), name


@pytest.mark.parametrize("read", READS)
def test_fields_of_newer_versions_come_back_where_they_are_known(ask, read):
    locality = {"Region": "eu-1", "Zone": "a"}
    ports = [{"Name": "http", "Port": 8001, "Default": True}, {"Name": "admin", "Port": 8002}]
    body = {**API, "Locality": locality} if ask.profile.carries_locality else API
    if ask.profile.has_several_ports:
        body = {key: value for key, value in body.items() if key != "Port"} | {"Ports": ports}
    register(ask, body)
    actual = service(ask, read)
    assert actual.get("Locality") == (locality if ask.profile.carries_locality else None)
    assert actual.get("Ports") == (ports if ask.profile.has_several_ports else None)
    assert (actual.get("Port") or 0) == (0 if ask.profile.has_several_ports else 8001)


def test_agent_tells_its_version(ask):
    version = ask("GET", "/v1/agent/self").json()["Config"]["Version"]
    assert version.split(".")[:2] == ask.profile.name.split(".")
