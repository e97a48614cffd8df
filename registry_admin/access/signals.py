"""What follows logins and changes of users: the end of the session is fixed, and the audit trail has them."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import Group, User
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db.models.signals import m2m_changed, post_delete, post_save
from django.dispatch import Signal, receiver
from django.http import HttpRequest

from registry_admin.access.sessions import end_session_in_time
from registry_admin.inventory.audit_trail import record_act, record_refusal
from registry_admin.inventory.models import AuditEvent
from registry_admin.request_context import current_request

login_locked = Signal()  # sent with `request` and `username` for a login that wasn't tried


@receiver(user_logged_in)
def on_login(request: HttpRequest, user: User, **_kwargs: Any) -> None:
    """Fixes the end of the new session."""
    end_session_in_time(request)
    record_act(AuditEvent.Action.LOGIN, actor=user.get_username())


@receiver(user_logged_out)
def on_logout(user: User | None, **_kwargs: Any) -> None:
    """Records a logout; one without a login is none."""
    if user is not None:
        record_act(AuditEvent.Action.LOGOUT, actor=user.get_username())


@receiver(user_login_failed)
def on_failure(credentials: dict[str, Any], **_kwargs: Any) -> None:
    """Records a wrong login."""
    _record(AuditEvent.Action.LOGIN_FAILED, str(credentials.get("username", "")))


@receiver(login_locked)
def on_lock(username: str, **_kwargs: Any) -> None:
    """Records a login that wasn't tried."""
    _record(AuditEvent.Action.LOGIN_LOCKED, username)


@receiver([post_save, post_delete], sender=User)
def on_user_change(instance: User, created: bool | None = None, **kwargs: Any) -> None:  # noqa: FBT001 - Django's own
    """Records a user who is made, changed or deleted; a login's own mark is no change."""
    if kwargs.get("raw") or kwargs.get("update_fields") == frozenset({"last_login"}):
        return
    word = {None: "deleted", True: "made", False: "changed"}[created]
    rights = ", ".join(name for name in ("is_active", "is_staff", "is_superuser") if getattr(instance, name))
    record_act(AuditEvent.Action.USER_CHANGED, target=f"user {instance.get_username()}", detail=f"{word}: {rights}")


@receiver(m2m_changed, sender=User.groups.through)
@receiver(m2m_changed, sender=User.user_permissions.through)
@receiver(m2m_changed, sender=Group.permissions.through)
def on_rights_change(instance: object, action: str, model: Any, pk_set: set[int] | None, **_kwargs: Any) -> None:
    """Records what somebody gives to a user or a group, or takes away. Migrations make the groups, and are nobody."""
    if not current_request().request_id or action not in ("post_add", "post_remove", "pre_clear") or pk_set == set():
        return
    names = ", ".join(str(row) for row in model.objects.filter(pk__in=pk_set)) if pk_set else "everything"
    word = "gets" if action == "post_add" else "loses"
    kind = type(instance).__name__.lower()
    record_act(AuditEvent.Action.USER_CHANGED, target=f"{kind} {instance}", detail=f"{word} {names}")


def _record(action: AuditEvent.Action, name: str) -> None:
    """Names accounts only: in the field of the name people type passwords, too."""
    is_known = User.objects.filter(username=name).exists() if "\x00" not in name else False
    record_refusal(action, actor="", target=name if is_known else "an unknown name")
