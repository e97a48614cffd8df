"""Calls by name over a real Consul, for the synchronous and the asynchronous client alike."""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import requests

from registry_admin.consul import CheckKind, CheckSpec, ConsulConfig, ServiceRegistry, ServiceSpec
from registry_admin.discovery import (
    ServiceDiscoveryClient,
    SyncServiceDiscoveryClient,
    acall_service,
    async_client,
    call_service,
    client,
)
from registry_admin.errors import (
    CallFailedError,
    ConsulUnavailableError,
    DeadlineExceededError,
    InvalidValueError,
    NoHealthyInstanceError,
    NoSuchServiceError,
    RegistryError,
)
from tests.consul.calling import BothClients
from tests.consul.raw_service import OK
from tests.parts import ConsulAgent, FlakyProxy, HttpService, free_port, wait_until

# -- what a call is ------------------------------------------------------------------------------------------


def test_a_call_reaches_the_service_as_it_was_meant(caller, add, http_service):
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
    assert sent.keys() == {
        "host", "x-own", "content-type", "content-length", "accept", "accept-encoding", "user-agent",
        "x-request-id", "x-request-timeout-ms", "traceparent",
    }  # fmt: skip
    assert 0 < int(sent["x-request-timeout-ms"]) <= 10_000


def test_a_reply_tells_how_long_it_was_waited_for(caller, add, http_service):
    def answer(handler, request):
        time.sleep(0.1)  # what is to be seen is that time passes
        service.plain_answer(handler, request)

    service = http_service(answer=answer)
    add(service)
    assert caller.get("api").elapsed.total_seconds() >= 0.1


@pytest.mark.parametrize("verb", ["get", "post", "put", "patch", "delete"])
def test_each_method_has_a_shorthand(caller, add, http_service, verb):
    service = http_service()
    add(service)
    assert caller.shorthand(verb, "api", "/x").status_code == 200
    assert [(one.method, one.path) for one in service.requests] == [(verb.upper(), "/x")]


def test_a_head_request_has_no_body(caller, add, http_service):
    add(http_service(body=b"four"))
    response = caller.call_service("api", method="HEAD")
    assert (response.content, response.headers["Content-Length"]) == (b"", "4")


def test_a_form_is_sent_for_a_mapping(caller, add, http_service):
    service = http_service()
    add(service)
    caller.post("api", "/publish", data={"title": "Test it"})
    assert service.requests[0].body == b"title=Test+it"


def test_compressed_replies_are_decompressed(caller, add, http_service):
    packed = gzip.compress(b"text" * 100)
    add(http_service(body=packed, headers={"Content-Encoding": "gzip", "Content-Type": "text/plain"}))
    assert caller.get("api").text == "text" * 100


def test_instances_take_turns_where_that_is_chosen(make_client, add, http_service):
    services = [http_service(), http_service()]
    for service in services:
        add(service)
    caller = make_client(balancing="round-robin")
    for _ in range(6):
        caller.get("api")
    assert [len(service.requests) for service in services] == [3, 3]


def test_a_tag_narrows_the_instances(caller, add, http_service):
    services = [http_service(), http_service()]
    add(services[0], tags=("blue",))
    add(services[1], tags=("green",))
    for _ in range(4):
        caller.get("api", tag="green")
    assert [len(service.requests) for service in services] == [0, 4]
    with pytest.raises(NoHealthyInstanceError, match="'red'"):
        caller.get("api", tag="red")


@pytest.mark.parametrize("status", [301, 400, 404, 429, 500])
def test_any_status_is_returned(caller, add, http_service, status):
    service = http_service(status=status)
    add(service)
    assert caller.get("api").status_code == status
    assert len(service.requests) == 1


def test_connections_are_kept_and_cookies_are_not(caller, add, http_service):
    peers = set()

    def answer(handler, request):
        peers.add(handler.client_address)
        service.plain_answer(handler, request)

    service = http_service(answer=answer, headers={"Set-Cookie": "session=1; Path=/"})
    add(service)
    for _ in range(5):
        caller.get("api")
    assert len(peers) == 1
    assert not any("cookie" in name.lower() for one in service.requests for name in one.headers)


