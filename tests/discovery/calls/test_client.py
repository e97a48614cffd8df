"""Calls by name through a real Consul, by the synchronous and the asynchronous client."""

from __future__ import annotations

import asyncio
import gc
import gzip
import io
import os
import re
import signal
import subprocess
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import requests

from registry_admin.consul import CheckKind, CheckSpec, ConsulConfig, ServiceRegistry, ServiceSpec
from registry_admin.discovery import ServiceDiscoveryClient, SyncServiceDiscoveryClient, acall_service, call_service
from registry_admin.discovery.calls import async_client, client
from registry_admin.errors import (
    CallFailedError,
    ConsulUnavailableError,
    DeadlineExceededError,
    InvalidValueError,
    NoHealthyInstanceError,
    NoSuchServiceError,
    RegistryError,
)
from tests.parts import ConsulAgent, FlakyProxy, HttpService, free_port, refusing_port, wait_until
from tests.parts.any_client import AnyClient
from tests.parts.raw_service import OK

# -- requests and responses ------------------------------------------------------------------------------------------


def test_call_reaches_the_service_with_its_arguments(caller, add, http_service):
    service = http_service(body=b'{"id": 7}', headers={"Content-Type": "application/json"})
    add(service)
    response = caller.call_service(
        "api", "/publish", method="POST", params={"q": "a b"}, headers={"X-Own": "1"}, json={"title": "Test"}
    )
    assert isinstance(response, requests.Response)
    assert (response.status_code, response.json(), response.url) == (200, {"id": 7}, f"{service.url}/publish?q=a%20b")
    assert response.elapsed.total_seconds() > 0
    (received,) = service.requests
    assert (received.method, received.path, received.body) == ("POST", "/publish?q=a%20b", b'{"title":"Test"}')
    sent = {name.lower(): value for name, value in received.headers.items()}
    assert (sent["x-own"], sent["content-type"], sent["host"]) == (
        "1",
        "application/json",
        f"127.0.0.1:{service.port}",
    )
    assert sent.keys() - {"traceparent"} == {  # which is sent where another test has loaded OpenTelemetry
        "host", "x-own", "content-type", "content-length", "accept", "accept-encoding", "user-agent",
        "x-request-id", "x-request-timeout-ms", "x-service-instance",
    }  # fmt: skip
    assert sent["x-service-instance"] == f"api-127.0.0.1-{service.port}@localhost:{service.port}"
    assert 0 < int(sent["x-request-timeout-ms"]) <= 10_000


def test_header_that_names_the_instance_is_the_clients_own(caller, add, http_service):
    service = http_service()
    service_id = add(service)
    caller.get("api", headers={"x-service-instance": "forwarded@localhost:1"})
    (received,) = service.requests
    names = [name for name in received.headers if name.lower() == "x-service-instance"]
    assert [received.headers[name] for name in names] == [f"{service_id}@localhost:{service.port}"]


def test_status_421_of_the_service_itself_is_returned(caller, add, http_service):
    service = http_service(status=421)
    add(service)
    assert caller.get("api").status_code == 421
    assert len(service.requests) == 1


def test_elapsed_is_the_time_until_the_response(caller, add, http_service):
    def answer(handler, request):
        time.sleep(0.1)  # the time to be measured
        service.plain_answer(handler, request)

    service = http_service(answer=answer)
    add(service)
    assert caller.get("api").elapsed.total_seconds() >= 0.1


@pytest.mark.parametrize("verb", ["get", "post", "put", "patch", "delete"])
def test_shorthand_calls_with_its_method(caller, add, http_service, verb):
    service = http_service()
    add(service)
    assert caller.shorthand(verb, "api", "/x").status_code == 200
    assert [(request.method, request.path) for request in service.requests] == [(verb.upper(), "/x")]


def test_response_to_head_has_no_body(caller, add, http_service):
    add(http_service(body=b"four"))
    response = caller.call_service("api", method="HEAD")
    assert (response.content, response.headers["Content-Length"]) == (b"", "4")


