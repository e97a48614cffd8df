"""A process registers itself in a real Consul when it serves, stays registered, and leaves cleanly."""

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

from registry_admin.consul import CheckKind, CheckSpec, ConsulConfig, Health, ServiceRegistry, ServiceSpec
from registry_admin.consul.types import META_SELF
from registry_admin.discovery import Registration, lifespan, registered, registration
from registry_admin.discovery.membership import Membership
from tests.parts import ConsulAgent, FlakyProxy, HttpService, free_port, wait_until

NO_CHECK = CheckSpec(kind=CheckKind.NONE)


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def registry(consul_agent: ConsulAgent) -> Iterator[ServiceRegistry]:
    """On the agent without ACLs only; one test has a token that may not."""
    registry = ServiceRegistry(config=consul_agent.config)
    yield registry
    registry.api.close()
    consul_agent.forget_services()


@pytest.fixture
def begin(registry: ServiceRegistry) -> Iterator[Callable[..., Registration]]:
    """`begin(spec)`: starts a registration of it, which ends with the test."""
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


# -- entering -------------------------------------------------------------------------------------------------------


def test_it_is_registered_as_passing_once_it_answers(begin, registry, http_service):
    service = http_service(status=503)
    spec = spec_of(service, check=CheckSpec(interval="600s"))
    begin(spec)
    wait_until(lambda: len(service.requests) >= 3, what="questions to itself")
    assert spec.id not in ids(registry)
    service.status = 200
    wait_until(lambda: spec.id in ids(registry), what="the registration")
    assert registry.api.agent_instances()[spec.id].health is Health.PASSING


@pytest.mark.parametrize("kind", [CheckKind.HTTP, CheckKind.TCP])
def test_nothing_is_registered_before_it_listens(begin, registry, http_service, kind):
    spec = ServiceSpec(name="api", address="127.0.0.1", port=free_port(), check=CheckSpec(kind=kind))
    started = begin(spec)
    assert not started.wait(0.3)
    assert spec.id not in ids(registry)
    http_service(port=spec.port)
    assert started.wait(10)
    assert spec.id in ids(registry)


@pytest.mark.parametrize("setting", ["UNHEALTHY_S", "SILENT_S"])
def test_one_that_does_not_answer_for_long_is_registered_as_critical(
    begin, registry, http_service, monkeypatch, setting
):
    monkeypatch.setattr(registration, setting, 0.1)
    port = http_service(status=500).port if setting == "UNHEALTHY_S" else free_port()
    spec = ServiceSpec(name="api", address="127.0.0.1", port=port, check=CheckSpec(interval="600s"))
    assert begin(spec).wait(10)
    assert registry.api.agent_instances()[spec.id].health is Health.CRITICAL


def test_a_ttl_check_is_kept_alive(begin, registry):
    spec = ServiceSpec(name="job", address="127.0.0.1", port=1, check=CheckSpec(kind=CheckKind.TTL, interval="1s"))
    begin(spec)
    wait_until(lambda: spec.id in ids(registry), what="the registration")
    # Consul knows only what it was told within the last second, so this takes more than one report.
    for _ in range(4):
        assert registry.api.agent_instances()[spec.id].health is Health.PASSING
        threading.Event().wait(0.5)


def test_one_that_is_there_as_it_should_be_is_left_alone(begin, registry, http_service):
    spec = quiet_spec()
    registry.register(spec)
    registry.api.register(quiet_spec(tags=("by-the-inventory",)), marks={META_SELF: spec.digest})
    assert begin(spec).wait(10)
    assert registry.api.agent_instances()[spec.id].tags == ("by-the-inventory",)


def test_one_that_was_registered_otherwise_is_replaced(begin, registry):
    registry.register(quiet_spec(tags=("old",)))
    new = quiet_spec(tags=("new",))
    assert begin(new).wait(10)
    assert registry.api.agent_instances()[new.id].tags == ("new",)


# -- staying --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks ten times a second whether it is still there."""
    monkeypatch.setattr(registration, "KEEP_ALIVE_S", 0.1)


@pytest.mark.usefixtures("hasty")
def test_it_comes_back_after_the_agent_has_lost_everything(begin, make_agent):
    agent: ConsulAgent = make_agent()
    registry = ServiceRegistry(config=agent.config)
    assert begin(quiet_spec(), registry=registry).wait(10)
    agent.stop()
    agent.start()
    wait_until(lambda: quiet_spec().id in ids(registry), what="the registration to come back")