def test_proxies_and_netrc_of_the_environment_are_not_used(caller, add, http_service, monkeypatch, tmp_path):
    service = http_service()
    add(service)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert caller.get("api").status_code == 200
    assert not any(name.lower() == "authorization" for name in service.requests[0].headers)


# -- trying again --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply", [OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel", b""], ids=["truncated", "nothing"]
)
@pytest.mark.parametrize(
    "options", [{"method": "GET"}, {"method": "POST", "headers": {"Idempotency-Key": "1"}}], ids=str
)
def test_a_repeatable_call_is_tried_once_on_each_instance(caller, add, raw_service, reply, options):
    services = [raw_service(reply), raw_service(reply)]
    for service in services:
        add(service)
    with pytest.raises(CallFailedError) as caught:
        caller.call_service("api", **options)
    assert [service.requests for service in services] == [1, 1]
    assert len({attempt.instance for attempt in caught.value.attempts}) == 2


def test_another_instance_is_asked_after_a_503(make_client, add, http_service):
    overloaded, other = http_service(status=503), http_service()
    add(overloaded)
    add(other)
    caller = make_client(balancing="round-robin")
    assert [caller.get("api").status_code for _ in range(4)] == [200] * 4
    assert overloaded.requests
    assert {caller.post("api").status_code for _ in range(2)} == {200, 503}


# -- dying services ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_killed_instance_costs_no_call(caller, add, process, method):
    doomed, other = process(), process()
    add(doomed)
    add(other)
    for _ in range(4):  # so that connections to both are open
        caller.call_service("api", method=method)
    doomed.popen.send_signal(signal.SIGKILL)
    doomed.popen.wait()
    replies = [caller.call_service("api", method=method) for _ in range(100)]
    assert {reply.content for reply in replies} == {str(other.port).encode()}


def test_a_frozen_instance_meets_the_deadline(caller, add, process):
    frozen = process()
    add(frozen)
    caller.get("api")
    frozen.popen.send_signal(signal.SIGSTOP)
    with pytest.raises(DeadlineExceededError) as caught:
        caller.post("api", timeout=0.5, data=bytes(10_000_000))
    assert len(caught.value.attempts) == 1
    with pytest.raises(DeadlineExceededError):
        caller.get("api", timeout=0.5)


def test_nobody_listening_anywhere_fails_with_each_attempt(caller, registry):
    for port in (free_port(), free_port(), free_port(), free_port()):
        check = CheckSpec(kind=CheckKind.NONE)
        registry.register(ServiceSpec(name="api", address="127.0.0.1", port=port, check=check))
    with pytest.raises(CallFailedError, match="connection refused") as caught:
        caller.post("api")
    assert len(caught.value.attempts) == 3
    assert not isinstance(caught.value, DeadlineExceededError)


def test_unknown_and_unhealthy_services_are_told_apart(caller, registry):
    with pytest.raises(NoSuchServiceError, match="'api'"):
        caller.get("api")
    registry.register_service("api", "127.0.0.1", free_port())  # a new check starts critical
    wait_until(lambda: not no_such_service(caller))
    with pytest.raises(NoHealthyInstanceError, match="is critical"):
        caller.get("api")


def no_such_service(caller: BothClients) -> NoSuchServiceError | None:
    """What a call says when Consul knows no instance any more."""
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
    """Between a client and Consul, to be cut or frozen."""
    return flaky_proxy(consul_agent.host, consul_agent.port)


def registry_at(host: str, port: int) -> ServiceRegistry:
    return ServiceRegistry(config=ConsulConfig(host=host, port=port))


@pytest.mark.parametrize("fault", ["cut", "freeze"])
def test_calls_go_on_while_consul_is_away(make_client, add, http_service, proxy, fault):
    add(http_service())
    caller = make_client(registry=registry_at(proxy.host, proxy.port))
    caller.get("api")
    getattr(proxy, fault)()
    assert [caller.get("api").status_code for _ in range(5)] == [200] * 5
    with pytest.raises(ConsulUnavailableError):
        caller.get("other")