def test_data_mapping_is_sent_as_a_form(caller, add, http_service):
    service = http_service()
    add(service)
    caller.post("api", "/publish", data={"title": "Test it"})
    assert service.requests[0].body == b"title=Test+it"


def test_files_credentials_and_virtual_host_arrive(caller, add, http_service, tmp_path):
    service = http_service()
    add(service)
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(1_000_000))
    with path.open("rb") as file:
        options = {
            "files": {"report": file},
            "data": {"title": "Test"},
            "auth": ("me", "secret"),
            "cookies": {"a": "1"},
        }
        assert caller.post("api", "/up", host="shop.example.com", **options).status_code == 200
    received = service.requests[0]
    headers = {name.lower(): value for name, value in received.headers.items()}
    assert (headers["host"], headers["cookie"], headers["authorization"]) == (
        "shop.example.com", "a=1", "Basic bWU6c2VjcmV0",
    )  # fmt: skip
    assert headers["content-type"].startswith("multipart/form-data; boundary=")
    assert received.body.count(b"\0") == 1_000_000
    assert b'name="report"; filename="large.bin"' in received.body


def test_upload_is_sent_whole_to_the_next_instance(caller, add, http_service, raw_service):
    refusing = raw_service(b"HTTP/1.1 503 Away\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    service = http_service(body=b"stored")
    add(refusing)
    add(service)
    for _ in range(8):
        response = caller.call_service("api", "/up", method="PUT", files={"report": io.BytesIO(bytes(600_000))})
        assert response.content == b"stored"
    assert {request.body.count(b"\0") for request in service.requests} == {600_000}
    assert refusing.requests


def test_cookies_of_a_response_are_read_and_not_sent_by_themselves(caller, add, http_service):
    service = http_service(headers={"Set-Cookie": "session=7; Path=/"})
    add(service)
    assert dict(caller.get("api").cookies) == {"session": "7"}
    caller.get("api")
    assert "Cookie" not in service.requests[1].headers


def test_service_below_a_base_path_is_called_there(caller, add, http_service):
    service = http_service(headers={"Location": "/shop/elsewhere"})
    add(service, meta={"base_path": "/shop/"})
    response = caller.get("api", "/cards", params={"page": 2})
    assert [request.path for request in service.requests] == ["/shop/cards?page=2"]
    assert response.url == f"http://127.0.0.1:{service.port}/shop/cards?page=2"


def test_instance_whose_base_path_could_change_the_host_is_not_called(caller, consul_agent, http_service):
    service = http_service()
    body = {"Name": "api", "ID": "api", "Address": service.host, "Port": service.port, "Meta": {"base_path": "@evil/"}}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    with pytest.raises(NoHealthyInstanceError):
        caller.get("api")
    assert not service.requests


def test_compressed_response_is_decompressed(caller, add, http_service):
    packed = gzip.compress(b"text" * 100)
    add(http_service(body=packed, headers={"Content-Encoding": "gzip", "Content-Type": "text/plain"}))
    assert caller.get("api").text == "text" * 100


def test_round_robin_calls_instances_in_turn(make_client, add, http_service):
    services = [http_service(), http_service()]
    for service in services:
        add(service)
    caller = make_client(balancing="round-robin")
    for _ in range(6):
        caller.get("api")
    assert [len(service.requests) for service in services] == [3, 3]


def test_tag_narrows_the_instances(caller, add, http_service):
    services = [http_service(), http_service()]
    add(services[0], tags=("blue",))
    add(services[1], tags=("green",))
    for _ in range(4):
        caller.get("api", tag="green")
    assert [len(service.requests) for service in services] == [0, 4]
    with pytest.raises(NoHealthyInstanceError, match="'red'"):
        caller.get("api", tag="red")


@pytest.mark.parametrize("status", [301, 400, 404, 429, 500])
def test_response_of_any_status_is_returned(caller, add, http_service, status):
    service = http_service(status=status)
    add(service)
    assert caller.get("api").status_code == status
    assert len(service.requests) == 1


def test_connection_is_reused_without_cookies(caller, add, http_service):
    peers = set()

    def answer(handler, request):
        peers.add(handler.client_address)
        service.plain_answer(handler, request)

    service = http_service(answer=answer, headers={"Set-Cookie": "session=1; Path=/"})
    add(service)
    for _ in range(5):
        caller.get("api")
    assert len(peers) == 1
    assert not any("cookie" in name.lower() for request in service.requests for name in request.headers)


def test_proxies_and_netrc_of_the_environment_are_ignored(caller, add, http_service, monkeypatch, tmp_path):
    service = http_service()
    add(service)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert caller.get("api").status_code == 200
    assert not any(name.lower() == "authorization" for name in service.requests[0].headers)


# -- retries --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply", [OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel", b""], ids=["truncated", "nothing"]
)
@pytest.mark.parametrize(
    "options", [{"method": "GET"}, {"method": "POST", "headers": {"Idempotency-Key": "1"}}], ids=str
)
def test_repeatable_call_is_tried_once_on_each_instance(caller, add, raw_service, reply, options):
    services = [raw_service(reply), raw_service(reply)]
    for service in services:
        add(service)
    with pytest.raises(CallFailedError) as caught:
        caller.call_service("api", **options)
    assert [service.requests for service in services] == [1, 1]
    assert len({attempt.instance for attempt in caught.value.attempts}) == 2


