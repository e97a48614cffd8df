"""Consul with a private authority and clients' certificates, as Consul's own environment variables name them."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
import traceback
from pathlib import Path

import pytest

from registry_admin.consul import CheckSpec, ConsulApi, ConsulConfig, Health, ServiceRegistry, ServiceSpec
from registry_admin.consul.snapshot import SnapshotReader
from registry_admin.errors import ConsulPermissionError, ConsulRefusedError, ConsulUnavailableError
from tests.parts import Certificates, ConsulAgent, wait_until

POLICY = Path(__file__).parent.parent.parent / "docs" / "consul-policy.hcl"
MANAGEMENT = "5ec7e700-0000-4000-8000-000000000000"
SPEC = ServiceSpec(name="backend-api", address="127.0.0.1", port=8000, check=CheckSpec(kind="ttl", interval="1h"))


@pytest.fixture(scope="module")
def certificates(make_certificates):
    return make_certificates()


@pytest.fixture(scope="module")
def strangers(make_certificates):
    return make_certificates()


@pytest.fixture(scope="module", params=["open", "guarded"])
def agent(request, certificates, tmp_path_factory):
    """HTTPS only, without ACLs and then with them, where its token may do what docs/consul-policy.hcl says."""
    guarded = request.param == "guarded"
    agent = ConsulAgent(
        tmp_path_factory.mktemp("consul"), tls=certificates, management_token=MANAGEMENT if guarded else None
    )
    try:
        agent.start()
        if guarded:
            agent.token = agent.make_token(POLICY.read_text())
        yield agent
    finally:
        agent.stop()


@pytest.fixture
def api_with(agent):
    """`api_with(NAME=value, …)`: an API from the agent's environment with these changed or, where None, unset."""
    made = []

    def make(**changed):
        environ = {name: value for name, value in (agent.env | changed).items() if value is not None}
        made.append(ConsulApi(ConsulConfig.from_env(environ)))
        return made[-1]

    yield make
    for api in made:
        api.close()
    agent.forget_services()


@pytest.fixture
def registry(agent, monkeypatch):
    for name, value in agent.env.items():
        monkeypatch.setenv(name, value)
    registry = ServiceRegistry.from_env()
    yield registry
    registry.api.close()
    agent.forget_services()


def test_module_registers_is_found_and_leaves(registry):
    service_id = registry.register_service("backend-api", "127.0.0.1", 8000, ["api"], check=SPEC.check)
    registry.api.update_ttl(SPEC.check_id, "passing")
    result = wait_until(lambda: registry.discover_service("backend-api", tag="api"), what="the catalog")
    assert [item.id for item in result] == [service_id]
    assert registry.get_service_url("backend-api") == "http://127.0.0.1:8000"
    assert registry.discover_all_services()["backend-api"] == ["api"]
    registry.deregister_service(service_id)
    assert registry.api.agent_instances() == {}


def test_operators_side_sees_all_that_is_there(api_with):
    api = api_with()
    api.register(SPEC, marks={}, status="passing")
    api.set_maintenance(SPEC.id, enable=True, reason="a new disk")
    snapshot = SnapshotReader(api).read()
    assert snapshot.local[SPEC.id].health is Health.MAINTENANCE
    assert not snapshot.is_filtered
    assert api.leader()


def test_key_may_be_in_the_file_of_the_certificate(api_with, certificates, tmp_path):
    both = tmp_path / "client.pem"
    both.write_text("".join(Path(name).read_text() for name in certificates.client))
    assert api_with(CONSUL_CLIENT_CERT=str(both), CONSUL_CLIENT_KEY=None).leader()


READS = {
    "services": lambda api, **options: api.services(**options),
    "health_states": lambda api, **options: api.health_states(**options),
    "instances": lambda api, **options: api.instances("backend-api", **options),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_blocking_queries_wake_up(api_with, read):
    api = api_with()
    api.register(SPEC, marks={})
    wait_until(lambda: api.instances("backend-api").data, what="the catalog")
    before, woken = read(api).index, []

    def until_changed():
        index = before
        while index <= before:  # a return proves no change
            index = read(api, index=index, wait_s=60).index
        woken.append(index)

    waiting = [threading.Thread(target=until_changed, daemon=True) for _ in range(3)]
    for thread in waiting:
        thread.start()
    other = ServiceSpec(name="backend-api", address="127.0.0.1", port=8001, tags=["new"], check=SPEC.check)
    api.register(other, marks={})
    for thread in waiting:
        thread.join(30)
    assert len(woken) == len(waiting)
    assert read(api, index=woken[0], wait_s=0.01).index >= woken[0]  # and one whose wait is over returns


# -- what is wrong is said, and the key isn't --------------------------------------------------------------------


def failure(kind, api, agent, *authorities):
    with pytest.raises(kind) as caught:
        api.services()
    message = str(caught.value)
    everything = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value)) + repr(api.config)
    for secret in secrets(*authorities) + ([agent.token] if agent.token else []):
        assert secret not in everything
    assert "PRIVATE KEY" not in everything
    assert message.startswith(f"Consul at {api.config.url} ")
    assert message.isprintable()
    return message


