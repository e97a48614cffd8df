"""Limits of logins: what locks whom, for how long, and that guesses sent together don't pass together."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from registry_admin.access import login_limits
from registry_admin.access.login_limits import PER_ADDRESS, PER_NAME, count_attempt, folded_name, locked_until
from registry_admin.access.models import LoginCount

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=15)
HERE, ELSEWHERE = "198.51.100.1", "203.0.113.9"


def counts(*, pair: int = 1, name: int = 1, address: int = 1, succeeded_at: datetime | None = None) -> list[LoginCount]:
    return [
        LoginCount(name="n", address="a", count=pair, expires_at=LATER, succeeded_at=succeeded_at),
        LoginCount(name="n", address="", count=name, expires_at=LATER),
        LoginCount(name="", address="a", count=address, expires_at=LATER),
    ]


@pytest.mark.parametrize(
    ("attempt", "is_locked"),
    [
        ([], False),
        (counts(pair=4), False),
        (counts(pair=5), True),
        (counts(name=5 * PER_NAME - 1), False),
        (counts(name=5 * PER_NAME), True),
        (counts(address=5 * PER_ADDRESS - 1), False),
        (counts(address=5 * PER_ADDRESS), True),
        (counts(address=5 * PER_ADDRESS)[1:], True),  # a name that is new to the address
        (counts(name=999, address=999, succeeded_at=NOW - timedelta(days=29)), False),
        (counts(name=999, succeeded_at=NOW - timedelta(days=31)), True),
        (counts(pair=5, succeeded_at=NOW - timedelta(days=1)), True),
    ],
)
def test_locked_until_by_pair_name_and_address(attempt, is_locked):
    assert locked_until(attempt, attempts=5, now=NOW) == (LATER if is_locked else None)
    assert locked_until(attempt, attempts=5, now=LATER) is None


def test_count_attempt_moves_the_end_and_begins_anew_after_it():
    count = LoginCount(count=4, expires_at=NOW + timedelta(minutes=1))
    count_attempt(count, expires_at=LATER, now=NOW)
    assert (count.count, count.expires_at) == (5, LATER)
    count_attempt(count, expires_at=LATER + timedelta(minutes=15), now=LATER)
    assert (count.count, count.expires_at) == (1, LATER + timedelta(minutes=15))


@pytest.mark.parametrize("variant", ["ADMIN", " ad min ", "ádmin", "ａｄｍｉｎ", "admin\N{ZERO WIDTH JOINER}"[:5]])
def test_folded_name_is_the_same_for_variants(variant):
    assert folded_name(variant) == folded_name("admin")
    assert folded_name(variant) != folded_name("root")
    assert "admin" not in folded_name(variant)


@pytest.mark.django_db
def test_reserve_login_locks_name_at_one_address_and_nobody_else():
    for _ in range(5):
        assert login_limits.reserve_login("admin", ELSEWHERE) is None
    assert login_limits.reserve_login("Admin", ELSEWHERE) is not None
    assert login_limits.reserve_login("admin", HERE) is None
    assert login_limits.reserve_login("ada", ELSEWHERE) is None


@pytest.mark.django_db
def test_reserve_login_after_lock_has_ended_begins_anew():
    for _ in range(6):
        login_limits.reserve_login("admin", HERE)
    LoginCount.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert login_limits.reserve_login("admin", HERE) is None


@pytest.mark.django_db
def test_reserve_login_of_person_who_is_known_here_passes_while_others_attack_the_name():
    login_limits.reserve_login("admin", HERE)
    login_limits.record_success("admin", HERE)
    for number in range(5 * PER_NAME + 1):
        last = login_limits.reserve_login("admin", f"192.0.2.{number}")
    assert last is not None
    assert login_limits.reserve_login("admin", HERE) is None


@pytest.mark.django_db
def test_refused_attempts_of_one_address_do_not_lock_the_name_for_others():
    for _ in range(100):
        login_limits.reserve_login("admin", ELSEWHERE)
    assert login_limits.reserve_login("admin", ELSEWHERE) is not None
    assert login_limits.reserve_login("admin", HERE) is None


@pytest.mark.django_db
def test_locked_address_leaves_no_more_rows():
    for number in range(5 * PER_ADDRESS + 20):
        login_limits.reserve_login(f"name-{number}", HERE)
    assert login_limits.reserve_login("another", HERE) is not None
    assert LoginCount.objects.count() == 1 + 2 * 5 * PER_ADDRESS


@pytest.mark.django_db
def test_success_does_not_forgive_guesses_of_other_names():
    for number in range(5 * PER_ADDRESS - 1):
        login_limits.reserve_login(f"victim-{number}", HERE)
    assert login_limits.reserve_login("mallory", HERE) is None
    login_limits.record_success("mallory", HERE)
    assert login_limits.reserve_login("victim-0", HERE) is None
    assert login_limits.reserve_login("victim-1", HERE) is not None


@pytest.mark.django_db(transaction=True)
def test_reserve_login_of_fifty_at_once_lets_five_pass():
    passed = []
    ready = threading.Barrier(50)

    def guess() -> None:
        try:
            ready.wait(30)
            passed.append(login_limits.reserve_login("admin", HERE) is None)
        finally:
            connection.close()

    threads = [threading.Thread(target=guess) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(passed), passed.count(True)) == (50, 5)


@pytest.mark.django_db
@pytest.mark.parametrize("options", [{}, {"name": "Admin"}, {"address": HERE}, {"name": "admin", "address": HERE}])
def test_unlock_logins_forgets_the_lock(options, capsys):
    for _ in range(6):
        login_limits.reserve_login("admin", HERE)
    call_command("unlock_logins", **options)
    assert login_limits.reserve_login("admin", HERE) is None
    assert capsys.readouterr().out.startswith("forgot ")


@pytest.mark.django_db
def test_unlock_logins_of_another_name_changes_nothing(capsys):
    for _ in range(6):
        login_limits.reserve_login("admin", HERE)
    call_command("unlock_logins", name="ada")
    assert login_limits.reserve_login("admin", HERE) is not None
    assert capsys.readouterr().out == "forgot 0 count(s) of failed logins\n"


@pytest.mark.django_db
def test_expired_counts_keep_whom_they_know():
    login_limits.reserve_login("known", HERE)
    login_limits.record_success("known", HERE)
    login_limits.reserve_login("unknown", HERE)
    after = timezone.now() + timedelta(hours=1)
    assert login_limits.expired_counts(timezone.now()).count() == 0
    assert LoginCount.objects.count() - login_limits.expired_counts(after).count() == 1