def test_repeatable_call_goes_to_another_instance_after_a_503(make_client, add, http_service):
    overloaded, other = http_service(status=503), http_service()
    add(overloaded)
    add(other)
    caller = make_client(balancing="round-robin")
    assert [caller.get("api").status_code for _ in range(4)] == [200] * 4
    assert overloaded.requests
    assert {caller.post("api").status_code for _ in range(2)} == {200, 503}


# -- dying services ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_killed_instance_costs_no_call(caller, add, process, method):
    killed, other = process(), process()
    add(killed)
    add(other)
    for _ in range(4):  # so that connections to both are open
        caller.call_service("api", method=method)
    killed.popen.send_signal(signal.SIGKILL)
    killed.popen.wait()
    replies = [caller.call_service("api", method=method) for _ in range(100)]
    assert {reply.content for reply in replies} == {str(other.port).encode()}


def test_call_to_a_frozen_instance_meets_the_deadline(caller, add, process):
    frozen = process()
    add(frozen)
    caller.get("api")
    frozen.popen.send_signal(signal.SIGSTOP)
    with pytest.raises(DeadlineExceededError) as caught:
        caller.post("api", timeout=0.5, data=bytes(10_000_000))
    assert len(caught.value.attempts) == 1
    with pytest.raises(DeadlineExceededError):
        caller.get("api", timeout=0.5)


def test_call_without_a_listening_instance_fails_with_its_attempts(caller, registry):
    for port in (refusing_port(), refusing_port(), refusing_port(), refusing_port()):
        check = CheckSpec(kind=CheckKind.NONE)
        registry.register(ServiceSpec(name="api", address="127.0.0.1", port=port, check=check))
    with pytest.raises(CallFailedError, match="connection refused") as caught:
        caller.post("api")
    assert len(caught.value.attempts) == 3
    assert not isinstance(caught.value, DeadlineExceededError)


def test_unknown_and_unhealthy_service_raise_different_errors(caller, registry):
    with pytest.raises(NoSuchServiceError, match="'api'"):
        caller.get("api")
    registry.register_service("api", "127.0.0.1", refusing_port())  # a new check starts critical
    wait_until(lambda: not no_such_service(caller))
    with pytest.raises(NoHealthyInstanceError, match="is critical"):
        caller.get("api")