def test_consul_frozen_from_the_start_does_not_outlast_the_deadline(make_client, proxy):
    proxy.freeze()
    with pytest.raises(ConsulUnavailableError, match="didn't answer in time"):
        make_client(registry=registry_at(proxy.host, proxy.port)).get("api", timeout=0.2)


def test_a_consul_that_fails_is_left_alone_for_a_while(make_client, http_service):
    broken = http_service(status=500)
    caller = make_client(registry=registry_at(broken.host, broken.port))
    for _ in range(5):
        with pytest.raises(ConsulUnavailableError, match="500"):
            caller.get("api")
    assert len(broken.requests) == 1


def test_new_instances_are_called_once_consul_is_back(make_client, add, http_service, proxy, registry):
    old, new = http_service(), http_service()
    old_id = add(old)
    caller = make_client(registry=registry_at(proxy.host, proxy.port))
    caller.get("api")
    proxy.cut()
    add(new)
    registry.deregister_service(old_id)
    caller.get("api")
    assert len(old.requests) == 2
    proxy.mend()
    wait_until(lambda: caller.get("api") and new.requests, what="a call to the new instance")


def test_an_agent_that_lost_its_state_proves_nothing(make_client, make_agent, http_service):
    agent: ConsulAgent = make_agent()
    service = http_service()
    with_state = ServiceRegistry(config=agent.config)
    with_state.register(ServiceSpec(name="api", address=service.host, port=service.port), passing=True)
    for number in range(30):  # so that the index is clearly above a new agent's
        with_state.register_service("other", "127.0.0.1", 1000 + number, check=CheckSpec(kind=CheckKind.NONE))
    with_state.register(ServiceSpec(name="api", address=service.host, port=service.port, weight=2), passing=True)
    caller = make_client(registry=with_state)
    caller.get("api")
    agent.stop()
    agent.start()
    assert caller.get("api").status_code == 200


def test_a_service_that_was_deregistered_is_not_called_again(caller, add, http_service, registry):
    service = http_service()
    service_id = add(service)
    caller.get("api")
    registry.deregister_service(service_id)
    called = wait_until(lambda: no_such_service(caller))
    assert "'api'" in str(called)


# -- processes, threads and loops ----------------------------------------------------------------------------


@pytest.fixture
def default_clients(consul_agent: ConsulAgent, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment names the test's agent, and the process's own clients are made anew."""
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
def test_the_plain_functions_work_on_a_client_from_the_environment(add, http_service):
    service = http_service()
    add(service)
    assert call_service("api", "/a", method="POST", json={}).status_code == 200
    assert asyncio.run(acall_service("api", "/b", method="POST", data={"a": "b"})).status_code == 200
    assert [one.path for one in service.requests] == ["/a", "/b"]


@pytest.mark.usefixtures("default_clients")
def test_each_event_loop_ends_without_a_connection_left_open(add, http_service):
    add(http_service())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            assert asyncio.run(acall_service("api")).status_code == 200
        gc.collect()
    assert not caught
    assert len(async_client.default_async_client()._transport._sessions) == 1  # of the last, which replaced the others


def test_the_event_loop_is_not_blocked_while_consul_is_slow(proxy):
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


def test_many_calls_at_once_each_get_their_own_reply(registry, add, http_service):
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


def test_a_cancelled_call_takes_its_connection_along(registry, add, raw_service):
    service = raw_service(lambda connection: connection.recv(1))
    add(service)

    async def run() -> None:
        async with ServiceDiscoveryClient(registry) as caller:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await caller.get("api")

    asyncio.run(run())


def test_a_forked_child_calls_on_connections_of_its_own(registry, add, http_service):
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
def test_the_number_of_attempts_must_be_one(registry, attempts):
    with pytest.raises(InvalidValueError, match="max_attempts"):
        SyncServiceDiscoveryClient(registry, max_attempts=attempts)


def test_a_test_can_stand_in_for_services_with_responses(registry, add):
    import responses

    add(HttpService(port=free_port()))
    with responses.RequestsMock() as mock:
        mock.add_passthru(registry.api.config.url)
        mock.get(re.compile(r"http://127\.0\.0\.1:\d+/x"), json={"id": 1}, headers={"X": "y"})
        assert SyncServiceDiscoveryClient(registry).get("api", "/x").json() == {"id": 1}
