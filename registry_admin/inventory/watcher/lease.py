"""The leader lease: a row that one of several watchers holds for a few seconds at a time, by the database's clock.

Every step is one statement, so that it also works behind a transaction pooler.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from django.db import DatabaseError, InterfaceError, connection
from django.db.models import Case, DateTimeField, F, Q, Value, When
from django.db.models.functions import Now

from registry_admin.inventory.models import Lease

logger = logging.getLogger(__name__)

RELEASED_CHANNEL = "registry_admin_lease"  # PostgreSQL notifications of a released lease
TTL_S = 8.0
RENEW_S = 2.0
TRY_S = 1.0
HANG_S = 60.0  # longer than any one statement or read of Consul may take


class LeaseKeeper:
    """Acquires the lease as soon as it is free and renews it until stopped, on a thread with its own connection.

    `on_change` is called on that thread with True when the lease is acquired and False when it is lost; it must return
    at once. While the database doesn't answer, the call comes late; `is_leader` is right at any moment.
    A process that hangs must not keep the lease: one that hasn't called `progress` for `hang_s` seconds within
    `working` releases it, and takes it again only when it goes on.
    """

    def __init__(
        self,
        *,
        on_change: Callable[[bool], object] = lambda _is_leader: None,
        ttl_s: float = TTL_S,
        renew_s: float = RENEW_S,
        try_s: float = TRY_S,
        hang_s: float = HANG_S,
    ) -> None:
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"[-200:]
        self.since: datetime | None = None  # time of acquisition, by the database's clock
        self.valid_until = -math.inf  # by the monotonic clock, counted from before the statement was sent
        self._on_change = on_change
        self._ttl_s, self._renew_s, self._try_s = ttl_s, renew_s, try_s
        self._hang_s = hang_s
        self._progressed_at = math.inf  # by the monotonic clock; infinite while there is nothing to do
        self._next_run_at: datetime | None = None
        self._reported_leader = False
        self._logged_error = ""
        self._condition = threading.Condition()
        self._pause_s = 0.0
        # Numbers of statements: the last one sent, answered, answered with success, and the one to send at once.
        self._sent = self._answered = self._confirmed = self._requested = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    @property
    def is_leader(self) -> bool:
        """True if this process holds the lease; False as soon as it may have expired, whatever the database says."""
        return time.monotonic() < self.valid_until

    @property
    def remaining_s(self) -> float:
        """Seconds until the lease expires unless it is renewed; 0 where it isn't held."""
        return max(self.valid_until - time.monotonic(), 0.0)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Watches over the work in this block: without any `progress` in it for long, the lease is given up."""
        self.progress()
        try:
            yield
        finally:
            self._progressed_at = math.inf

    def progress(self) -> None:
        """Tells that the work within `working` goes on. May be called often."""
        self._progressed_at = time.monotonic()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Releases the lease, so that another watcher takes over at once; waits at most `timeout_s` for the thread."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def retry_now(self) -> None:
        """Tries to acquire the lease at once: another watcher has released it."""
        with self._condition:
            self._requested = self._sent + 1
            self._condition.notify_all()

    def confirm(self, timeout_s: float = 2.0) -> bool:
        """Returns whether a statement sent after this call renewed the lease within `timeout_s` seconds.

        May be called from several threads: one statement answers all that wait.
        """
        with self._condition:
            number = self._requested = self._sent + 1
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._answered >= number or self._stopping, timeout_s)
            return self._confirmed >= number and self.is_leader

    def announce_next_run(self, at: datetime) -> None:
        """Publishes when the next full run is due at the latest; written with the next renewal."""
        self._next_run_at = at

    def _run(self) -> None:
        try:
            while self._wait():
                if self._is_hanging():
                    self._give_up()
                else:
                    self._step()
        finally:
            self._release()

    def _wait(self) -> bool:
        """Waits until the next step is due; returns False after `stop`."""
        with self._condition:
            self._condition.wait_for(lambda: self._stopping or self._requested > self._sent, self._pause_s)
            return not self._stopping

    def _is_hanging(self) -> bool:
        return time.monotonic() - self._progressed_at > self._hang_s

    def _give_up(self) -> None:
        if self._reported_leader:
            logger.error(
                "this watcher hangs: it has made no progress for %.0f s, so it gives the lease up", self._hang_s
            )
            self._release()
        self._pause_s = self._try_s
        with self._condition:
            self._sent += 1
            self._answered = self._sent
            self._condition.notify_all()

    def _step(self) -> None:
        with self._condition:
            self._sent += 1
            number = self._sent
        sent_at = time.monotonic()
        acquired = False
        try:
            acquired = self._acquire_or_renew()
        except (DatabaseError, InterfaceError) as error:
            self._log_error(error)  # a lease that is held stays valid until it expires
        else:
            self._logged_error = ""
            self.valid_until = sent_at + self._ttl_s if acquired else -math.inf
        self._pause_s = self._renew_s if acquired else self._try_s
        if acquired and not self.is_leader:
            self._pause_s = 0.0  # the answer came after the lease had expired
        with self._condition:
            self._answered = number
            self._confirmed = number if acquired else self._confirmed
            self._condition.notify_all()
        self._report_change()

    def _acquire_or_renew(self) -> bool:
        free = Q(holder="") | Q(expires_at__isnull=True) | Q(expires_at__lte=Now())
        rows = Lease.objects.filter(free | Q(holder=self.holder), pk=1)
        values = {
            "holder": self.holder,
            "since": Case(When(holder=self.holder, then=F("since")), default=Now()),
            "expires_at": Now() + timedelta(seconds=self._ttl_s),
            "next_pass_at": Value(self._next_run_at, output_field=DateTimeField()),
        }
        acquired = bool(rows.update(**values))
        if not acquired and not Lease.objects.filter(pk=1).exists():
            Lease.objects.bulk_create([Lease(pk=1)], ignore_conflicts=True)
            acquired = bool(rows.update(**values))
        if acquired and not self._reported_leader:
            self.since = Lease.objects.values_list("since", flat=True).get(pk=1)
        return acquired

    def _report_change(self) -> None:
        is_leader = self.is_leader
        if is_leader is not self._reported_leader:
            self._reported_leader = is_leader
            if not is_leader:
                self.since = self._next_run_at = None
            self._on_change(is_leader)

    def _log_error(self, error: Exception) -> None:
        text = str(error).strip().partition("\n")[0]
        if text != self._logged_error:
            logger.warning("the lease can't be renewed or taken: %s", text)
        self._logged_error = text
        connection.close()

    def _release(self) -> None:
        self.valid_until = -math.inf
        try:
            row = Lease.objects.filter(pk=1, holder=self.holder)
            released = row.update(holder="", since=None, expires_at=None, next_pass_at=None)
            if released and connection.vendor == "postgresql":
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_notify(%s, '')", [RELEASED_CHANNEL])
        except (DatabaseError, InterfaceError) as error:
            self._log_error(error)  # then the lease expires by itself
        finally:
            connection.close()
            self._report_change()