def no_such_service(caller: AnyClient) -> NoSuchServiceError | None:
    """Returns the error of a call while Consul knows no instance."""
    try:
        caller.get("api")
    except NoSuchServiceError as error:
        return error
    except RegistryError:
        return None
    return None


# -- Consul away ---------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(flaky_proxy: Callable[..., FlakyProxy], consul_agent: ConsulAgent) -> FlakyProxy:
    """A proxy between client and Consul, to cut or freeze."""
    return flaky_proxy(consul_agent.host, consul_agent.port)


def registry_at(host: str, port: int) -> ServiceRegistry:
    return ServiceRegistry(config=ConsulConfig(host=host, port=port))


@pytest.mark.parametrize("fault", ["cut", "freeze"])
def test_known_service_is_called_while_consul_is_away(make_client, add, http_service, proxy, fault):
    add(http_service())
    caller = make_client(registry=registry_at(proxy.host, proxy.port))
    caller.get("api")
    getattr(proxy, fault)()
    assert [caller.get("api").status_code for _ in range(5)] == [200] * 5
    with pytest.raises(ConsulUnavailableError):
        caller.get("other")


def test_call_with_consul_frozen_from_the_start_meets_the_deadline(make_client, proxy):
    proxy.freeze()
    with pytest.raises(ConsulUnavailableError, match="didn't answer in time"):
        make_client(registry=registry_at(proxy.host, proxy.port)).get("api", timeout=0.2)


def test_failing_consul_is_asked_once_for_several_calls(make_client, http_service):
    consul = http_service(status=500)
    caller = make_client(registry=registry_at(consul.host, consul.port))
    for _ in range(5):
        with pytest.raises(ConsulUnavailableError, match="500"):
            caller.get("api")
    assert len(consul.requests) == 1


def test_new_instance_is_called_when_consul_is_back(make_client, add, http_service, proxy, registry):
    old, new = http_service(), http_service()
    old_id = add(old)
    caller = make_client(registry=registry_at(proxy.host, proxy.port))
    caller.get("api")
    proxy.cut()
    add(new)
    registry.deregister_service(old_id)
    caller.get("api")
    assert len(old.requests) == 2
    proxy.restore()
    wait_until(lambda: caller.get("api") and new.requests, what="a call to the new instance")


def test_agent_that_lost_its_state_removes_no_instance(make_client, make_agent, http_service):
    agent: ConsulAgent = make_agent()
    service = http_service()
    agent_registry = ServiceRegistry(config=agent.config)
    agent_registry.register(ServiceSpec(name="api", address=service.host, port=service.port), passing=True)
    for number in range(30):  # so that the index is clearly above a new agent's
        agent_registry.register_service("other", "127.0.0.1", 1000 + number, check=CheckSpec(kind=CheckKind.NONE))
    agent_registry.register(ServiceSpec(name="api", address=service.host, port=service.port, weight=2), passing=True)
    caller = make_client(registry=agent_registry)
    caller.get("api")
    agent.stop()
    agent.start()
    assert caller.get("api").status_code == 200


def test_deregistered_service_is_not_called_again(caller, add, http_service, registry):
    service = http_service()
    service_id = add(service)
    caller.get("api")
    registry.deregister_service(service_id)
    error = wait_until(lambda: no_such_service(caller))
    assert "'api'" in str(error)


# -- processes, threads and loops ----------------------------------------------------------------------------


