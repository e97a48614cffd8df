"""The store of sessions (SESSION_ENGINE): the database alone, so that a session that was closed stays closed.

Django's cached stores bring a deleted session back: a reader that has loaded the row fills the cache after the logout.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore as DatabaseSessionStore
from django.http import HttpRequest
from django.utils import timezone

from registry_admin.access.models import Session
from registry_admin.inventory.conf import conf

TOUCH_EVERY = timedelta(minutes=1)


class SessionStore(DatabaseSessionStore):
    """Sessions that end when they are idle, and at a time that is fixed at the login."""

    used_at: datetime | None = None

    @classmethod
    def get_model_class(cls) -> type[Session]:
        """Returns the model of the rows."""
        return Session

    def load(self) -> dict[str, Any]:
        """Returns the session's data; nothing for a session that has ended."""
        now = timezone.now()
        row = Session.objects.filter(
            session_key=self.session_key, expire_date__gt=now, used_at__gt=idle_before(now)
        ).first()
        if row is None:
            self._session_key = None
            return {}
        self.used_at = row.used_at
        data: dict[str, Any] = self.decode(row.session_data)
        return data

    async def aload(self) -> dict[str, Any]:
        """Returns the same in asynchronous code."""
        return await sync_to_async(self.load)()

    def create_model_instance(self, data: dict[str, Any]) -> Session:
        """Returns the row to save. Saving is no use by a person: a poll may save, too."""
        row = cast("Session", super().create_model_instance(data))
        row.user_id = data.get(SESSION_KEY) or None
        row.used_at = self.used_at = self.used_at or timezone.now()
        return row

    def touch(self) -> None:
        """Records that a person uses the session, at most once a minute."""
        now = timezone.now()
        if self.session_key and self.used_at is not None and now - self.used_at >= TOUCH_EVERY:
            Session.objects.filter(session_key=self.session_key).update(used_at=now)
            self.used_at = now


def idle_before(now: datetime) -> datetime:
    """Returns the time of the last use at which a session has ended."""
    return now - timedelta(seconds=conf.session_idle_s)


def end_session_in_time(request: HttpRequest) -> None:
    """Fixes the end of the session that has just begun: no use moves it."""
    request.session.set_expiry(timezone.now() + timedelta(seconds=conf.session_limit_s))


def session_key(request: HttpRequest) -> str:
    """Returns the key that the request claims, without a look at the database."""
    return request.COOKIES.get(settings.SESSION_COOKIE_NAME, "")
