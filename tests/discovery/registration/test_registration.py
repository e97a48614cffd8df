"""Registration of a process in a real Consul: at its start, during outages, and at its end."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from registry_admin.consul import CheckKind, CheckSpec, ConsulConfig, Health, ServiceRegistry, ServiceSpec, check_probe
from registry_admin.consul.marks import META_SELF
from registry_admin.discovery import Registration, lifespan, registered
from registry_admin.discovery.registration import registration, worker_lock
from registry_admin.discovery.registration.worker_lock import WorkerLock
from tests.parts import ConsulAgent, FlakyProxy, HttpService, free_port, refusing_port, wait_until

NO_CHECK = CheckSpec(kind=CheckKind.NONE)


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def registry(consul_agent: ConsulAgent) -> Iterator[ServiceRegistry]:
    """A registry on the agent without ACLs."""
    registry = ServiceRegistry(config=consul_agent.config)
    yield registry
    registry.api.close()
    consul_agent.forget_services()


@pytest.fixture
def begin(registry: ServiceRegistry) -> Iterator[Callable[..., Registration]]:
    """`begin(spec)`: starts a registration, which ends with the test."""
    with ExitStack() as stack:

        def start(spec: ServiceSpec, *, registry: ServiceRegistry = registry) -> Registration:
            made = Registration(spec=spec, registry=registry)
            stack.callback(made.stop)
            return made.start()

        yield start


def spec_of(service: HttpService, **options: Any) -> ServiceSpec:
    return ServiceSpec(name="api", address=service.host, port=service.port, **options)


def quiet_spec(port: int = 1234, **options: Any) -> ServiceSpec:
    return ServiceSpec(name="api", address="127.0.0.1", port=port, check=NO_CHECK, **options)


def ids(registry: ServiceRegistry) -> set[str]:
    return set(registry.api.agent_instances())


def pass_on(agent: ConsulAgent, handler: Any, request: Any) -> None:
    reply = requests.request(request.method, agent.url + request.path, data=request.body, timeout=10)
    handler.send_response(reply.status_code)
    handler.send_header("Content-Length", str(len(reply.content)))
    handler.end_headers()
    handler.wfile.write(reply.content)


# -- starting ---------------------------------------------------------------------------------------------------------


def test_start_registers_as_passing_once_the_check_passes(begin, registry, http_service):
    service = http_service(status=503)
    spec = spec_of(service, check=CheckSpec(interval="600s"))
    begin(spec)
    wait_until(lambda: len(service.requests) >= 3, what="self-checks")
    assert spec.id not in ids(registry)
    service.status = 200
    wait_until(lambda: spec.id in ids(registry), what="the registration")
    assert registry.api.agent_instances()[spec.id].health is Health.PASSING


@pytest.mark.parametrize("kind", [CheckKind.HTTP, CheckKind.TCP])
def test_start_registers_only_after_the_process_listens(begin, registry, http_service, kind):
    spec = ServiceSpec(name="api", address="127.0.0.1", port=free_port(), check=CheckSpec(kind=kind))
    started = begin(spec)
    assert not started.wait(0.3)
    assert spec.id not in ids(registry)
    http_service(port=spec.port)
    assert started.wait(10)
    assert spec.id in ids(registry)


@pytest.mark.parametrize("setting", ["UNHEALTHY_TIMEOUT_S", "NOT_LISTENING_TIMEOUT_S"])
def test_start_process_that_never_gets_healthy_is_registered_as_critical(
    begin, registry, http_service, monkeypatch, setting
):
    monkeypatch.setattr(registration, setting, 0.1)
    port = http_service(status=500).port if setting == "UNHEALTHY_TIMEOUT_S" else refusing_port()
    spec = ServiceSpec(name="api", address="127.0.0.1", port=port, check=CheckSpec(interval="600s"))
    assert begin(spec).wait(10)
    assert registry.api.agent_instances()[spec.id].health is Health.CRITICAL


def test_registration_ttl_check_is_kept_passing(begin, registry):
    spec = ServiceSpec(name="job", address="127.0.0.1", port=1, check=CheckSpec(kind=CheckKind.TTL, interval="1s"))
    begin(spec)
    wait_until(lambda: spec.id in ids(registry), what="the registration")
    # Consul knows only what it was told within the last second, so this takes more than one report.
    for _ in range(4):
        assert registry.api.agent_instances()[spec.id].health is Health.PASSING
        threading.Event().wait(0.5)


def test_registered_script_that_listens_nowhere_is_passing_while_it_runs(registry):
    with registered("job", registry=registry, check=CheckSpec(kind=CheckKind.TTL, interval="1s")) as started:
        assert started.wait(10)
        (instance,) = registry.discover_service("job")
        assert (instance.health, instance.port, instance.is_callable) == (Health.PASSING, 0, False)
    assert registry.discover_service("job", passing=False) == []


def test_start_instance_of_the_same_spec_is_left_unchanged(begin, registry, http_service):
    spec = quiet_spec()
    registry.register(spec)
    registry.api.register(quiet_spec(tags=("by-the-inventory",)), marks={META_SELF: spec.digest})
    assert begin(spec).wait(10)
    assert registry.api.agent_instances()[spec.id].tags == ("by-the-inventory",)


def test_start_instance_of_another_spec_is_replaced(begin, registry):
    registry.register(quiet_spec(tags=("old",)))
    new = quiet_spec(tags=("new",))
    assert begin(new).wait(10)
    assert registry.api.agent_instances()[new.id].tags == ("new",)


# -- keeping registered -----------------------------------------------------------------------------------------------


@pytest.fixture
def quick_keep_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at the registration ten times a second."""
    monkeypatch.setattr(registration, "KEEP_ALIVE_S", 0.1)


