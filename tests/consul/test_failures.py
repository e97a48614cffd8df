"""Whatever goes wrong with Consul ends soon, in a typed error that says what happened, and without the token."""

from __future__ import annotations

import dataclasses
import os
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
import urllib3.exceptions

from registry_admin.consul import CheckSpec, ConsulApi, ConsulConfig, ServiceSpec, SnapshotReader, transport
from registry_admin.consul.api import ConsulReply
from registry_admin.errors import ConsulRefusedError, ConsulUnavailableError, InvalidReplyError, RegistryError
from tests.parts import free_port, refusing_port, wait_until

pytestmark = pytest.mark.network

TOKEN = "5ec7e700-0000-4000-8000-000000000000"
SPEC = ServiceSpec(name="backend-api", address="127.0.0.1", port=8000, check=CheckSpec(kind="none"))
CALLS = {
    "agent_instances": lambda api: api.agent_instances(),
    "agent_instance": lambda api: api.agent_instance("b1"),
    "agent_node": lambda api: api.agent_node(),
    "agent_address": lambda api: api.agent_address(),
    "leader": lambda api: api.leader(),
    "services": lambda api: api.services(),
    "health_states": lambda api: api.health_states(),
    "instances": lambda api: api.instances("backend-api"),
    "look": lambda api: SnapshotReader(api).read(),
    "text": lambda api: api.text("catalog", "nodes"),
    "register": lambda api: api.register(SPEC, marks={}),
    "deregister": lambda api: api.deregister("b1"),
    "deregister_check": lambda api: api.deregister_check("b1:http"),
    "set_maintenance": lambda api: api.set_maintenance("b1", enable=False),
    "update_ttl": lambda api: api.update_ttl("b1:ttl", "passing"),
}
WRITES = ("register", "deregister", "deregister_check", "set_maintenance", "update_ttl")
READS = {name: call for name, call in CALLS.items() if name not in (*WRITES, "text")}  # text isn't parsed
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
every_read = pytest.mark.parametrize("call", READS.values(), ids=READS)


@pytest.fixture
def api_at():
    """`api_at(host, port, **options)`: an API with a token that must not show up."""
    made = []

    def make(host, port, **options):
        options = {"token": TOKEN} | options
        made.append(ConsulApi(ConsulConfig(host=host, port=port, **options)))
        return made[-1]

    yield make
    for api in made:
        api.close()


@pytest.fixture
def imposter(http_service, api_at):
    """`imposter(status=…, body=…)`: an API at a server that answers so to everything, and the server."""

    def make(*, read_timeout=10, **options):
        service = http_service(**options)
        return api_at(service.host, service.port, read_timeout=read_timeout), service

    return make


def failure(kind, call, api):
    with pytest.raises(kind) as caught:
        call(api)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert message.startswith(f"Consul at {api.config.url} ")
    assert TOKEN not in message
    assert message.isprintable()
    return message


def answer_once_it_works(call, api):
    """For an API that is so impatient that a busy machine may make it give up now and then."""

    def answer():
        try:
            return call(api)
        except ConsulUnavailableError:
            return None

    return wait_until(answer, 30, "an answer")


# -- replies that are none -----------------------------------------------------------------------------------


@every_call
@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_server_that_can_not_answer_now_is_unavailable(imposter, call, status, monkeypatch):
    monkeypatch.setattr(transport, "REPEAT_PAUSES_S", (0.0,))
    api, _ = imposter(status=status, body=b"Too busy\n\x1b[31m")
    with pytest.raises(ConsulUnavailableError) as caught:
        call(api)
    assert caught.value.status == status
    assert f"({status}): Too busy \\x1b[31m" in failure(ConsulUnavailableError, call, api)


MOMENTARY = [(403, b"ACL not found"), (429, b"rate limit reached"), (503, b"rate limit reached")]


