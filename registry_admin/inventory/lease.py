"""Which of several watchers leads: a row that one of them holds for a few seconds at a time, by the database's clock.

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
from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import DatabaseError, InterfaceError, connection
from django.db.models import Case, DateTimeField, F, Q, Value, When
from django.db.models.functions import Now

from registry_admin.inventory.models import Lease

logger = logging.getLogger(__name__)

FREED_CHANNEL = "registry_admin_lease"
TTL_S = 8.0
RENEW_S = 2.0
TRY_S = 1.0


class LeaseKeeper:
    """Takes the lease as soon as it can be had, and keeps it until stopped, on a thread with its own connection.

    `on_change` is called on that thread, with whether the lease is held, and must return at once. A change that the
    database doesn't let us notice, such as while it is frozen, is called late: `is_held` knows it at any moment.
    """

    def __init__(
        self,
        *,
        on_change: Callable[[bool], object] = lambda _held: None,
        ttl_s: float = TTL_S,
        renew_s: float = RENEW_S,
        try_s: float = TRY_S,
    ) -> None:
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"[-200:]
        self.since: datetime | None = None  # when it was taken, by the database's clock
        self.held_until = -math.inf  # by the monotonic clock; counted from before the statement that got it was sent
        self._on_change = on_change
        self._ttl_s, self._renew_s, self._try_s = ttl_s, renew_s, try_s
        self._next_pass_at: datetime | None = None
        self._said_held = False
        self._said_problem = ""
        self._turn = threading.Condition()
        self._pause_s = 0.0
        # Statements by number: the last one sent, answered, answered with yes, and the one that must be sent soon.
        self._begun = self._ended = self._confirmed = self._asked = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    @property
    def is_held(self) -> bool:
        """Whether it is ours at this moment; false as soon as it may have run out, whatever the database says."""
        return time.monotonic() < self.held_until

    def start(self) -> None:
        """Begins trying."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Gives it back, so that another takes over at once, and ends; waits at most `timeout_s` for the database."""
        with self._turn:
            self._stopping = True
            self._turn.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def try_now(self) -> None:
        """Somebody has given it back."""
        with self._turn:
            self._asked = self._begun + 1
            self._turn.notify_all()

    def confirm(self, timeout_s: float = 2.0) -> bool:
        """Whether the database itself says, after this call, that it is ours; no within `timeout_s` where it is silent.

        For any thread, and for several at once: one statement answers all who are waiting.
        """
        with self._turn:
            wanted = self._asked = self._begun + 1
            self._turn.notify_all()
            self._turn.wait_for(lambda: self._ended >= wanted or self._stopping, timeout_s)
            return self._confirmed >= wanted and self.is_held

    def note_next_pass(self, at: datetime) -> None:
        """When the next full pass is due at the latest: for people to see, written with the next renewal."""
        self._next_pass_at = at

    def _run(self) -> None:
        try:
            while self._wait():
                self._step()
        finally:
            self._give_back()

    def _wait(self) -> bool:
        """Until the next step is due; false where it is to end."""
        with self._turn:
            self._turn.wait_for(lambda: self._stopping or self._asked > self._begun, self._pause_s)
            return not self._stopping

    def _step(self) -> None:
        with self._turn:
            self._begun += 1
            number = self._begun
        sent = time.monotonic()
        ours: bool | None = None
        try:
            ours = self._take_or_renew()
        except (DatabaseError, InterfaceError) as error:
            self._complain(error)  # what we have stays ours until it runs out
        else:
            self._said_problem = ""
            self.held_until = sent + self._ttl_s if ours else -math.inf
        self._pause_s = self._renew_s if ours else self._try_s
        if ours and not self.is_held:
            self._pause_s = 0.0  # the answer came so late that it is worth nothing any more
        with self._turn:
            self._ended = number
            self._confirmed = number if ours else self._confirmed
            self._turn.notify_all()
        self._tell()

    def _take_or_renew(self) -> bool:
        free = Q(holder="") | Q(expires_at__isnull=True) | Q(expires_at__lte=Now())
        rows = Lease.objects.filter(free | Q(holder=self.holder), pk=1)
        values = {
            "holder": self.holder,
            "since": Case(When(holder=self.holder, then=F("since")), default=Now()),
            "expires_at": Now() + timedelta(seconds=self._ttl_s),
            "next_pass_at": Value(self._next_pass_at, output_field=DateTimeField()),
        }
        ours = bool(rows.update(**values))
        if not ours and not Lease.objects.filter(pk=1).exists():
            Lease.objects.bulk_create([Lease(pk=1)], ignore_conflicts=True)
            ours = bool(rows.update(**values))
        if ours and not self._said_held:
            self.since = Lease.objects.values_list("since", flat=True).get(pk=1)
        return ours

    def _tell(self) -> None:
        held = self.is_held
        if held is not self._said_held:
            self._said_held = held
            if not held:
                self.since = self._next_pass_at = None
            self._on_change(held)

    def _complain(self, error: Exception) -> None:
        problem = str(error).strip().partition("\n")[0]
        if problem != self._said_problem:
            logger.warning("the lease can't be renewed or taken: %s", problem)
        self._said_problem = problem
        connection.close()

    def _give_back(self) -> None:
        self.held_until = -math.inf
        try:
            ours = Lease.objects.filter(pk=1, holder=self.holder)
            freed = ours.update(holder="", since=None, expires_at=None, next_pass_at=None)
            if freed and connection.vendor == "postgresql":
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_notify(%s, '')", [FREED_CHANNEL])
        except (DatabaseError, InterfaceError) as error:
            self._complain(error)  # then it runs out by itself
        finally:
            connection.close()
            self._tell()