@pytest.mark.usefixtures("quick_keep_alive")
def test_registration_is_repeated_after_the_agent_lost_its_state(begin, make_agent):
    agent: ConsulAgent = make_agent()
    registry = ServiceRegistry(config=agent.config)
    assert begin(quiet_spec(), registry=registry).wait(10)
    agent.stop()
    agent.start()
    wait_until(lambda: quiet_spec().id in ids(registry), what="the registration to come back")


@pytest.mark.usefixtures("quick_keep_alive")
def test_registration_evicted_while_unhealthy_is_repeated_when_the_check_passes(begin, registry, http_service):
    service = http_service()
    spec = spec_of(service, check=CheckSpec(interval="600s"))
    assert begin(spec).wait(10)
    service.status = 500
    registry.deregister_service(spec.id)
    count = len(service.requests)
    wait_until(lambda: len(service.requests) > count + 2, what="self-checks")
    assert spec.id not in ids(registry)
    service.status = 200
    wait_until(lambda: spec.id in ids(registry), what="the registration to come back")


@pytest.mark.usefixtures("quick_keep_alive")
def test_registration_lost_while_unhealthy_says_who_answered_what_and_what_to_do(begin, registry, http_service, caplog):
    service = http_service()
    spec = spec_of(service, check=CheckSpec(interval="600s"))
    started = begin(spec)
    assert started.wait(10)
    assert started.is_registered
    service.status = 404
    registry.deregister_service(spec.id)
    count = len(service.requests)
    wait_until(lambda: len(service.requests) > count + 2, what="self-checks")
    assert not started.is_registered
    (line,) = (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    assert f"{spec.id} is not registered while its health check fails: GET {service.url}/health: answered with" in line
    assert "404. Add this route, or set SERVICE_HEALTH_CHECK_PATH" in line
    service.status = 200
    wait_until(lambda: started.is_registered, what="the registration to come back")
    assert "is registered now" in caplog.text


@pytest.mark.usefixtures("quick_keep_alive")
@pytest.mark.parametrize("answer", ["redirect", "late", "warning"])
def test_registration_lost_comes_back_where_consul_takes_the_check_as_alive(
    begin, registry, http_service, monkeypatch, answer
):
    def reply(handler, request):
        if answer == "late":
            threading.Event().wait(0.5)
        service.status = {"redirect": 302, "late": 200, "warning": 429}[answer]
        service.headers = {"Location": "/up"}
        if request.path == "/up":
            service.status, service.headers = 200, {}
        service.plain_answer(handler, request)

    monkeypatch.setattr(check_probe, "MAX_S", 0.2)  # the limit of probes that others make
    service = http_service(answer=reply)
    spec = spec_of(service, check=CheckSpec(interval="600s"))
    assert begin(spec).wait(10)
    registry.deregister_service(spec.id)
    wait_until(lambda: spec.id in ids(registry), what="the registration to come back")


def test_start_waiting_says_once_what_it_waits_for(begin, http_service, monkeypatch, caplog):
    monkeypatch.setattr(registration, "LOG_WAIT_S", 0.1)
    service = http_service(status=400)
    begin(spec_of(service))
    wait_until(lambda: caplog.records, what="a line in the log")
    count = len(service.requests)
    wait_until(lambda: len(service.requests) > count + 2, what="further self-checks")
    (record,) = caplog.records
    assert f"GET {service.url}/health: answered with status 400. Allow the Host 127.0.0.1" in record.getMessage()


@pytest.mark.usefixtures("quick_keep_alive")
@pytest.mark.parametrize("marked_by", ["this release", "the next release"])
def test_registration_changed_by_the_inventory_is_left_unchanged(begin, consul_agent, http_service, marked_by):
    between = http_service(answer=lambda handler, request: pass_on(consul_agent, handler, request))
    registry = ServiceRegistry(config=ConsulConfig(host=between.host, port=between.port))
    spec = quiet_spec()
    assert begin(spec, registry=registry).wait(10)
    direct = ServiceRegistry(config=consul_agent.config)
    edited = quiet_spec(tags=("edited",), weight=7)
    direct.api.register(edited, marks={META_SELF: spec.digest if marked_by == "this release" else edited.digest})
    count = len(between.requests)
    wait_until(lambda: len(between.requests) > count + 2, what="two more requests")
    instance = direct.api.agent_instances()[spec.id]
    assert (instance.tags, instance.weight) == (("edited",), 7)
    assert [request.path for request in between.requests].count("/v1/agent/service/register") == 1


# -- Consul away ------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(flaky_proxy: Callable[..., FlakyProxy], consul_agent: ConsulAgent) -> FlakyProxy:
    """A proxy between a module and Consul, to be cut or frozen."""
    return flaky_proxy(consul_agent.host, consul_agent.port)


@pytest.fixture
def distant(proxy: FlakyProxy) -> Iterator[ServiceRegistry]:
    """A registry on Consul through the proxy, with short time-outs."""
    config = ConsulConfig(host=proxy.host, port=proxy.port, connect_timeout=0.2, read_timeout=0.2)
    registry = ServiceRegistry(config=config)
    yield registry
    registry.api.close()


@pytest.mark.parametrize("fault", ["cut", "freeze"])
def test_start_consul_away_registers_when_it_is_back_and_logs_two_lines(begin, distant, proxy, caplog, fault):
    getattr(proxy, fault)()
    started = begin(quiet_spec(), registry=distant)
    wait_until(lambda: caplog.records, what="a line in the log")
    assert not started.wait(1)
    proxy.restore()
    assert started.wait(15)
    assert quiet_spec().id in ids(distant)
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 2
    assert "will register when Consul is back" in lines[0]
    assert "is registered now" in lines[1]


@pytest.mark.parametrize("fault", ["cut", "freeze"])
def test_stop_consul_away_ends_without_waiting_for_it(begin, proxy, caplog, fault):
    slow_config = ConsulConfig(host=proxy.host, port=proxy.port, connect_timeout=60, read_timeout=60)
    started = begin(quiet_spec(), registry=ServiceRegistry(config=slow_config))
    assert started.wait(10)
    getattr(proxy, fault)()
    stopping = threading.Thread(target=started.stop)
    stopping.start()
    wait_until(lambda: not stopping.is_alive(), 20, "the end of stop")
    assert not started.is_registered
    assert "could not be deregistered" in caplog.text


def test_start_refused_token_is_logged_without_the_token(begin, guarded_agent, caplog):
    refused = ServiceRegistry(config=ConsulConfig(host=guarded_agent.host, port=guarded_agent.port, token="s3cret"))
    begin(quiet_spec(), registry=refused)
    wait_until(lambda: caplog.records, what="a line in the log")
    assert "can't register" in caplog.text
    assert "s3cret" not in caplog.text


def test_start_short_refusal_is_retried_soon(begin, consul_agent, http_service):
    def refuse_at_first(handler, request):
        if len(between.requests) > 4:  # the transport itself tries three times
            pass_on(consul_agent, handler, request)
        else:
            between.plain_answer(handler, request)

    between = http_service(status=403, body=b"ACL not found", answer=refuse_at_first)
    registry = ServiceRegistry(config=ConsulConfig(host=between.host, port=between.port))
    assert begin(quiet_spec(), registry=registry).wait(registration.MAX_REFUSED_RETRY_S / 2)


# -- wrong settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "name_in_message"),
    [
        ({"SERVICE_NAME": ""}, "SERVICE_NAME"),
        ({"SERVICE_NAME": "a/b"}, "name"),
        ({"SERVICE_PORT": ""}, "SERVICE_PORT"),
        ({"SERVICE_PORT": "eighty"}, "SERVICE_PORT"),
        ({"SERVICE_ADDRESS": "0.0.0.0"}, "address"),
        ({"CONSUL_HTTP_ADDR": "ftp://x"}, "CONSUL_HTTP_ADDR"),
        ({"CONSUL_HTTP_TOKEN_FILE": "/nowhere"}, "CONSUL_HTTP_TOKEN_FILE"),
    ],
    ids=str,
)
def test_start_wrong_setting_logs_one_error_and_raises_none(monkeypatch, caplog, environ, name_in_message):
    for name, value in ({"SERVICE_NAME": "api", "SERVICE_PORT": "8000"} | environ).items():
        monkeypatch.setenv(name, value)
    started = Registration().start()
    wait_until(
        lambda: not any(thread.name == "registration" for thread in threading.enumerate()), what="the end of the thread"
    )
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert name_in_message in record.getMessage()
    assert record.exc_info is None
    started.stop()


