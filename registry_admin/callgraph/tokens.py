"""Tokens of modules: made once, recognized by a hash, and counted before anything of a report is read."""

from __future__ import annotations

from datetime import datetime
from hmac import compare_digest

from django.db.models import Case, F, Q, Value, When
from django.utils import timezone

from registry_admin.callgraph.models import ModuleToken
from registry_admin.consul import validation
from registry_admin.errors import InvalidValueError
from registry_admin.inventory.actor import current_actor
from registry_admin.inventory.audit_trail import record_act
from registry_admin.inventory.models import AuditEvent
from registry_admin.inventory.token_text import TokenText, bearer_text

PREFIX = "rmt_"  # so that scanners for secrets recognize one
SHARED_KEY = "shared"
MAX_REPORTS, MAX_SHARED_REPORTS = 600, 6000  # a minute; a process reports every 10 s, and adds up what is refused


def make_token(module: str) -> tuple[ModuleToken, str]:
    """Makes a token for this module, and returns its row and its text, which is nowhere else.

    Raises InvalidValueError for what can't be the name of a service.
    """
    name, token = validation.service_name(module, "module"), TokenText.make(PREFIX)
    row = ModuleToken.objects.create(
        module=name, key=token.key, secret_hash=token.secret_hash, created_by=current_actor().name[:150]
    )
    record_act(AuditEvent.Action.TOKEN_MADE, target=name, detail=token.key)
    return row, str(token)


def revoke_token(key: str) -> ModuleToken:
    """Revokes a token from now on. Raises InvalidValueError for one that isn't there, or is revoked already."""
    row = ModuleToken.objects.filter(key=key, revoked_at=None).exclude(key=SHARED_KEY).first()
    if row is None:
        raise InvalidValueError("key", key, "give the key of a token that is in use")
    row.revoked_at = timezone.now()
    row.save(update_fields=["revoked_at"])
    record_act(AuditEvent.Action.TOKEN_REVOKED, target=row.module, detail=key)
    return row


def recognize_token(authorization: str, *, shared_token: str) -> ModuleToken | None:
    """Returns the row of the token in an Authorization header, or None. What has no token's form costs no query."""
    text = bearer_text(authorization)
    if not text:
        return None
    if shared_token and compare_digest(text.encode(), shared_token.encode()):
        return ModuleToken.objects.get_or_create(key=SHARED_KEY)[0]
    token = TokenText.parse(text, PREFIX)
    if token is None:
        return None
    row = ModuleToken.objects.filter(key=token.key, revoked_at=None).first()
    return row if token.has_hash(row.secret_hash if row else "") else None


def take_report(token: ModuleToken, *, now: datetime) -> bool:
    """Counts a report. Returns False, and counts nothing, where the token has sent too many within this minute."""
    minute = now.replace(second=0, microsecond=0)
    most = MAX_REPORTS if token.module else MAX_SHARED_REPORTS
    is_below = Q(used_at=None) | ~Q(used_at=minute) | Q(reports__lt=most)
    counted = Case(When(used_at=minute, then=F("reports") + 1), default=Value(1))
    return bool(ModuleToken.objects.filter(is_below, pk=token.pk).update(reports=counted, used_at=minute))


def has_own_token(module: str) -> bool:
    """Returns whether the module has a token, so that no other one speaks for it."""
    return ModuleToken.objects.filter(module__iexact=module, revoked_at=None).exists()
