"""Noticing changed declarations: whichever process made them, and nothing that syncing writes beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from django.db import connection

from tests.inventory.django_process import DjangoProcess, shared_database
from tests.parts import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

LISTENER = """
from registry_admin.inventory import changes
changes.SAFETY_POLL_S = {poll_s}
listening = changes.DeclarationChanges(lambda: print("woken"), lease_freed=lambda: print("freed"))
begin = listening._begin
def begin_and_tell():
    begin()
    print("listening")
listening._begin = begin_and_tell
listening.start()
sys.stdin.read()
listening.stop()
print("alive", listening._thread.is_alive())
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
    """`shell("…")`: another process has changed the database."""
    process = DjangoProcess(
        url, "from django.conf import settings; settings.REGISTRY = {'SYNC_ON_SAVE': '0'}\n" + SHELL
    )

    def run(line: str) -> None:
        before = process.lines.count("done")
        process.tell(line)
        process.wait_for("done", times=before + 1)

    run("service = Service.objects.create(name='api')")
    run("Instance.objects.create(service=service, address='10.0.0.1', port=1)")
    yield run
    process.close()


@pytest.fixture
def listener(url: str) -> Iterator[Callable[..., DjangoProcess]]:
    """`listener()`: a process that says "woken" whenever declarations may have changed."""
    with ExitStack() as stack:

        def make(where: str = url, *, poll_s: float = 600) -> DjangoProcess:
            process = DjangoProcess(where, LISTENER.format(poll_s=poll_s))
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
def test_whatever_is_changed_by_another_process_wakes(shell, listener, change):
    listening = listener()
    shell(change)
    listening.wait_for("woken")


def test_sql_wakes_too(shell, listener):
    if connection.vendor != "postgresql":
        pytest.skip("SQLite tells nobody: what SQL changes there is seen by the next full pass")
    listening = listener()
    shell("connection.cursor().execute('UPDATE inventory_service SET enabled = NOT enabled')")
    listening.wait_for("woken")
    shell("connection.cursor().execute('TRUNCATE inventory_service CASCADE')")
    listening.wait_for("woken", times=2)


def test_what_syncing_writes_down_wakes_nobody(shell, listener):
    listening = listener()
    shell("Instance.objects.update(sync_status='synced', claimed=True, applied_digest='x', differences=[])")
    shell("Service.objects.update(sync_status='synced', health='passing')")
    shell("Lease.objects.create(); ConsulContact.objects.create(); HealthTransition.objects.create()")
    assert "woken" not in listening.lines
    shell("service.tags = ['new']; service.save()")
    listening.wait_for("woken")
    assert listening.lines.count("woken") == 1


def test_what_nobody_was_notified_of_is_noticed_all_the_same(shell, listener):
    if connection.vendor == "postgresql":  # as behind a pooler
        shell("connection.cursor().execute('ALTER TABLE inventory_service DISABLE TRIGGER ALL')")
    listening = listener(poll_s=0.5)
    shell("service.tags = ['new']; service.save()")
    listening.wait_for("woken")
    if connection.vendor == "postgresql":
        shell("connection.cursor().execute('ALTER TABLE inventory_service ENABLE TRIGGER ALL')")


def test_a_lost_connection_is_made_anew_and_wakes_because_something_may_have_been_missed(
    shell, listener, tmp_path, flaky_proxy
):
    if connection.vendor != "postgresql":
        pytest.skip("SQLite is a file: there is no connection to lose")
    known = connection.settings_dict
    proxy = flaky_proxy(known["HOST"], int(known["PORT"]))
    listening = listener(shared_database(tmp_path, port=proxy.port))
    proxy.cut()
    shell("service.tags = ['new']; service.save()")
    proxy.mend()
    listening.wait_for("woken")
    shell("service.tags = ['newer']; service.save()")
    listening.wait_for("woken", times=2)


def test_it_ends_when_it_is_told_to(shell, listener):
    listening = listener()
    assert listening.finish() == ""
    wait_until(lambda: listening.lines[-1:] == ["alive False"])