def test_start_port_of_consul_itself_is_refused(consul_agent, monkeypatch, caplog):
    monkeypatch.setenv("CONSUL_HTTP_ADDR", consul_agent.url)
    started = Registration("api", port=consul_agent.port).start()
    wait_until(lambda: "Consul's own API" in caplog.text, what="a line in the log")
    assert not started.is_registered
    started.stop()


# -- stopping ---------------------------------------------------------------------------------------------------------


def test_stop_deregisters_for_good(begin, registry, monkeypatch):
    monkeypatch.setattr(registration, "KEEP_ALIVE_S", 0.01)
    for _ in range(10):
        started = begin(quiet_spec())
        assert started.wait(10)
        started.stop()
        wait_until(
            lambda: not any(thread.name == "registration" for thread in threading.enumerate()),
            what="the end of the thread",
        )
        assert quiet_spec().id not in ids(registry)


def test_stop_of_the_last_worker_deregisters(begin, registry):
    first, second = begin(quiet_spec()), begin(quiet_spec())
    assert first.wait(10)
    assert second.wait(10)
    first.stop()
    assert quiet_spec().id in ids(registry)
    second.stop()
    assert quiet_spec().id not in ids(registry)


def test_stop_before_registration_keeps_an_instance_of_another_spec(begin, registry):
    spec = ServiceSpec(name="api", address="127.0.0.1", port=free_port())
    registry.api.register(spec, marks={})
    begin(spec).stop()
    assert spec.id in ids(registry)


