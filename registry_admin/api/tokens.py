"""Tokens for the API: made once, recognized by a hash, ended by time or by a person."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import DatabaseError, transaction
from django.db.models import Q

from registry_admin.api.models import ApiToken
from registry_admin.errors import InvalidValueError
from registry_admin.inventory.actor import current_actor
from registry_admin.inventory.audit_trail import record_act
from registry_admin.inventory.models import AuditEvent
from registry_admin.inventory.token_text import TokenText, bearer_text

PREFIX = "rat_"  # so that scanners for secrets recognize one
MAX_NAME = 100
MAX_DAYS = 3660
USE_RECORDED_EVERY = timedelta(minutes=1)


def make_token(name: str, *, days: int, now: datetime) -> tuple[ApiToken, str]:
    """Makes a token that ends after `days`, and returns its row and its text, which is nowhere else.

    Raises InvalidValueError for an empty or unprintable name, and for less than a day or more than ten years.
    """
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidValueError("name", name, f"say what the token is for, in at most {MAX_NAME} printable characters")
    if not 1 <= days <= MAX_DAYS:
        raise InvalidValueError("days", days, f"give a number from 1 to {MAX_DAYS}")
    token = TokenText.make(PREFIX)
    row = ApiToken.objects.create(
        key=token.key,
        name=name.strip(),
        secret_hash=token.secret_hash,
        created_at=now,
        created_by=current_actor().name[:150],
        expires_at=now + timedelta(days=days),
    )
    record_act(AuditEvent.Action.API_TOKEN_MADE, target=row.name, detail=token.key)
    return row, str(token)


def revoke_token(key: str, *, now: datetime) -> ApiToken:
    """Revokes a token from now on. Raises InvalidValueError for one that isn't there, or is revoked already."""
    row = ApiToken.objects.filter(key=key.replace("\x00", ""), revoked_at=None).first()
    if row is None:
        raise InvalidValueError("key", key, "give the key of a token that is in use")
    row.revoked_at = now
    row.save(update_fields=["revoked_at"])
    record_act(AuditEvent.Action.API_TOKEN_REVOKED, target=row.name, detail=key)
    return row


def recognize_token(authorization: str, *, now: datetime) -> ApiToken | None:
    """Returns the row of the token in an Authorization header, or None. What has no token's form costs no query."""
    token = TokenText.parse(bearer_text(authorization), PREFIX)
    if token is None:
        return None
    row = ApiToken.objects.filter(key=token.key, revoked_at=None, expires_at__gt=now).first()
    return row if token.has_hash(row.secret_hash if row else "") else None


def record_use(row: ApiToken, *, address: str, now: datetime) -> None:
    """Records who uses the token, once a minute. A database that can only be read leaves it as it was."""
    if row.used_at is not None and now - row.used_at < USE_RECORDED_EVERY:
        return
    is_due = Q(used_at=None) | Q(used_at__lte=now - USE_RECORDED_EVERY)
    try:
        with transaction.atomic():
            ApiToken.objects.filter(is_due, pk=row.pk).update(used_at=now, used_from=address[:64])
    except DatabaseError:  # reading goes on; the read that follows says so where the database is away
        return