@pytest.mark.parametrize("refusals", [1, 2, 3])
@pytest.mark.parametrize(("status", "body"), MOMENTARY, ids=["token", "429", "503"])
def test_refusal_that_a_moment_may_change_is_believed_the_third_time(api_at, http_service, status, body, refusals):
    """A server that lags doesn't know a new token yet, and a limit ends by itself: nothing was done until then."""

    def refuse_at_first(handler, request):
        is_refused = len(consul.requests) <= refusals
        consul.status, consul.body = (status, body) if is_refused else (200, b'"127.0.0.1:8300"')
        consul.plain_answer(handler, request)

    consul = http_service(answer=refuse_at_first)
    api = api_at(consul.host, consul.port)
    if refusals < 3:
        assert api.leader() == "127.0.0.1:8300"
        assert len(consul.requests) == refusals + 1
    else:
        with pytest.raises(RegistryError, match=body.decode()):
            api.leader()
        assert len(consul.requests) == 3


@pytest.mark.parametrize(("status", "body"), [(403, b"Permission denied"), (500, b"rate limit"), (400, b"no")])
def test_refusal_that_stays_is_believed_the_first_time(imposter, status, body):
    api, service = imposter(status=status, body=body)
    with pytest.raises(RegistryError):
        api.leader()
    assert len(service.requests) == 1


@every_call
@pytest.mark.parametrize("status", [400, 405, 413])
def test_server_that_will_not_answer_has_refused(imposter, call, status):
    api, _ = imposter(status=status, body=b"Request body too large")
    assert f"({status}): Request body too large" in failure(ConsulRefusedError, call, api)


@every_call
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 304])
def test_redirect_is_not_followed(imposter, call, status):
    api, service = imposter(status=status, headers={"Location": "/elsewhere", "Content-Length": "0"}, body=b"")
    with pytest.raises(InvalidReplyError) as caught:
        call(api)
    assert caught.value.status == status
    assert "redirect" in failure(InvalidReplyError, call, api)
    assert "/elsewhere" not in {request.path for request in service.requests}


@every_read
@pytest.mark.parametrize(
    "body",
    [
        b"", b"garbage", b"<html>Welcome</html>", b"null", b"true", b"1", b"[1,", b'{"a":', b"\xff\xfe", b"\x00",
        b"{}{}",
        b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b'{"b1": null}', b'{"b1": []}', b'{"b1": "x"}', b"[null]",
        b"[[]]",
        b'["x"]', b"[{}]",
    ],
    ids=lambda body: ascii(body[:20]),
)  # fmt: skip
def test_reply_of_another_server_is_invalid_and_no_empty_list(imposter, call, body):
    api, _ = imposter(body=body)
    if call is READS["health_states"] and body == b"[{}]":
        assert call(api).data == [{}]
    elif call is READS["agent_instance"] and body.startswith(b'{"b1"'):
        assert call(api).id == ""
    elif call is READS["services"] and body in (b'{"b1": []}', b'{"b1": null}'):  # null: how Go writes an empty list
        assert call(api).data == {"b1": []}
    else:
        failure_is_invalid(call, api)


def failure_is_invalid(call, api):
    with pytest.raises(InvalidReplyError) as caught:
        call(api)
    assert "reply" in str(caught.value)


@every_read
def test_other_kind_of_list_is_invalid(imposter, call):
    api, _ = imposter(body=b"[]" if call in (READS["services"], READS["agent_instances"]) else b'"x"')
    if call is READS["leader"]:
        assert call(api) == "x"
    else:
        failure_is_invalid(call, api)


def test_compressed_reply_that_nobody_asked_for_is_invalid(imposter):
    api, service = imposter(body=b"\x1f\x8b\x08\x00garbage", headers={"Content-Encoding": "gzip"})
    failure_is_invalid(READS["services"], api)
    assert service.requests[0].headers["Accept-Encoding"] == "identity"


@every_read
def test_page_that_is_not_there_is_not_an_empty_list(imposter, call):
    api, _ = imposter(status=404, body=b"404 page not found")
    if call is READS["agent_instance"]:
        assert call(api) is None
    else:
        assert "is this really a Consul agent?" in failure(InvalidReplyError, call, api)


def test_reply_without_end_is_cut_off(imposter, monkeypatch):
    monkeypatch.setattr(transport, "MAX_REPLY", 1000)
    api, _ = imposter(body=b'{"' + b"x" * 200_000 + b'": []}')
    assert "more than 1000 bytes" in failure(InvalidReplyError, READS["services"], api)