def test_stop_during_a_slow_self_check_prevents_registration(begin, registry, http_service):
    go_on = threading.Event()

    def answer(handler, request):
        if len(service.requests) > 1:  # the second comes right before it registers
            go_on.wait(10)
        service.plain_answer(handler, request)

    service = http_service(answer=answer)
    spec = spec_of(service)
    started = begin(spec)
    wait_until(lambda: len(service.requests) > 1, what="the second self-check")
    started.stop()
    go_on.set()
    wait_until(
        lambda: not any(thread.name == "registration" for thread in threading.enumerate()), what="the end of the thread"
    )
    assert spec.id not in ids(registry)


def test_stop_before_joining_keeps_the_registration_of_other_workers(begin, registry, monkeypatch):
    assert begin(quiet_spec()).wait(10)
    joining, go_on = threading.Event(), threading.Event()

    def slowly(key):
        joining.set()
        go_on.wait(10)
        return WorkerLock(key)

    monkeypatch.setattr(worker_lock, "WorkerLock", slowly)
    leaving = begin(quiet_spec())
    assert joining.wait(10)
    leaving.stop()
    go_on.set()
    assert quiet_spec().id in ids(registry)


def test_stop_twice_or_before_start_does_nothing(begin, registry):
    Registration("api").stop()
    started = begin(quiet_spec())
    assert started.wait(10)
    started.stop()
    started.stop()
    assert not started.is_registered
    assert quiet_spec().id not in ids(registry)


