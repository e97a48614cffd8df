"""Limits of failed logins, counted in the database before a password is looked at.

Counting first means that guesses sent at the same moment can't pass together. The counts lie in the database and not in
Redis: a lost cache must neither open the door nor lock it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone
from django.utils.crypto import salted_hmac

from registry_admin.access.client_address import counted_address
from registry_admin.access.models import LoginCount
from registry_admin.inventory.conf import conf

PER_NAME, PER_ADDRESS = 5, 10  # times the limit of one name at one address
KNOWN_FOR = timedelta(days=30)


def locked_until(counts: Iterable[LoginCount], *, attempts: int, now: datetime) -> datetime | None:
    """Returns when the login may be tried again; None: now.

    A name is locked at one address. Many failures of one address, or with one name from everywhere, lock only logins
    that are new to that address: nobody can lock a person out from somewhere else.
    """
    by_key = {(bool(count.name), bool(count.address)): count for count in counts}
    over = {key: count for key, count in by_key.items() if count.expires_at > now and _is_over(count, attempts)}
    if pair := over.pop((True, True), None):
        return pair.expires_at
    last = by_key[True, True].succeeded_at if (True, True) in by_key else None
    if last is not None and now - last < KNOWN_FOR:
        return None
    return max((count.expires_at for count in over.values()), default=None)


def count_attempt(count: LoginCount, *, expires_at: datetime, now: datetime) -> None:
    """Adds an attempt; each moves the time at which the count begins anew."""
    count.count = 1 if count.expires_at <= now else count.count + 1
    count.expires_at = expires_at


def _is_over(count: LoginCount, attempts: int) -> bool:
    """Returns whether a count is full, where a name at one address has `attempts`."""
    factor = 1 if count.name and count.address else PER_NAME if count.name else PER_ADDRESS
    return count.count >= attempts * factor


def folded_name(name: str) -> str:
    """Returns a keyed hash that is the same for variants of a name: case, width, accents and blanks."""
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    plain = "".join(c for c in decomposed if not unicodedata.combining(c) and not c.isspace())
    return salted_hmac("registry_admin.access.login", plain.casefold()).hexdigest()[:40]


def reserve_login(name: str, address: str) -> datetime | None:
    """Counts an attempt, before its password is looked at. Returns when it may be tried again; None: now.

    What is refused isn't counted and leaves no row: a lock ends by itself, and one address can't lock a name for all.
    """
    now, keys = timezone.now(), _keys(name, address)
    locked = locked_until(_counts(keys), attempts=conf.login_attempts, now=now)
    return locked or _count_unless_locked(keys, now=now)


def record_success(name: str, address: str) -> None:
    """Takes the attempt back: the name at this address begins anew, the others lose one."""
    folded, network = _keys(name, address)[-1]
    LoginCount.objects.filter(name=folded, address=network).update(count=0, succeeded_at=timezone.now())
    of_one = Q(name=folded, address="") | Q(name="", address=network)
    LoginCount.objects.filter(of_one, count__gt=0).update(count=F("count") - 1)


def unlock(*, name: str = "", address: str = "") -> int:
    """Forgets the failed logins with this name, from this address, or all. Returns how many counts there were."""
    counts = LoginCount.objects.filter(count__gt=0)
    if name:
        counts = counts.filter(name=folded_name(name))
    if address:
        counts = counts.filter(address=counted_address(address))
    return counts.update(count=0)


def expired_counts(now: datetime) -> QuerySet[LoginCount]:
    """Returns the counts that mean nothing any more."""
    forgotten = Q(succeeded_at=None) | Q(succeeded_at__lt=now - KNOWN_FOR)
    return LoginCount.objects.filter(forgotten, expires_at__lt=now)


def _keys(name: str, address: str) -> list[tuple[str, str]]:
    """Returns the keys that an attempt counts for, always in one order, so that none waits for another; both last."""
    folded, network = folded_name(name), counted_address(address) or "unknown"
    return [("", network), (folded, ""), (folded, network)]


def _counts(keys: list[tuple[str, str]]) -> QuerySet[LoginCount]:
    (_, network), (folded, _), _ = keys
    return LoginCount.objects.filter(Q(name=folded, address__in=["", network]) | Q(name="", address=network))


@transaction.atomic
def _count_unless_locked(keys: list[tuple[str, str]], *, now: datetime) -> datetime | None:
    """Looks again and counts, and commits: simultaneous attempts wait for each other here."""
    expires_at = now + timedelta(seconds=conf.login_lockout_s)
    rows = [LoginCount(name=name, address=address, expires_at=expires_at) for name, address in keys]
    LoginCount.objects.bulk_create(rows, ignore_conflicts=True)
    counts = list(_counts(keys).select_for_update().order_by("name", "address"))
    if locked := locked_until(counts, attempts=conf.login_attempts, now=now):
        return locked
    for count in counts:
        count_attempt(count, expires_at=expires_at, now=now)
    LoginCount.objects.bulk_update(counts, ["count", "expires_at"])
    return None
