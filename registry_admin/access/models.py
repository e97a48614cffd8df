"""Sessions that know their user and their last use, and the counts of failed logins."""

from __future__ import annotations

from typing import ClassVar, Self

from django.conf import settings
from django.contrib.sessions.base_session import AbstractBaseSession, BaseSessionManager
from django.db import models
from django.utils import timezone


class Session(AbstractBaseSession):
    """A session. `expire_date` is fixed at the login; `used_at` ends it earlier where nobody uses it."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.CASCADE, related_name="+")
    used_at = models.DateTimeField(default=timezone.now, help_text="The last request of a person; polls don't count.")

    objects: ClassVar[BaseSessionManager[Self]] = BaseSessionManager()

    @classmethod
    def get_session_store_class(cls) -> type:
        """Returns the store; called by Django's manager."""
        from registry_admin.access.sessions import SessionStore  # noqa: PLC0415 - the store needs this model

        return SessionStore


class LoginCount(models.Model):
    """Failed logins by name, by address, and by both together: an empty value stands for all names or all addresses.

    The name is a keyed hash, because people type passwords into the wrong field.
    """

    name = models.CharField(max_length=64, blank=True)
    address = models.CharField(max_length=64, blank=True)
    count = models.PositiveIntegerField(default=0)
    expires_at = models.DateTimeField(db_index=True, help_text="When the count begins anew.")
    succeeded_at = models.DateTimeField(null=True, help_text="The last login with this name from this address.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["name", "address"], name="one_login_count_per_name_and_address")]

    def __str__(self) -> str:
        return f"{self.count} from {self.address or 'all addresses'}"