@pytest.mark.parametrize("header", [None, "", "-1", "x", "1.5", "١", "9" * 5000, "0"])
def test_index_that_is_none_is_0(imposter, header):
    if header == "١":
        header = "\u0661".encode().decode("latin-1")
    api, _ = imposter(body=b"{}", headers={} if header is None else {"X-Consul-Index": header})
    assert api.services().index == 0


def test_index_and_what_is_said_about_the_list_are_passed_on(imposter):
    api, service = imposter(body=b"{}", headers={"X-Consul-Index": "12"})
    assert api.services() == ConsulReply(data={}, index=12, known_leader=True, filtered_by_acls=False)
    service.headers = {
        "X-Consul-Index": "7",  # backwards: for who watches to notice
        "X-Consul-KnownLeader": "false",
        "X-Consul-Results-Filtered-By-ACLs": "true",
    }
    reply = api.services(index=12, wait_s=0.1)
    assert reply == ConsulReply(data={}, index=7, known_leader=False, filtered_by_acls=True)
    assert service.requests[-1].path == "/v1/catalog/services?index=12&wait=100ms"


def test_wait_is_never_longer_than_consul_allows(imposter):
    api, service = imposter(body=b"{}")
    api.services(index=1, wait_s=float("inf"))
    assert service.requests[-1].path.endswith("wait=600000ms")


# -- connections ---------------------------------------------------------------------------------------------


@every_call
def test_closed_port_is_unavailable(api_at, call):
    api = api_at("127.0.0.1", free_port())
    with pytest.raises(ConsulUnavailableError) as caught:
        call(api)
    assert caught.value.status is None
    assert "refused the connection" in failure(ConsulUnavailableError, call, api)


def test_host_name_that_is_not_known(api_at, monkeypatch):
    def unknown(*_args, **_kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "its host name is not known" in failure(
        ConsulUnavailableError, READS["services"], api_at("consul.invalid", 1)
    )


def test_frozen_agent_is_given_up_on_and_used_again_once_it_thaws(make_agent, api_at):
    agent = make_agent()
    api = api_at(agent.host, agent.port, token=None, read_timeout=0.3)
    before = answer_once_it_works(READS["services"], api)
    agent.freeze()
    for call in CALLS.values():
        assert "didn't answer in time" in failure(ConsulUnavailableError, call, api)
    with pytest.raises(ConsulUnavailableError, match="in time"):
        api.services(index=before.index, wait_s=0.1)
    agent.thaw()
    assert answer_once_it_works(READS["services"], api).data


def test_agent_that_was_restarted_is_used_again_at_once(make_agent, api_at):
    agent = make_agent()
    api = api_at(agent.host, agent.port, token=None)
    api.register(SPEC, marks={})
    agent.stop()
    assert "refused" in failure(ConsulUnavailableError, READS["agent_instances"], api)
    agent.start()
    assert api.agent_instances() == {}  # it has forgotten everything
    api.register(SPEC, marks={})
    assert list(api.agent_instances()) == [SPEC.id]


def test_connection_that_died_while_it_was_idle_is_replaced(imposter):
    def answer_and_hang_up(handler, request):
        service.plain_answer(handler, request)
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True
        hung_up.set()

    hung_up = threading.Event()
    api, service = imposter(body=b"{}")
    service.answer = answer_and_hang_up
    for _ in range(3):
        hung_up.clear()
        api.services()
        assert hung_up.wait(10)


def test_half_open_connections_are_given_up_on(consul_agent, flaky_proxy, api_at):
    proxy = flaky_proxy(consul_agent.host, consul_agent.port)
    api = api_at(proxy.host, proxy.port, token=None, read_timeout=0.3)
    index = answer_once_it_works(READS["services"], api).index
    proxy.freeze()
    for options in ({}, {"index": index, "wait_s": 0.1}):
        with pytest.raises(ConsulUnavailableError, match="didn't answer in time"):
            api.services(**options)
    proxy.restore()
    assert answer_once_it_works(READS["services"], api).data


def test_connections_that_were_cut_are_replaced(consul_agent, flaky_proxy, api_at):
    proxy = flaky_proxy(consul_agent.host, consul_agent.port)
    api = api_at(proxy.host, proxy.port, token=None)
    assert api.services().data
    proxy.cut()
    assert "broke off the connection" in failure(ConsulUnavailableError, READS["services"], api)
    proxy.restore()
    assert api.services().data


def headers_of(handler, length):
    handler.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode())


