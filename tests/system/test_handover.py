"""Services that are taken over, changed, given back and imported again while they are being called: no call is lost."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from registry_admin.discovery import ServiceRegistry, SyncServiceDiscoveryClient
from registry_admin.discovery.instances import registry_cache
from registry_admin.inventory.exchange import export_document, prepare_import
from registry_admin.inventory.models import Instance, ObservedInstance, Service
from registry_admin.inventory.sync.adoption import adopt
from registry_admin.inventory.sync.release import release
from tests.parts import ConsulAgent, HttpService, wait_until

pytestmark = [pytest.mark.system, pytest.mark.django_db(transaction=True)]

SERVICES = [f"service-{number:02}" for number in range(20)]
CALLS_PER_S = 100
CALLERS = 5


class Load:
    """Calls the services in turn, 100 times a second in all. `lost` has the calls that failed, with the phase."""

    def __init__(self, agent: ConsulAgent) -> None:
        self.phase = "before"
        self.lost: list[str] = []
        self.calls = itertools.count()
        self._client = SyncServiceDiscoveryClient(ServiceRegistry(agent.host, agent.port))
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(CALLERS)]

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Calls until the end of the block, beginning once each service has been called."""
        for name in SERVICES:
            assert self._client.call_service(name, "/").ok
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(30)
            self._client.close()
            registry_cache.end_watches()

    def _call(self, number: int) -> None:
        due = time.monotonic() + number / CALLS_PER_S
        for name in itertools.cycle(SERVICES[number::CALLERS]):
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            due = max(due + CALLERS / CALLS_PER_S, time.monotonic() - 1)
            next(self.calls)
            try:
                problem = "" if (status := self._client.call_service(name, "/").status_code) == 200 else str(status)
            except Exception as error:  # noqa: BLE001 - whatever it is, the call is lost
                problem = f"{type(error).__name__}: {error}"
            if problem:
                self.lost.append(f"{self.phase}: {name}: {problem[:300]}")


@pytest.fixture
def processes() -> Iterator[Callable[..., HttpService]]:
    """`processes(host)`: starts another process that answers, to the end of the test."""
    with ExitStack() as stack:

        def start(host: str = "127.0.0.1") -> HttpService:
            service = HttpService(host=host).start()
            stack.callback(service.stop)
            return service

        yield start


def passing(agent: ConsulAgent, name: str) -> set[int]:
    return {entry["Service"]["Port"] for entry in agent.request("GET", f"/v1/health/service/{name}?passing")}


def test_no_call_is_lost_while_services_are_adopted_edited_released_and_imported(
    own_agent: ConsulAgent, processes, sync, settings
):
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    ports = {name: processes().port for name in SERVICES}
    for name, port in ports.items():
        check = {"HTTP": f"http://127.0.0.1:{port}/", "Interval": "5s", "Timeout": "1s", "Status": "passing"}
        body = {"Name": name, "ID": name, "Address": "127.0.0.1", "Port": port, "Check": check, "Tags": ["by-hand"]}
        own_agent.request("PUT", "/v1/agent/service/register", body=body)
    for name in SERVICES:
        wait_until(lambda name=name: passing(own_agent, name), what="all to pass")

    def synced(phase: str, *, where: Callable[[], Any] = lambda: None) -> None:
        """Makes the change, and runs until Consul is as declared."""
        load.phase = phase
        where()
        wait_until(lambda: sync().ok and not sync().results, 60, f"all to be in sync after: {phase}")
        time.sleep(1)  # what was made critical without need would be missed at once

    with Load(own_agent).running() as load:
        synced("seen")
        synced("adopted", where=lambda: adopt(ObservedInstance.objects.filter(service_name__in=SERVICES)))
        assert Instance.objects.count() == len(SERVICES)
        synced("tags edited", where=lambda: edit(tags=["blue"], check_interval="6s"))
        synced("check edited", where=lambda: edit(check_kind="tcp"))
        synced("check path edited", where=lambda: edit(check_kind="http", check_path="/healthy"))
        moved = {name: processes("127.0.0.2").port for name in SERVICES}
        synced("moved", where=lambda: move(moved))
        for name, port in moved.items():
            wait_until(lambda name=name, port=port: passing(own_agent, name) == {port}, 30, f"{name} to have moved")
        document = export_document(Service.objects.all())
        synced("released", where=lambda: release(Service.objects.all()))
        assert not Service.objects.exists()
        synced("imported", where=lambda: prepare_import(document).apply())
        load.phase = "afterwards"
        time.sleep(6)  # longer than a check's interval
    assert load.lost == []
    assert next(load.calls) > 1000


def edit(**fields: Any) -> None:
    for service in Service.objects.all():
        for name, value in fields.items():
            setattr(service, name, value)
        service.full_clean()
        service.save()


def move(ports: dict[str, int]) -> None:
    """Gives each service's instance another address and port: a new process that answers already."""
    for instance in Instance.objects.select_related("service"):
        instance.address, instance.port = "127.0.0.2", ports[instance.service.name]
        instance.full_clean()
        instance.save()
