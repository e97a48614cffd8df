"""What a session may see, as one column of a query: a poll is authorised by the statement that answers it."""

from __future__ import annotations

from django.contrib.auth.models import Group, User
from django.db import connection
from django.db.models import TextField
from django.db.models.expressions import RawSQL
from django.utils import timezone

from registry_admin.access.models import Session
from registry_admin.access.sessions import idle_before

# A row of a many-to-many table is only ever added or deleted: its number and highest key change with each of both.
_LINKS = {
    User.user_permissions.through._meta.db_table: "t.user_id = u.id",
    User.groups.through._meta.db_table: "t.user_id = u.id",
    Group.permissions.through._meta.db_table: (
        f"t.group_id IN (SELECT group_id FROM {User.groups.through._meta.db_table} WHERE user_id = u.id)"  # noqa: S608
    ),
}
_STAMPS = " || ':' || ".join(
    f"(SELECT COUNT(*) || '.' || COALESCE(MAX(t.id), 0) FROM {table} t WHERE {condition})"  # noqa: S608
    for table, condition in _LINKS.items()
)
_STATEMENT = (  # made of the names of models
    f"SELECT u.id || ':' || u.password || ':' || u.is_superuser || ':' || {_STAMPS} "  # noqa: S608
    f"FROM {Session._meta.db_table} s JOIN {User._meta.db_table} u ON u.id = s.user_id "
    "WHERE s.session_key = %s AND s.expire_date > %s AND s.used_at > %s AND u.is_active AND u.is_staff"
)


def session_rights(session_key: str) -> RawSQL:
    """Returns an expression whose value changes with the rights of the session's user; NULL for one that has ended."""
    now, adapted = timezone.now(), connection.ops.adapt_datetimefield_value
    parameters = [session_key, adapted(now), adapted(idle_before(now))]
    return RawSQL(f"({_STATEMENT})", parameters, output_field=TextField())  # noqa: S611
