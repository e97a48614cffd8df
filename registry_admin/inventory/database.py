"""Database errors as a single error of the product, so that callers can report it and try again later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DatabaseError, InterfaceError, ProgrammingError, close_old_connections, connection

from registry_admin.errors import DatabaseUnavailableError
from registry_admin.inventory.blocking_sessions import describe_blocking_sessions
from registry_admin.inventory.conf import conf


@contextmanager
def database_errors() -> Iterator[None]:
    """Turns the database's faults into DatabaseUnavailableError, and drops a broken connection.

    Where a session has stood still inside a transaction while we waited for it, that session is ended and named.
    """
    try:
        yield
    except (DatabaseError, InterfaceError) as error:
        text = error_text(error)
        close_old_connections()
        raise DatabaseUnavailableError(f"The database can't be used: {text}") from error


def error_text(error: Exception) -> str:
    """Returns what has happened, and what to do, as a sentence for people."""
    first_line = str(error).strip().partition("\n")[0] or type(error).__name__
    match getattr(error.__cause__, "sqlstate", None):  # https://www.postgresql.org/docs/current/errcodes-appendix.html
        case "55P03":
            return f"somebody holds a lock for longer than {conf.lock_timeout_s:g} s. {describe_blocking_sessions()}"
        case "57014":
            return f"a statement took longer than {conf.statement_timeout_s:g} s and was cancelled ({first_line})."
        case "25P03":
            return (
                f"this process stood still inside a transaction for longer than {conf.idle_timeout_s:g} s, "
                "so PostgreSQL ended its session and rolled back."
            )
        case "25006":
            return f"it is read-only ({first_line}). Is this a standby, or is default_transaction_read_only on?"
    if isinstance(error, ProgrammingError) or "no such table" in first_line:
        return f"{first_line}. Run `manage.py migrate` first."
    return f"{first_line}."


def check_database() -> None:
    """Raises DatabaseUnavailableError where the database doesn't answer."""
    with database_errors(), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