def secrets(*authorities):
    """The lines of the clients' keys."""
    lines = [line for item in authorities for line in Path(item.client[1]).read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("-----")]


def test_without_a_certificate_of_ones_own(api_with, agent, certificates):
    api = api_with(CONSUL_CLIENT_CERT=None, CONSUL_CLIENT_KEY=None)
    message = failure(ConsulUnavailableError, api, agent, certificates)
    assert "a TLS certificate was refused" in message
    assert "CONSUL_CLIENT_CERT" in message


def test_with_a_certificate_that_the_agents_authority_has_not_signed(api_with, agent, certificates, strangers):
    cert, key = strangers.client
    api = api_with(CONSUL_CLIENT_CERT=cert, CONSUL_CLIENT_KEY=key)
    message = failure(ConsulUnavailableError, api, agent, certificates, strangers)
    assert "a TLS certificate was refused" in message
    assert "CONSUL_CLIENT_CERT" in message


@pytest.mark.parametrize("authority", ["a stranger's", "the public ones"])
def test_with_another_authority_than_the_agents(api_with, agent, certificates, strangers, authority):
    api = api_with(CONSUL_CACERT=strangers.ca if authority == "a stranger's" else None)
    message = failure(ConsulUnavailableError, api, agent, certificates)
    assert "can't be trusted: a TLS certificate was refused" in message
    assert "CONSUL_CACERT" in message


def test_with_a_host_name_that_is_not_in_the_agents_certificate(api_with, agent, certificates, monkeypatch):
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _host, *args, **kwargs: real("127.0.0.1", *args, **kwargs))
    for host, good in (("localhost", True), ("consul.example", False)):
        api = api_with(CONSUL_HTTP_ADDR=f"https://{host}:{agent.port}")
        if good:
            assert api.leader()
        else:
            assert "can't be trusted" in failure(ConsulUnavailableError, api, agent, certificates)


def test_with_plain_http(api_with, agent, certificates):
    api = api_with(CONSUL_HTTP_ADDR=f"http://127.0.0.1:{agent.port}")
    assert "HTTP request to an HTTPS server" in failure(ConsulRefusedError, api, agent, certificates)


def test_with_a_key_that_is_not_the_certificates(api_with, agent, certificates, strangers):
    api = api_with(CONSUL_CLIENT_KEY=strangers.client[1])
    assert "TLS" in failure(ConsulUnavailableError, api, agent, certificates, strangers)


@pytest.mark.parametrize("client", ["none", "a stranger's"])
def test_certificate_refused_after_a_tls_1_3_handshake(raw_service, certificates, strangers, client):
    """An agent from 1.13 on says so in an alert at the first read, when the handshake has succeeded here."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version, tls.verify_mode = ssl.TLSVersion.TLSv1_3, ssl.CERT_REQUIRED
    tls.load_cert_chain(*certificates.agent)
    tls.load_verify_locations(certificates.ca)
    consul = raw_service(lambda connection: None, tls=tls)
    cert = strangers.client if client == "a stranger's" else None
    config = ConsulConfig(host=consul.host, port=consul.port, scheme="https", verify=certificates.ca, cert=cert)
    with pytest.raises(ConsulUnavailableError, match=r"a TLS certificate was refused .*CONSUL_CLIENT_CERT"):
        ConsulApi(config).leader()


# -- tokens besides ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["guarded"], indirect=True)
@pytest.mark.parametrize(
    ("token", "hint"),
    [(None, "No token was sent"), ("5ec7e700-0000-4000-8000-00000000dead", "Consul doesn't know this token")],
    ids=["none", "unknown"],
)
def test_certificate_is_no_token(api_with, token, hint):
    api = api_with(CONSUL_HTTP_TOKEN=token)
    with pytest.raises(ConsulPermissionError, match=hint) as caught:
        api.register(SPEC, marks={})
    assert token is None or token not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("agent", ["guarded"], indirect=True)
def test_policy_of_the_docs_lets_no_more_through(api_with):
    with pytest.raises(ConsulPermissionError):
        api_with().kv.put("a", "b")


# -- a new authority -----------------------------------------------------------------------------------------


def test_replaced_certificates_are_used_from_the_next_connection_on(certificates, strangers, make_agent, tmp_path):
    """Renews the files as a machine does, while the process goes on."""
    folder = Path(shutil.copytree(certificates.folder, tmp_path / "certificates"))
    agent = make_agent(tls=Certificates(folder))
    api = ConsulApi(ConsulConfig.from_env(agent.env))
    assert api.leader()
    agent.stop()
    shutil.copytree(strangers.folder, folder, dirs_exist_ok=True)
    agent.start()
    assert api.leader()
    api.close()