def test_start_after_stop_registers_again(begin, registry):
    started = begin(quiet_spec())
    assert started.wait(10)
    started.stop()
    assert started.start().wait(10)
    assert quiet_spec().id in ids(registry)


def test_registered_block_registers_and_deregisters_a_script(registry):
    with registered("job", registry=registry, port=1234, check=NO_CHECK, tags=["night"]) as started:
        assert started.wait(10)
        assert registry.api.agent_instances()[started.service_id].tags == ("night",)
    assert "job-127.0.0.1-1234" not in ids(registry)


def test_lifespan_registers_within_the_wrapped_lifespan(registry):
    order = []

    @asynccontextmanager
    async def own(app):
        order.append(f"{app} starts")
        yield {"state": 1}
        order.append("stopped" if "api-127.0.0.1-1234" not in ids(registry) else "stopped too early")

    made = lifespan("api", registry=registry, port=1234, check=NO_CHECK, wrap=own)

    async def run():
        async with made("app") as state:
            assert state == {"state": 1}
            assert await asyncio.to_thread(made.registration.wait, 10)
            assert made.service_id in ids(registry)

    asyncio.run(run())
    assert order == ["app starts", "stopped"]


# -- tests of modules --------------------------------------------------------------------------------------------------


@pytest.fixture
def served(consul_agent, http_service, monkeypatch) -> HttpService:
    """A service, and the environment of a module in front of it, whose tests run now."""
    monkeypatch.setenv("CONSUL_HTTP_ADDR", consul_agent.url)
    return http_service()


@pytest.mark.parametrize("switch", ["", "0", "1"])
def test_lifespan_within_tests_registers_nothing_unless_told_to(served, monkeypatch, switch):
    monkeypatch.setenv("SERVICE_AUTOREGISTER", switch)
    made = lifespan("api", port=served.port)

    async def run():
        async with made("app"):
            return await asyncio.to_thread(made.registration.wait, 10 if switch == "1" else 1)

    assert asyncio.run(run()) is (switch == "1")


@pytest.mark.parametrize("switch", ["", "0", "1"])
def test_registered_block_within_tests_registers_nothing_unless_told_to(served, monkeypatch, switch):
    monkeypatch.setenv("SERVICE_AUTOREGISTER", switch)
    with registered("api", port=served.port) as started:
        assert started.wait(10 if switch == "1" else 1) is (switch == "1")


# -- several processes ------------------------------------------------------------------------------------------------


def test_worker_lock_leave_is_true_only_for_the_last_member():
    members = [WorkerLock("key") for _ in range(4)]
    assert all(member.join() for member in members)
    assert [member.leave() for member in members] == [False, False, False, True]
    late = WorkerLock("key")
    assert not late.join()  # while the last one is still deregistering
    members[-1].release()
    assert late.join()
    for member in (*members, late):
        member.release()


def test_worker_lock_of_different_keys_is_independent():
    first, second = WorkerLock("first"), WorkerLock("second")
    assert first.join()
    assert second.join()
    assert first.leave()
    first.release()
    second.release()


def test_worker_lock_folder_that_is_a_link_is_refused(tmp_path, begin, caplog):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / f"registry-admin-{os.geteuid()}").symlink_to(elsewhere)
    with pytest.raises(OSError, match="registry-admin"):
        WorkerLock("key")
    assert begin(quiet_spec()).wait(10)
    assert not list(elsewhere.iterdir())
    assert "lock files can't be used" in caplog.text


def test_worker_lock_folder_writable_by_others_is_refused(tmp_path):
    folder = tmp_path / f"registry-admin-{os.geteuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="0700"):
        WorkerLock("key")


def test_worker_lock_file_that_is_a_link_is_refused(tmp_path):
    WorkerLock("key").close()
    folder, victim = tmp_path / f"registry-admin-{os.geteuid()}", tmp_path / "victim"
    for file in list(folder.iterdir()):
        file.unlink()
        file.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        WorkerLock("key")
    assert not victim.exists()
