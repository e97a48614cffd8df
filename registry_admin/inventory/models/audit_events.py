"""The audit trail: who did what, and who was refused."""

from __future__ import annotations

from django.db import models
from django.utils import timezone


class AuditEvent(models.Model):
    """An act of a person or a command, or a refusal. Rows are only added; PostgreSQL refuses to change them."""

    class Action(models.TextChoices):
        """Kinds of events."""

        LOGIN = "login", "Logged in"
        LOGOUT = "logout", "Logged out"
        LOGIN_FAILED = "login_failed", "Login failed"
        LOGIN_LOCKED = "login_locked", "Login locked"
        PERMISSION_REFUSED = "permission_refused", "Refused: no permission"
        CSRF_REFUSED = "csrf_refused", "Refused: not from our form"
        HOST_REFUSED = "host_refused", "Refused: unknown host name"
        MAINTENANCE_ON = "maintenance_on", "Put into maintenance"
        MAINTENANCE_OFF = "maintenance_off", "Taken out of maintenance"
        CHECK_TRIED = "check_tried", "Tried the checks"
        SYNC = "sync", "Synced"
        EXPORT = "export", "Exported"
        IMPORT = "import", "Imported"
        ENABLED = "enabled", "Enabled"
        DISABLED = "disabled", "Disabled"
        HALT_CONFIRMED = "halt_confirmed", "Confirmed as dead"
        LOGINS_UNLOCKED = "logins_unlocked", "Unlocked logins"
        USER_CHANGED = "user_changed", "Changed a user or group"
        TOKEN_MADE = "token_made", "Made a token of a module"
        TOKEN_REVOKED = "token_revoked", "Revoked a token of a module"
        API_TOKEN_MADE = "api_token_made", "Made a token for the API"
        API_TOKEN_REVOKED = "api_token_revoked", "Revoked a token for the API"

    at = models.DateTimeField(default=timezone.now, db_index=True)
    action = models.CharField(max_length=32, choices=Action)
    actor = models.CharField(max_length=150, blank=True)
    via = models.CharField(max_length=100, blank=True)
    address = models.CharField(max_length=64, blank=True)
    target = models.CharField(max_length=512, blank=True, help_text="What it was done to.")
    detail = models.TextField(blank=True)
    request_id = models.CharField("request ID", max_length=64, blank=True)

    class Meta:
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.get_action_display()} by {self.actor or 'nobody'} at {self.at:%Y-%m-%d %H:%M:%S}"