def drip_body(handler, _request):
    headers_of(handler, 10_000)
    while True:  # until the other side has had enough
        handler.wfile.write(b" ")
        time.sleep(0.02)


def drip_chunks(handler, _request):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        handler.wfile.write(b"1\r\n \r\n")
        time.sleep(0.02)


def stall(handler, _request):
    headers_of(handler, 10_000)
    handler.connection.settimeout(10)
    handler.rfile.read(1)  # returns when the other side hangs up


@pytest.mark.parametrize("answer", [drip_body, drip_chunks, stall])
def test_reply_that_takes_for_ever_is_given_up_on(imposter, answer):
    api, _ = imposter(answer=answer, read_timeout=0.3)
    assert "didn't answer in time" in failure(ConsulUnavailableError, READS["services"], api)


def truncate(handler, _request):
    headers_of(handler, 10_000)
    handler.wfile.write(b'{"a": []')
    handler.close_connection = True


def truncate_chunks(handler, _request):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
    handler.close_connection = True


def reset(handler, _request):
    headers_of(handler, 10_000)
    handler.wfile.write(b'{"a": []')
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.close(handler.connection.detach())  # now, although files are still open on it
    handler.close_connection = True


def hang_up(handler, _request):
    handler.close_connection = True


def speak_something_else(handler, _request):
    handler.wfile.write(b"220 mail.example ESMTP\r\n")
    handler.close_connection = True


@every_call
@pytest.mark.parametrize("answer", [truncate, truncate_chunks, reset, hang_up, speak_something_else])
def test_reply_that_breaks_off_is_no_reply(imposter, call, answer):
    api, _ = imposter(answer=answer)
    assert "broke off the connection" in failure(ConsulUnavailableError, call, api)


@pytest.mark.parametrize(
    "error", [urllib3.exceptions.DecodeError("x"), urllib3.exceptions.HTTPError("x"), OSError(5, "x")]
)
def test_unexpected_exception_is_a_typed_error(imposter, monkeypatch, error):
    def fail(*_args, **_kwargs):
        raise error

    api, _ = imposter(body=b"{}")
    monkeypatch.setattr(transport, "_read_all", fail)
    failure(ConsulUnavailableError, READS["services"], api)


# -- surroundings --------------------------------------------------------------------------------------------


def test_proxies_and_netrc_of_the_environment_are_not_used(imposter, monkeypatch, tmp_path):
    api, service = imposter(body=b"{}")
    (tmp_path / "netrc").write_text(f"machine {service.host} login someone password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{refusing_port()}")
    api.services()
    assert "Authorization" not in service.requests[0].headers


def test_cookies_are_not_kept(imposter):
    api, service = imposter(body=b"{}", headers={"Set-Cookie": "a=b"})
    api.services()
    api.services()
    assert "Cookie" not in service.requests[1].headers