@pytest.mark.usefixtures("hasty")
def test_one_that_was_taken_out_while_unhealthy_comes_back_when_it_answers(begin, registry, http_service):
    service = http_service()
    spec = spec_of(service, check=CheckSpec(interval="600s"))
    assert begin(spec).wait(10)
    service.status = 500
    registry.deregister_service(spec.id)
    asked = len(service.requests)
    wait_until(lambda: len(service.requests) > asked + 2, what="questions to itself")
    assert spec.id not in ids(registry)
    service.status = 200
    wait_until(lambda: spec.id in ids(registry), what="the registration to come back")


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("marked_by", ["this release", "the next release"])
def test_what_others_change_is_not_undone(begin, consul_agent, http_service, marked_by):
    between = http_service(answer=lambda handler, request: pass_on(consul_agent, handler, request))
    registry = ServiceRegistry(config=ConsulConfig(host=between.host, port=between.port))
    spec = quiet_spec()
    assert begin(spec, registry=registry).wait(10)
    direct = ServiceRegistry(config=consul_agent.config)
    edited = quiet_spec(tags=("edited",), weight=7)
    direct.api.register(edited, marks={META_SELF: spec.digest if marked_by == "this release" else edited.digest})
    seen = len(between.requests)
    wait_until(lambda: len(between.requests) > seen + 2, what="two more looks")
    found = direct.api.agent_instances()[spec.id]
    assert (found.tags, found.weight) == (("edited",), 7)
    assert [one.path for one in between.requests].count("/v1/agent/service/register") == 1


# -- Consul away ----------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(flaky_proxy: Callable[..., FlakyProxy], consul_agent: ConsulAgent) -> FlakyProxy:
    """Between a module and Consul, to be cut or frozen."""
    return flaky_proxy(consul_agent.host, consul_agent.port)


@pytest.fixture
def distant(proxy: FlakyProxy) -> Iterator[ServiceRegistry]:
    """Consul through the proxy, with short patience."""
    config = ConsulConfig(host=proxy.host, port=proxy.port, connect_timeout=0.2, read_timeout=0.2)
    registry = ServiceRegistry(config=config)
    yield registry
    registry.api.close()


@pytest.mark.parametrize("fault", ["cut", "freeze"])
def test_it_registers_when_consul_is_back_and_says_so_once(begin, distant, proxy, caplog, fault):
    getattr(proxy, fault)()
    started = begin(quiet_spec(), registry=distant)
    wait_until(lambda: caplog.records, what="a line in the log")
    assert not started.wait(1)
    proxy.mend()
    assert started.wait(15)
    assert quiet_spec().id in ids(distant)
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 2
    assert "will register when Consul is back" in lines[0]
    assert "is registered now" in lines[1]


@pytest.mark.parametrize("fault", ["cut", "freeze"])
def test_leaving_does_not_wait_for_a_consul_that_is_away(begin, proxy, caplog, fault):
    patient = ConsulConfig(host=proxy.host, port=proxy.port, connect_timeout=60, read_timeout=60)
    started = begin(quiet_spec(), registry=ServiceRegistry(config=patient))
    assert started.wait(10)
    getattr(proxy, fault)()
    leaving = threading.Thread(target=started.stop)
    leaving.start()
    wait_until(lambda: not leaving.is_alive(), 20, "the end of leaving")
    assert not started.is_registered
    assert "could not be deregistered" in caplog.text


def test_what_consul_refuses_is_said_once(begin, guarded_agent, caplog):
    nobody = ServiceRegistry(config=ConsulConfig(host=guarded_agent.host, port=guarded_agent.port, token="s3cret"))
    begin(quiet_spec(), registry=nobody)
    wait_until(lambda: caplog.records, what="a line in the log")
    assert "can't register" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_refusal_that_is_soon_over_is_tried_again_soon(begin, consul_agent, http_service):
    def refuse_at_first(handler, request):
        if len(between.requests) > 2:
            pass_on(consul_agent, handler, request)
        else:
            between.plain_answer(handler, request)

    between = http_service(status=403, body=b"ACL not found", answer=refuse_at_first)
    registry = ServiceRegistry(config=ConsulConfig(host=between.host, port=between.port))
    assert begin(quiet_spec(), registry=registry).wait(registration.REFUSED_RETRY_S / 2)


# -- wrong settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "named"),
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
def test_a_wrong_setting_is_one_line_and_the_module_goes_on(monkeypatch, caplog, environ, named):
    for name, value in ({"SERVICE_NAME": "api", "SERVICE_PORT": "8000"} | environ).items():
        monkeypatch.setenv(name, value)
    started = Registration().start()
    wait_until(lambda: not any(thread.name == "registration" for thread in threading.enumerate()), what="the end")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert named in record.getMessage()
    assert record.exc_info is None
    started.stop()


def test_consuls_own_port_is_refused(consul_agent, monkeypatch, caplog):
    monkeypatch.setenv("CONSUL_HTTP_ADDR", consul_agent.url)
    started = Registration("api", port=consul_agent.port).start()
    wait_until(lambda: "Consul's own API" in caplog.text, what="a line in the log")
    started.stop()


