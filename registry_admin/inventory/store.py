"""The database's faults as one of ours: whoever syncs may then say so, and try again when it is back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DatabaseError, InterfaceError, ProgrammingError, close_old_connections, connection

from registry_admin.errors import StoreUnavailableError


@contextmanager
def database_errors() -> Iterator[None]:
    """Turns the database's faults into StoreUnavailableError, and drops a broken connection."""
    try:
        yield
    except (DatabaseError, InterfaceError) as error:
        close_old_connections()
        first_line = str(error).strip().partition("\n")[0]
        hint = (
            " Run `manage.py migrate` first."
            if isinstance(error, ProgrammingError) or "no such table" in first_line
            else ""
        )
        raise StoreUnavailableError(
            f"The database can't be used: {first_line or type(error).__name__}.{hint}"
        ) from error


def check_store() -> None:
    """Raises StoreUnavailableError where the database doesn't answer."""
    with database_errors(), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