def test_threads_share_one_api(consul_agent):
    api = ConsulApi(consul_agent.config)
    failed = []

    def ask(name):
        failed.extend(name for _ in range(10) if api.agent_instance(name).id != name)

    for n in range(8):
        api.register(dataclasses.replace(SPEC, id=f"b{n}"), marks={})
    threads = [threading.Thread(target=ask, args=(f"b{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    api.close()
    consul_agent.forget_services()
    assert failed == []


FORK = """
import os, sys
from registry_admin.consul import ConsulApi, ServiceSpec
api = ConsulApi()
for name in ("parent", "child"):
    api.register(ServiceSpec(name=name, address="127.0.0.1", port=80), marks={})
child = os.fork()
name = "parent" if child else "child"
right = all(api.agent_instance(f"{name}-127.0.0.1-80").service == name for _ in range(200))
if not child:
    os._exit(0 if right else 1)
_, status = os.waitpid(child, 0)
sys.exit(0 if right and status == 0 else 1)
"""


def test_forked_child_does_not_talk_into_its_parents_connections(consul_agent):
    try:
        subprocess.run([sys.executable, "-c", FORK], env=os.environ | consul_agent.env, check=True, timeout=60)
    finally:
        consul_agent.forget_services()


# -- TLS -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(consul_agent, tmp_path_factory):
    """Folders of certificates that Consul itself made: one to use, and a stranger's."""
    folders = {}
    for name in ("ours", "strangers"):
        folders[name] = folder = tmp_path_factory.mktemp(name)
        consul_agent.command("tls", "ca", "create", cwd=folder)
        consul_agent.command("tls", "cert", "create", "-server", cwd=folder)
        consul_agent.command("tls", "cert", "create", "-client", cwd=folder)
    return folders


@pytest.fixture
def tls_agent(make_agent, certificates):
    """`tls_agent(verify_incoming=…)`: an agent that speaks HTTPS, and its port for that."""

    def make(*, verify_incoming):
        folder, port = certificates["ours"], free_port()
        files = {
            "ca_file": str(folder / "consul-agent-ca.pem"),
            "cert_file": str(folder / "dc1-server-consul-0.pem"),
            "key_file": str(folder / "dc1-server-consul-0-key.pem"),
        }
        return make_agent(
            settings=lambda version: {
                "ports": {"https": port},
                **(
                    {"tls": {"defaults": files, "https": {"verify_incoming": verify_incoming}}}
                    if version >= (1, 12)
                    else {**files, "verify_incoming_https": verify_incoming}
                ),
            }
        ), port

    return make


def test_https_with_the_right_certificates_and_with_wrong_ones(tls_agent, certificates, api_at, tmp_path):
    agent, port = tls_agent(verify_incoming=False)
    ca, strangers = (str(certificates[name] / "consul-agent-ca.pem") for name in ("ours", "strangers"))
    environ = {"CONSUL_HTTP_ADDR": f"https://localhost:{port}", "CONSUL_CACERT": ca}
    api = ConsulApi(ConsulConfig.from_env(environ))
    assert api.leader()
    api.register(SPEC, marks={})
    assert list(api.agent_instances()) == [SPEC.id]
    api.close()

    def https(**options):
        return api_at("localhost", port, scheme="https", **options)

    for verify in (strangers, True):
        message = failure(ConsulUnavailableError, READS["services"], https(verify=verify))
        assert "can't be trusted: a TLS certificate was refused" in message
        assert "CONSUL_CACERT" in message
    with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
        assert https(verify=False).leader()

    (tmp_path / "empty").touch()
    for verify in (str(tmp_path / "missing"), str(tmp_path / "empty")):
        assert "TLS" in failure(ConsulUnavailableError, READS["services"], https(verify=verify))

    assert "doesn't speak TLS" in failure(
        ConsulUnavailableError, READS["services"], api_at("localhost", agent.port, scheme="https")
    )
    plain = api_at("localhost", port)
    assert "HTTP request to an HTTPS server" in failure(ConsulRefusedError, READS["services"], plain)


def test_https_with_a_certificate_of_the_clients(tls_agent, certificates, api_at):
    _, port = tls_agent(verify_incoming=True)
    certificates, strangers = certificates["ours"], certificates["strangers"]

    def https(folder):
        cert = folder and (str(folder / "dc1-client-consul-0.pem"), str(folder / "dc1-client-consul-0-key.pem"))
        ca = str(certificates / "consul-agent-ca.pem")
        return api_at("localhost", port, scheme="https", verify=ca, cert=cert, token=None)

    assert https(certificates).leader()
    for folder in (None, strangers):
        assert "TLS certificate was refused" in failure(ConsulUnavailableError, READS["leader"], https(folder))
    for cert in (str(certificates / "missing.pem"), str(certificates / "consul-agent-ca.pem")):
        api = api_at("localhost", port, scheme="https", verify=str(certificates / "consul-agent-ca.pem"), cert=cert)
        assert "TLS" in failure(ConsulUnavailableError, READS["leader"], api)


def test_host_of_another_name_than_its_certificates_is_not_trusted(tls_agent, certificates, api_at, monkeypatch):
    _, port = tls_agent(verify_incoming=False)
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _host, *args, **kwargs: real("127.0.0.1", *args, **kwargs))
    ca = str(certificates["ours"] / "consul-agent-ca.pem")
    message = failure(
        ConsulUnavailableError,
        READS["services"],
        api_at("consul.example", port, scheme="https", verify=ca),
    )
    assert "can't be trusted" in message