# -- leaving --------------------------------------------------------------------------------------------------------


def test_leaving_deregisters_and_nothing_registers_it_again(begin, registry, monkeypatch):
    monkeypatch.setattr(registration, "KEEP_ALIVE_S", 0.01)
    for _ in range(10):
        started = begin(quiet_spec())
        assert started.wait(10)
        started.stop()
        wait_until(lambda: not any(thread.name == "registration" for thread in threading.enumerate()), what="the end")
        assert quiet_spec().id not in ids(registry)


def test_the_last_to_leave_deregisters(begin, registry):
    first, second = begin(quiet_spec()), begin(quiet_spec())
    assert first.wait(10)
    assert second.wait(10)
    first.stop()
    assert quiet_spec().id in ids(registry)
    second.stop()
    assert quiet_spec().id not in ids(registry)


def test_leaving_before_it_was_registered_removes_nobody_elses(begin, registry):
    spec = ServiceSpec(name="api", address="127.0.0.1", port=free_port())
    registry.api.register(spec, marks={})
    begin(spec).stop()
    assert spec.id in ids(registry)


def test_a_slow_answer_to_itself_does_not_register_it_after_it_left(begin, registry, http_service):
    go_on = threading.Event()

    def answer(handler, request):
        if len(service.requests) > 1:  # the first was to see whether it serves; this one is just before it registers
            go_on.wait(10)
        service.plain_answer(handler, request)

    service = http_service(answer=answer)
    spec = spec_of(service)
    started = begin(spec)
    wait_until(lambda: len(service.requests) > 1, what="the second question to itself")
    started.stop()
    go_on.set()
    wait_until(lambda: not any(thread.name == "registration" for thread in threading.enumerate()), what="the end")
    assert spec.id not in ids(registry)


def test_leaving_before_having_joined_leaves_the_others_alone(begin, registry, monkeypatch):
    assert begin(quiet_spec()).wait(10)
    joining, go_on = threading.Event(), threading.Event()

    def slowly(key):
        joining.set()
        go_on.wait(10)
        return Membership(key)

    monkeypatch.setattr(registration, "Membership", slowly)
    hasty = begin(quiet_spec())
    assert joining.wait(10)
    hasty.stop()
    go_on.set()
    assert quiet_spec().id in ids(registry)


def test_stopping_twice_or_before_the_start_is_fine(begin):
    Registration("api").stop()
    started = begin(quiet_spec())
    started.stop()
    started.stop()


def test_it_can_be_started_again(begin, registry):
    started = begin(quiet_spec())
    assert started.wait(10)
    started.stop()
    assert started.start().wait(10)
    assert quiet_spec().id in ids(registry)


def test_a_script_is_registered_while_the_block_runs(registry):
    with registered("job", registry=registry, port=1234, check=NO_CHECK, tags=["night"]) as started:
        assert started.wait(10)
        assert registry.api.agent_instances()[started.service_id].tags == ("night",)
    assert "job-127.0.0.1-1234" not in ids(registry)


def test_a_lifespan_registers_within_the_applications_own(registry):
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


# -- several processes ----------------------------------------------------------------------------------------------


def test_only_the_last_of_several_members_leaves_last():
    members = [Membership("key") for _ in range(4)]
    assert all(member.join() for member in members)
    assert [member.leave() for member in members] == [False, False, False, True]
    late = Membership("key")
    assert not late.join()  # while the last one is still deregistering
    members[-1].release()
    assert late.join()
    for member in (*members, late):
        member.release()


def test_members_of_different_services_have_nothing_to_do_with_each_other():
    one, other = Membership("one"), Membership("other")
    assert one.join()
    assert other.join()
    assert one.leave()
    one.release()
    other.release()


def test_a_lock_folder_that_somebody_else_prepared_is_not_used(tmp_path, begin, caplog):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / f"registry-admin-{os.geteuid()}").symlink_to(elsewhere)
    with pytest.raises(OSError, match="registry-admin"):
        Membership("key")
    assert begin(quiet_spec()).wait(10)
    assert not list(elsewhere.iterdir())
    assert "can't find each other" in caplog.text


def test_a_lock_folder_that_others_can_write_to_is_not_used(tmp_path):
    folder = tmp_path / f"registry-admin-{os.geteuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="0700"):
        Membership("key")


def test_a_planted_link_in_place_of_a_lock_file_is_not_followed(tmp_path):
    Membership("key").close()
    folder, victim = tmp_path / f"registry-admin-{os.geteuid()}", tmp_path / "victim"
    for file in list(folder.iterdir()):
        file.unlink()
        file.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        Membership("key")
    assert not victim.exists()
