"""The lease: of several real processes one leads, and another takes over whatever becomes of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from django.db import connection

from registry_admin.inventory.lease import LeaseKeeper
from tests.inventory.django_process import DjangoProcess, shared_database
from tests.parts import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

# Says "held" and "lost"; answers questions. Times are shorter than the product's, so that the tests are quick.
KEEPER = """
from datetime import UTC, datetime
from registry_admin.inventory import changes, selectors
from registry_admin.inventory.lease import LeaseKeeper
def tell(held): print("held" if held else "lost")
keeper = LeaseKeeper(on_change=tell, ttl_s={ttl_s}, renew_s=0.2, try_s={try_s})
listening = changes.DeclarationChanges(lambda: None, lease_freed=keeper.try_now)
listening.start()
keeper.start()
for line in sys.stdin:
    question = line.strip()
    if question == "stop":
        break
    if question == "next":
        keeper.note_next_pass(datetime(2030, 1, 1, tzinfo=UTC))
        continue
    known = selectors.lease()
    answers = {{"is_held": keeper.is_held, "confirm": keeper.confirm(), "holder": keeper.holder, "leader": known.holder,
        "current": known.is_current, "since": keeper.since == known.since, "due": known.next_pass_at}}
    print(question, answers[question])
keeper.stop()
listening.stop()
print("stopped")
"""


@pytest.fixture
def url(tmp_path) -> str:
    return shared_database(tmp_path)


@pytest.fixture
def keeper(url: str) -> Iterator[Callable[..., DjangoProcess]]:
    """`keeper()`: a process that tries to have the lease."""
    with ExitStack() as stack:

        def make(where: str = url, *, ttl_s: float = 1.5, try_s: float = 0.2) -> DjangoProcess:
            process = DjangoProcess(where, KEEPER.format(ttl_s=ttl_s, try_s=try_s))
            stack.callback(process.close)
            return process

        yield make


def test_one_of_two_leads_and_both_know_which(keeper):
    first = keeper()
    first.wait_for("held")
    second = keeper()
    assert [first.ask("is_held"), second.ask("is_held")] == ["True", "False"]
    assert [first.ask("confirm"), second.ask("confirm")] == ["True", "False"]
    holder = first.ask("holder")
    assert re.fullmatch(r".+:\d+:[0-9a-f]+", holder)
    assert second.ask("leader") == holder
    assert (second.ask("current"), first.ask("since")) == ("True", "True")


def test_many_that_begin_at_once_have_one_leader(keeper):
    processes = [keeper() for _ in range(4)]
    wait_until(lambda: any("held" in process.lines for process in processes), timeout=20)
    assert sorted(process.ask("confirm") for process in processes) == ["False", "False", "False", "True"]


def test_a_leader_that_is_killed_is_followed_by_the_other(keeper):
    first = keeper(ttl_s=8)  # the product's own
    first.wait_for("held")
    second = keeper(ttl_s=8)
    assert second.ask("is_held") == "False"
    first.kill()
    second.wait_for("held")
    assert second.ask("leader") == second.ask("holder")


def test_a_leader_that_stops_hands_over_at_once(keeper):
    first = keeper(ttl_s=60)
    first.wait_for("held")
    second = keeper(ttl_s=60, try_s=60 if connection.vendor == "postgresql" else 0.2)
    assert second.ask("is_held") == "False"
    first.tell("stop")
    first.wait_for("stopped")
    second.wait_for("held")
    assert first.lines[-2:] == ["lost", "stopped"]
    assert first.finish() == ""


def test_a_leader_that_was_frozen_too_long_knows_that_it_leads_no_more(keeper):
    first, second = keeper(), None
    first.wait_for("held")
    second = keeper()
    assert second.ask("is_held") == "False"
    first.freeze()
    second.wait_for("held")
    first.thaw()
    assert (first.ask("is_held"), first.ask("confirm")) == ("False", "False")
    first.wait_for("lost")
    assert second.ask("confirm") == "True"


def test_when_the_next_full_pass_is_due_is_known_to_all_and_forgotten_by_the_next_leader(keeper):
    first = keeper()
    first.wait_for("held")
    second = keeper()
    first.tell("next")
    wait_until(lambda: second.ask("due").startswith("2030-01-01"))
    first.kill()
    second.wait_for("held")
    assert second.ask("due") == "None"


def test_a_database_that_goes_and_comes_back_is_survived(keeper, tmp_path, flaky_proxy):
    if connection.vendor != "postgresql":
        pytest.skip("SQLite is a file: there is no connection to lose")
    known = connection.settings_dict
    proxy = flaky_proxy(known["HOST"], int(known["PORT"]))
    process = keeper(shared_database(tmp_path, port=proxy.port), ttl_s=3)
    process.wait_for("held")
    proxy.cut()
    process.wait_for("lost")  # nobody can tell whether another leads by now
    proxy.mend()
    process.wait_for("held", times=2)
    process.tell("stop")
    process.wait_for("stopped")
    assert "can't be renewed" in process.finish()


def test_a_short_absence_of_the_database_changes_nothing_but_that_nothing_can_be_confirmed(
    keeper, tmp_path, flaky_proxy
):
    if connection.vendor != "postgresql":
        pytest.skip("SQLite is a file: there is no connection to lose")
    known = connection.settings_dict
    proxy = flaky_proxy(known["HOST"], int(known["PORT"]))
    process = keeper(shared_database(tmp_path, port=proxy.port), ttl_s=60)
    process.wait_for("held")
    proxy.cut()
    proxy.mend()
    wait_until(lambda: process.ask("confirm") == "True")
    assert process.lines.count("held") == 1
    assert "lost" not in process.lines


def test_one_that_never_had_it_gives_nothing_back(keeper):
    first, second = keeper(), None
    first.wait_for("held")
    second = keeper()
    second.tell("stop")
    second.wait_for("stopped")
    assert first.ask("confirm") == "True"
    assert "held" not in second.lines


def test_a_keeper_that_was_never_started_can_be_stopped():
    keeper = LeaseKeeper()
    keeper.stop()
    assert not keeper.is_held
    assert not keeper.confirm(timeout_s=0)
