"""The forms that look at a password, with limits."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from django import forms
from django.contrib.admin.forms import AdminAuthenticationForm, AdminPasswordChangeForm
from django.utils import timezone

from registry_admin.access import login_limits
from registry_admin.access.client_address import client_address
from registry_admin.access.signals import login_locked
from registry_admin.inventory.audit_trail import record_refusal
from registry_admin.inventory.models import AuditEvent
from registry_admin.request_context import current_request


class LoginForm(AdminAuthenticationForm):
    """Counts an attempt before the password is looked at, and says how long a lock lasts.

    Unknown names are counted and locked like any other, and their password is hashed too (Django's ModelBackend): the
    answer tells nothing about which names there are.
    """

    def clean(self) -> dict[str, Any]:
        """Raises ValidationError for a wrong or locked login."""
        name, password = self.cleaned_data.get("username"), self.cleaned_data.get("password")
        if not (name and password):
            return self.cleaned_data
        address = client_address(self.request) if self.request else ""
        if until := login_limits.reserve_login(name, address):
            login_locked.send(sender=type(self), request=self.request, username=name)
            raise forms.ValidationError(_explanation(until), code="locked")
        cleaned: dict[str, Any] = super().clean()
        login_limits.record_success(name, address)
        return cleaned


class PasswordChangeForm(AdminPasswordChangeForm):
    """Counts a wrong old password as a failed login: a login that is left open is no place to guess it."""

    def clean_old_password(self) -> str:
        """Raises ValidationError for a wrong password, and for one that isn't looked at."""
        name, address = self.user.get_username(), current_request().address
        if until := login_limits.reserve_login(name, address):
            record_refusal(AuditEvent.Action.LOGIN_LOCKED, target=name)
            raise forms.ValidationError(_explanation(until), code="locked")
        password: str = super().clean_old_password()
        login_limits.record_success(name, address)
        return password


def _explanation(until: datetime) -> str:
    minutes = max(1, math.ceil((until - timezone.now()).total_seconds() / 60))
    wait = "a minute" if minutes == 1 else f"{minutes} minutes"
    return (
        f"Too many logins have failed, so this one was not tried. Try again in {wait}, or ask whoever runs the site "
        "for `manage.py unlock_logins`."
    )
