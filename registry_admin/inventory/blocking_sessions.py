"""Sessions of PostgreSQL that stand still inside a transaction and hold locks that others wait for."""

from __future__ import annotations

import logging
from typing import NamedTuple

from django.apps import apps
from django.db import DatabaseError, InterfaceError, connection

from registry_admin.inventory.conf import conf
from registry_admin.printable import to_single_line

logger = logging.getLogger(__name__)

# Row locks and changes; a reader (AccessShareLock, such as pg_dump's) keeps nobody from writing.
# Of another role's session nothing but its PID is visible, unless ours is a member of pg_read_all_stats.
_SESSIONS = """
    SELECT pid, coalesce(application_name, ''), coalesce(usename, ''), coalesce(host(client_addr), 'a local socket'),
        coalesce(state, ''), coalesce(extract(epoch FROM clock_timestamp() - state_change), 0)::float
    FROM pg_stat_activity activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
        AND (state IS NULL OR state LIKE 'idle in transaction%%')
        AND EXISTS (
            SELECT FROM pg_locks WHERE pg_locks.pid = activity.pid AND granted AND locktype = 'relation'
                AND mode <> 'AccessShareLock' AND relation IN (SELECT to_regclass(name) FROM unnest(%s::text[]) AS name)
        )
    ORDER BY xact_start LIMIT 5
"""


class _Session(NamedTuple):
    pid: int
    application: str
    role: str
    client: str
    state: str
    idle_s: float

    def __str__(self) -> str:
        if not self.state:
            return f"session {self.pid} of another role"
        return to_single_line(
            f"session {self.pid} ({self.application or 'without a name'}, role {self.role}, from {self.client}), "
            f"which has stood still inside a transaction for {self.idle_s:.0f} s"
        )


def describe_blocking_sessions() -> str:
    """Returns who holds locks and does nothing. Ends those that have done so for longer than REGISTRY_IDLE_TIMEOUT.

    Sessions of our own processes are ended by PostgreSQL itself; those of others (a forgotten psql) have no such limit.
    Never raises, and uses a connection of its own: ours is in the middle of a failed transaction.
    """
    if connection.vendor != "postgresql":
        return "Try again."
    own = connection.copy()
    try:
        with own.cursor() as cursor:
            cursor.execute(_SESSIONS, [[model._meta.db_table for model in apps.get_models()]])
            sessions = [_Session(*row) for row in cursor.fetchall()]
            texts = []
            for session in sessions:
                is_over = bool(conf.idle_timeout_s and session.state and session.idle_s > conf.idle_timeout_s)
                if is_over:
                    cursor.execute("SELECT pg_terminate_backend(%s)", [session.pid])
                    logger.warning("ended %s and held locks that others waited for", session)
                texts.append(f"{session}, was ended" if is_over else str(session))
    except (DatabaseError, InterfaceError) as error:
        return f"Who it is can't be told ({str(error).strip().partition(chr(10))[0]})."
    finally:
        own.close()
    return f"It is {'; '.join(texts)}." if texts else "It was busy, or is gone by now; try again."
