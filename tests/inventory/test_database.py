"""Sessions that stand still inside a transaction: the others go on, and say whom they waited for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest
from django.db import connection

from registry_admin.errors import DatabaseUnavailableError
from registry_admin.inventory.database import database_errors
from registry_admin.inventory.models import Service
from registry_admin.inventory.selectors import lease_status
from tests.parts import wait_until
from tests.parts.django_process import DjangoProcess, shared_database

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(os.environ.get("TEST_DATABASE") == "sqlite", reason="SQLite's server is this process"),
]

LOCK = "SELECT id FROM inventory_service FOR UPDATE"
STOPS_IN_TRANSACTION = f"""
from django.db import connection, transaction
with transaction.atomic(), connection.cursor() as cursor:
    cursor.execute({LOCK!r})
    print("locked")
    sys.stdin.readline()
"""


@pytest.fixture
def open_session(tmp_path) -> Iterator[psycopg.Connection]:
    """A session of somebody else's, such as a psql, that has begun a transaction."""
    url = shared_database(tmp_path)
    with psycopg.connect(url, application_name="forgotten psql") as session, ExitStack() as stack:
        stack.callback(session.close)
        yield session


def rename(name: str) -> None:
    with database_errors():
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '200ms'")
        Service.objects.update(name=name)


def test_lock_of_forgotten_session_ends_it_and_names_it(open_session, declare, settings, caplog):
    settings.REGISTRY = {"SYNC_ON_SAVE": "0", "IDLE_TIMEOUT": "1s"}
    declare("api")
    open_session.execute(LOCK)
    pid = open_session.info.backend_pid
    with pytest.raises(DatabaseUnavailableError, match=rf"session {pid} \(forgotten psql, role \w+, .*stood still"):
        rename("early")
    time.sleep(1.1)
    with pytest.raises(DatabaseUnavailableError, match=f"session {pid} .*, was ended"):
        rename("late")
    rename("free")
    assert f"ended session {pid}" in caplog.text
    with pytest.raises(psycopg.OperationalError):
        open_session.execute("SELECT 1")


@pytest.mark.parametrize("path", ["/admin/inventory/service/", "/services/api/"])
def test_page_that_waits_for_a_lock_in_vain_answers_503_and_says_what_to_do(
    open_session, declare, settings, operator, path
):
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    declare("api", 8001)
    operator.raise_request_exception = False
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '200ms'")
    open_session.execute("LOCK TABLE inventory_service")
    response = operator.get(path)
    page = response.content.decode()
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert "Somebody holds a lock" in page
    assert "Nothing of this request was saved" in page
    open_session.rollback()


def test_session_that_only_reads_is_not_blamed(open_session, declare, settings):
    settings.REGISTRY = {"SYNC_ON_SAVE": "0", "IDLE_TIMEOUT": "1s"}
    declare("api")
    open_session.execute("SELECT id FROM inventory_service")
    time.sleep(1.1)
    rename("free")
    open_session.execute("SELECT 1")


def test_watcher_goes_on_while_another_process_is_stopped_in_a_transaction(
    own_agent, declare, watch, tmp_path, monkeypatch
):
    monkeypatch.setenv("REGISTRY_SYNC_ON_SAVE", "0")
    monkeypatch.setenv("REGISTRY_IDLE_TIMEOUT", "3s")
    declare("api", 8001)
    running = watch(REGISTRY_LOCK_TIMEOUT="1s")
    wait_until(lambda: Service.objects.get().sync_status == "synced", what="the first run")
    stopped = DjangoProcess(shared_database(tmp_path), STOPS_IN_TRANSACTION)
    try:
        stopped.wait_for("locked")
        stopped.freeze()
        check = {"TTL": "1h", "Status": "critical"}
        own_agent.request("PUT", "/v1/agent/service/register", body={"Name": "api", "ID": "by-hand", "Check": check})
        wait_until(lambda: "holds a lock for longer than 1 s" in running.log, 20, "the watcher to say why it waits")
        assert "(registry-admin -c on" in running.log  # the stopped process's name: how it was started, and where
        wait_until(lambda: Service.objects.get().health == "critical", 20, "the watcher to go on")
        assert lease_status().is_current
        stopped.thaw()
        assert "idle-in-transaction timeout" in stopped.finish()
    finally:
        stopped.close()