@pytest.fixture
def default_clients(consul_agent: ConsulAgent, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the process's own clients anew, for the test's agent."""
    for name, value in consul_agent.env.items():
        monkeypatch.setenv(name, value)
    caches = [client.default_client, async_client.default_async_client]
    for cached in caches:
        cached.cache_clear()
    yield
    client.default_client().close()
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("default_clients")
def test_plain_functions_call_on_a_client_from_the_environment(add, http_service):
    service = http_service()
    add(service)
    assert call_service("api", "/a", method="POST", json={}).status_code == 200
    assert asyncio.run(acall_service("api", "/b", method="POST", data={"a": "b"})).status_code == 200
    assert [request.path for request in service.requests] == ["/a", "/b"]


@pytest.mark.usefixtures("default_clients")
def test_event_loop_closes_its_connections_when_it_ends(add, http_service):
    add(http_service())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            assert asyncio.run(acall_service("api")).status_code == 200
        gc.collect()
    assert not caught
    assert len(async_client.default_async_client()._transport._pools) == 1  # that of the last loop


def test_event_loop_is_not_blocked_while_consul_is_slow(proxy):
    proxy.freeze()

    async def run() -> list[str]:
        order: list[str] = []

        async def call() -> None:
            async with ServiceDiscoveryClient(registry_at(proxy.host, proxy.port)) as caller:
                with suppress(ConsulUnavailableError):
                    await caller.get("api", timeout=0.5)
            order.append("call")

        async def other() -> None:
            await asyncio.sleep(0)
            order.append("other")

        await asyncio.gather(call(), other())
        return order

    assert asyncio.run(run()) == ["other", "call"]


def test_concurrent_calls_each_get_their_own_response(registry, add, http_service):
    add(http_service(answer=_answer_with_path))

    async def run() -> list[str]:
        async with ServiceDiscoveryClient(registry) as caller:
            replies = await asyncio.gather(*(caller.get("api", f"/{number}") for number in range(50)))
        return [reply.text for reply in replies]

    assert asyncio.run(run()) == [f"/{number}" for number in range(50)]


def _answer_with_path(handler: Any, request: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(request.path)))
    handler.end_headers()
    handler.wfile.write(request.path.encode())


def test_cancelled_call_closes_its_connection(registry, add, raw_service):
    service = raw_service(lambda connection: connection.recv(1))
    add(service)

    async def run() -> None:
        async with ServiceDiscoveryClient(registry) as caller:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await caller.get("api")

    asyncio.run(run())
    wait_until(lambda: service.ended == service.connections == 1, what="the client to hang up")


def test_forked_child_opens_its_own_connections(registry, add, http_service):
    peers = []

    def answer(handler: Any, request: Any) -> None:
        peers.append(handler.client_address)
        service.plain_answer(handler, request)

    service = http_service(answer=answer)
    add(service)
    script = (
        "import os, sys\n"
        "from registry_admin.discovery import call_service\n"
        "call_service('api')\n"
        "pid = os.fork()\n"
        "assert call_service('api').status_code == 200\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid else 0)\n"
    )
    environ = os.environ | {"CONSUL_HTTP_ADDR": registry.api.config.url}
    subprocess.run([sys.executable, "-c", script], env=environ, check=True)
    assert len(peers) == 3
    assert len(set(peers)) == 2


@pytest.mark.parametrize("attempts", [0, -1, "3", True, 1.5])
def test_max_attempts_that_is_no_positive_integer_is_refused(registry, attempts):
    with pytest.raises(InvalidValueError, match="max_attempts"):
        SyncServiceDiscoveryClient(registry, max_attempts=attempts)


def test_responses_library_can_replace_a_service(registry, add):
    import responses

    add(HttpService(port=free_port()))
    with responses.RequestsMock() as mock:
        mock.add_passthru(registry.api.config.url)
        mock.get(re.compile(r"http://127\.0\.0\.1:\d+/x"), json={"id": 1}, headers={"X": "y"})
        assert SyncServiceDiscoveryClient(registry).get("api", "/x").json() == {"id": 1}


def test_response_is_freed_when_nobody_holds_it(caller, add, http_service):
    add(http_service(body=bytes(1_000_000)))
    caller.get("api")
    gc.collect()
    gc.disable()
    try:
        freed = weakref.ref(caller.get("api"))
        assert freed() is None, "it waits for the garbage collector"
    finally:
        gc.enable()
