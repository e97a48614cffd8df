"""The leader lease between real processes: one leads, and another takes over when it stops or dies."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from django.db import connection

from registry_admin.inventory.watcher.lease import LeaseKeeper
from tests.parts import assert_holds, wait_until
from tests.parts.django_process import DjangoProcess, shared_database

pytestmark = pytest.mark.django_db(transaction=True)

# Prints "acquired" and "lost", and answers queries. Times are shorter than the product's, so that the tests are quick.
KEEPER = """
from datetime import UTC, datetime
from registry_admin.inventory import selectors
from registry_admin.inventory.watcher.declaration_listener import DeclarationListener
from registry_admin.inventory.watcher.lease import LeaseKeeper
def report(is_leader): print("acquired" if is_leader else "lost")
keeper = LeaseKeeper(on_change=report, ttl_s={ttl_s}, renew_s=0.2, try_s={try_s}, hang_s={hang_s})
listener = DeclarationListener(lambda: None, on_lease_released=keeper.retry_now)
listener.start()
keeper.start()
for line in sys.stdin:
    query = line.strip()
    if query == "stop":
        break
    if query == "hang":
        with keeper.working():
            sys.stdin.readline()
        continue
    if query == "next":
        keeper.announce_next_run(datetime(2030, 1, 1, tzinfo=UTC))
        continue
    status = selectors.lease_status()
    answers = {{"is_leader": keeper.is_leader, "confirm": keeper.confirm(), "holder": keeper.holder,
        "leader": status.holder, "current": status.is_current,
        "since": keeper.since == status.since, "due": status.next_pass_at}}
    print(query, answers[query])
keeper.stop()
listener.stop()
print("stopped")
"""


@pytest.fixture
def url(tmp_path) -> str:
    return shared_database(tmp_path)


@pytest.fixture
def keeper(url: str) -> Iterator[Callable[..., DjangoProcess]]:
    """Returns `keeper()`: starts a process that tries to acquire the lease."""
    with ExitStack() as stack:

        def make(database: str = url, *, ttl_s: float = 1.5, try_s: float = 0.2, hang_s: float = 60) -> DjangoProcess:
            process = DjangoProcess(database, KEEPER.format(ttl_s=ttl_s, try_s=try_s, hang_s=hang_s))
            stack.callback(process.close)
            return process

        yield make


def test_lease_of_two_keepers_is_held_by_one_and_known_to_both(keeper):
    first = keeper()
    first.wait_for("acquired")
    second = keeper()
    assert [first.query("is_leader"), second.query("is_leader")] == ["True", "False"]
    assert [first.query("confirm"), second.query("confirm")] == ["True", "False"]
    holder = first.query("holder")
    assert re.fullmatch(r".+:\d+:[0-9a-f]+", holder)
    assert second.query("leader") == holder
    assert (second.query("current"), first.query("since")) == ("True", "True")


def test_lease_of_keepers_started_together_is_held_by_one(keeper):
    processes = [keeper() for _ in range(4)]
    wait_until(lambda: any("acquired" in process.lines for process in processes), timeout=20)
    assert sorted(process.query("confirm") for process in processes) == ["False", "False", "False", "True"]


def test_lease_of_killed_leader_passes_to_standby(keeper):
    first = keeper(ttl_s=8)  # the product's own
    first.wait_for("acquired")
    second = keeper(ttl_s=8)
    assert second.query("is_leader") == "False"
    first.kill()
    second.wait_for("acquired")
    assert second.query("leader") == second.query("holder")


def test_lease_of_stopped_leader_passes_at_once(keeper):
    first = keeper(ttl_s=60)
    first.wait_for("acquired")
    second = keeper(ttl_s=60, try_s=60 if connection.vendor == "postgresql" else 0.2)
    assert second.query("is_leader") == "False"
    first.send("stop")
    first.wait_for("stopped")
    second.wait_for("acquired")
    assert first.lines[-2:] == ["lost", "stopped"]
    assert first.finish() == ""


def test_leader_frozen_past_expiry_knows_that_lease_is_lost(keeper):
    first, second = keeper(), None
    first.wait_for("acquired")
    second = keeper()
    assert second.query("is_leader") == "False"
    first.freeze()
    second.wait_for("acquired")
    first.thaw()
    assert (first.query("is_leader"), first.query("confirm")) == ("False", "False")
    first.wait_for("lost")
    assert second.query("confirm") == "True"


def test_next_run_is_published_and_cleared_by_next_leader(keeper):
    first = keeper()
    first.wait_for("acquired")
    second = keeper()
    first.send("next")
    wait_until(lambda: second.query("due").startswith("2030-01-01"))
    first.kill()
    second.wait_for("acquired")
    assert second.query("due") == "None"


def test_lease_is_reacquired_after_database_outage(keeper, tmp_path, flaky_proxy):
    if connection.vendor != "postgresql":
        pytest.skip("SQLite is a file: there is no connection to lose")
    database = connection.settings_dict
    proxy = flaky_proxy(database["HOST"], int(database["PORT"]))
    process = keeper(shared_database(tmp_path, port=proxy.port), ttl_s=3)
    process.wait_for("acquired")
    proxy.cut()
    process.wait_for("lost")  # another watcher may lead by now
    proxy.restore()
    process.wait_for("acquired", times=2)
    process.send("stop")
    process.wait_for("stopped")
    assert "can't be renewed" in process.finish()


def test_lease_survives_database_outage_shorter_than_its_ttl(keeper, tmp_path, flaky_proxy):
    if connection.vendor != "postgresql":
        pytest.skip("SQLite is a file: there is no connection to lose")
    database = connection.settings_dict
    proxy = flaky_proxy(database["HOST"], int(database["PORT"]))
    process = keeper(shared_database(tmp_path, port=proxy.port), ttl_s=60)
    process.wait_for("acquired")
    proxy.cut()
    proxy.restore()
    wait_until(lambda: process.query("confirm") == "True")
    assert process.lines.count("acquired") == 1
    assert "lost" not in process.lines


def test_standby_stop_does_not_release_lease_of_leader(keeper):
    first, second = keeper(), None
    first.wait_for("acquired")
    second = keeper()
    second.send("stop")
    second.wait_for("stopped")
    assert first.query("confirm") == "True"
    assert "acquired" not in second.lines


def test_keeper_never_started_stops_and_confirms_nothing():
    keeper = LeaseKeeper()
    keeper.stop()
    assert not keeper.is_leader
    assert not keeper.confirm(timeout_s=0)


def test_lease_of_process_that_hangs_moves_to_another_until_it_works_again(keeper):
    first = keeper(hang_s=0.5)
    first.wait_for("acquired")
    second = keeper()
    first.send("hang")
    second.wait_for("acquired")
    first.wait_for("lost")
    second.kill()
    assert_holds(lambda: first.lines.count("acquired") == 1, 2)  # longer than the lease of the second
    first.send("go on")
    first.wait_for("acquired", times=2)
