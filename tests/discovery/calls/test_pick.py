"""Instances that are picked for another client."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

import pytest

from registry_admin.consul import CheckKind, CheckSpec, ServiceRegistry, ServiceSpec
from registry_admin.discovery import ServiceDiscoveryClient, SyncServiceDiscoveryClient
from registry_admin.discovery.calls.client import BaseClient
from registry_admin.discovery.calls.pick import PickedInstance
from registry_admin.errors import InvalidValueError, NoHealthyInstanceError, NoSuchServiceError
from tests.parts import refusing_port, wait_until

Use = Callable[[PickedInstance], object]


class Picker:
    """Uses an instance of `api` in a block: with `with`, `async with`, or `with await`."""

    def __init__(self, client: BaseClient, *, way: str) -> None:
        self.client = client
        self._way = way

    def use(self, use: Use, service: str = "api", **options: Any) -> None:
        async def use_async() -> None:
            if self._way == "awaited":
                with await self.client.apick(service, **options) as instance:
                    use(instance)
                return
            async with self.client.pick(service, **options) as instance:
                use(instance)

        if self._way != "sync":
            asyncio.run(use_async())
            return
        with self.client.pick(service, **options) as instance:
            use(instance)


@pytest.fixture(params=["sync", "async", "awaited"])
def picker(request: pytest.FixtureRequest, registry: ServiceRegistry) -> Picker:
    kind = SyncServiceDiscoveryClient if request.param == "sync" else ServiceDiscoveryClient
    return Picker(kind(registry), way=request.param)


def register(registry: ServiceRegistry, port: int, **fields: Any) -> None:
    check = CheckSpec(kind=CheckKind.NONE)
    registry.register(ServiceSpec(name="api", address="127.0.0.1", port=port, check=check, **fields))


def connect(instance: PickedInstance) -> None:
    socket.create_connection((instance.address, instance.port), 5).close()


def test_pick_hands_out_an_instance_that_can_be_connected_to(picker, registry, http_service):
    service = http_service()
    register(registry, service.port, tags=("blue",), meta={"scheme": "https"})
    picked: list[PickedInstance] = []
    picker.use(lambda instance: (connect(instance), picked.append(instance)), tag="blue")
    (instance,) = picked
    assert (instance.address, instance.port, instance.tags) == ("127.0.0.1", service.port, ("blue",))
    assert (instance.url, instance.host_port) == (f"https://127.0.0.1:{service.port}", f"127.0.0.1:{service.port}")
    assert dict(instance.meta) == {"scheme": "https"}


def test_instance_that_refuses_connections_is_left_out_after_three_failures(picker, registry, http_service):
    service, dead = http_service(), refusing_port()
    for port in (service.port, dead):
        register(registry, port)
    ports: list[int] = []

    def try_connect() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            picker.use(lambda instance: (ports.append(instance.port), connect(instance)))
        return ports.count(dead) >= 3

    wait_until(try_connect)
    ports.clear()
    for _ in range(30):
        try_connect()
    assert dead not in ports
    assert ports.count(service.port) == 30


@pytest.mark.parametrize("outcome", ["fail", "failures"])
def test_failure_of_another_kind_counts_where_it_is_named(picker, registry, http_service, outcome):
    for _ in range(2):
        register(registry, http_service().port)

    def use(instance: PickedInstance) -> None:
        if outcome == "fail":
            instance.fail("it said no")
        else:
            raise KeyError("no such thing")

    for _ in range(20):
        try:
            picker.use(use, failures=KeyError)
        except KeyError:
            assert outcome == "failures"
    states = [instance.state for instance in picker.client.explain("api").instances]
    assert sorted(state == "called" for state in states) == [False, True], "half of the instances at most are ejected"


def test_exception_of_the_block_counts_neither_way(picker, registry, http_service):
    register(registry, http_service().port)
    for _ in range(10):
        with pytest.raises(ZeroDivisionError):
            picker.use(lambda _instance: 1 / 0)
    (instance,) = picker.client.explain("api").instances
    assert (instance.state, instance.outstanding if hasattr(instance, "outstanding") else 0) == ("called", 0)


def test_pick_without_an_instance_raises_the_errors_of_a_call(picker, registry):
    with pytest.raises(NoSuchServiceError):
        picker.use(connect, "nothing")
    registry.register(ServiceSpec(name="api", address="127.0.0.1", port=refusing_port(), check=CheckSpec()))
    with pytest.raises(NoHealthyInstanceError):
        picker.use(connect)


@pytest.mark.parametrize(
    ("field", "options"),
    [("failures", {"failures": ["OSError"]}), ("timeout", {"timeout": -1}), ("tag", {"tag": "a\n"})],
)
def test_wrong_argument_is_refused_by_its_name(picker, field, options):
    with pytest.raises(InvalidValueError, match=f"^{field}"):
        picker.use(connect, **options)


def test_pick_entered_again_picks_another_instance(registry, http_service):
    for _ in range(2):
        register(registry, http_service().port)
    pick = SyncServiceDiscoveryClient(registry).pick("api")
    ports = []
    for _ in range(4):
        with pick as instance:
            ports.append(instance.port)
    assert ports[0] != ports[1]
    assert len(set(ports[2:])) <= 2


def test_replies_of_500_eject_an_instance_after_five(picker, registry, http_service):
    for _ in range(2):
        register(registry, http_service().port)
    failing: list[int] = []

    def use(instance: PickedInstance) -> None:
        failing[:] = failing or [instance.port]
        instance.record_status(503 if instance.port in failing else 200)

    for _ in range(40):
        picker.use(use)
    states = {instance.url.rpartition(":")[2]: instance.state for instance in picker.client.explain("api").instances}
    assert states[str(failing[0])] != "called"
    assert [state for port, state in states.items() if port != str(failing[0])] == ["called"]


def test_reply_of_421_ejects_an_instance_at_once(picker, registry, http_service):
    for _ in range(2):
        register(registry, http_service().port)
    refusing: list[PickedInstance] = []

    def use(instance: PickedInstance) -> None:
        refusing[:] = refusing or [instance]
        instance.record_status(421 if instance.id == refusing[0].id else 200)

    for _ in range(3):
        picker.use(use)
    states = {instance.id: instance.state for instance in picker.client.explain("api").instances}
    assert states[refusing[0].id] != "called"
    assert list(states.values()).count("called") == 1
    assert refusing[0].headers == {"X-Service-Instance": f"{refusing[0].id}@localhost:{refusing[0].port}"}
