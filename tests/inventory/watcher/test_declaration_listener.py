"""The listener for changed declarations: reports changes by any process, and not what syncing writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from django.db import connection

from tests.parts import wait_until
from tests.parts.django_process import DjangoProcess, shared_database

pytestmark = pytest.mark.django_db(transaction=True)

LISTENER = """
from registry_admin.inventory.watcher import declaration_listener
declaration_listener.SAFETY_POLL_S = {poll_s}
class Listener(declaration_listener.DeclarationListener):
    def _subscribe(self):
        super()._subscribe()
        print("listening")
listener = Listener(lambda: print("changed"), on_lease_released=lambda: print("released"))
listener.start()
sys.stdin.read()
listener.stop()
print("alive", listener._thread.is_alive())
"""
SHELL = """
from django.conf import settings
from django.db import connection
settings.REGISTRY = {'SYNC_ON_SAVE': '0'}
from registry_admin.inventory.models import *
for line in sys.stdin:
    exec(line)
    print("done")
"""


@pytest.fixture
def url(tmp_path) -> str:
    return shared_database(tmp_path)


@pytest.fixture
def shell(url: str) -> Iterator[Callable[[str], None]]:
    """Returns `shell("…")`: executes a line of Python in another process."""
    process = DjangoProcess(
        url, "from django.conf import settings; settings.REGISTRY = {'SYNC_ON_SAVE': '0'}\n" + SHELL
    )

    def run(line: str) -> None:
        before = process.lines.count("done")
        process.send(line)
        process.wait_for("done", times=before + 1)

    run("service = Service.objects.create(name='api')")
    run("Instance.objects.create(service=service, address='10.0.0.1', port=1)")
    yield run
    process.close()


@pytest.fixture
def listener(url: str) -> Iterator[Callable[..., DjangoProcess]]:
    """Returns `listener()`: starts a process that prints "changed" when declarations may have changed."""
    with ExitStack() as stack:

        def make(database: str = url, *, poll_s: float = 600) -> DjangoProcess:
            process = DjangoProcess(database, LISTENER.format(poll_s=poll_s))
            stack.callback(process.close)
            process.wait_for("listening")
            return process

        yield make


@pytest.mark.parametrize(
    "change",
    [
        "service.tags = ['new']; service.save()",
        "Instance.objects.create(service=service, address='10.0.0.2', port=2)",
        "Service.objects.all().delete()",
        "Instance.objects.all().delete()",
        "instance = Instance.objects.get(); instance.weight = 7; instance.save()",
        "Instance.objects.get().delete(); Instance.objects.create(service=service, address='10.0.0.2', port=2)",
    ],
)
def test_declaration_change_in_another_process_is_reported(shell, listener, change):
    process = listener()
    shell(change)
    process.wait_for("changed")


def test_declaration_change_by_sql_is_reported(shell, listener):
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no notifications: the next full run finds changes by SQL")
    process = listener()
    shell("connection.cursor().execute('UPDATE inventory_service SET enabled = NOT enabled')")
    process.wait_for("changed")
    shell("connection.cursor().execute('TRUNCATE inventory_service CASCADE')")
    process.wait_for("changed", times=2)


def test_sync_status_change_is_not_reported(shell, listener):
    process = listener()
    shell("Instance.objects.update(sync_status='synced', claimed_node='n', applied_digest='x', differences=[])")
    shell("Service.objects.update(sync_status='synced', health='passing')")
    shell("Lease.objects.create(); ConsulContact.objects.create(); HealthTransition.objects.create()")
    assert "changed" not in process.lines
    shell("service.tags = ['new']; service.save()")
    process.wait_for("changed")
    assert process.lines.count("changed") == 1


def test_declaration_change_without_notification_is_found_by_polling(shell, listener):
    if connection.vendor == "postgresql":  # as behind a pooler
        shell("connection.cursor().execute('ALTER TABLE inventory_service DISABLE TRIGGER ALL')")
    process = listener(poll_s=0.5)
    shell("service.tags = ['new']; service.save()")
    process.wait_for("changed")
    if connection.vendor == "postgresql":
        shell("connection.cursor().execute('ALTER TABLE inventory_service ENABLE TRIGGER ALL')")


def test_listener_reconnects_and_reports_possible_change_after_lost_connection(shell, listener, tmp_path, flaky_proxy):
    if connection.vendor != "postgresql":
        pytest.skip("SQLite is a file: there is no connection to lose")
    database = connection.settings_dict
    proxy = flaky_proxy(database["HOST"], int(database["PORT"]))
    process = listener(shared_database(tmp_path, port=proxy.port))
    proxy.cut()
    shell("service.tags = ['new']; service.save()")
    proxy.restore()
    process.wait_for("changed")
    shell("service.tags = ['newer']; service.save()")
    process.wait_for("changed", times=2)


def test_listener_stop_ends_its_thread(shell, listener):
    process = listener()
    assert process.finish() == ""
    wait_until(lambda: process.lines[-1:] == ["alive False"])
