"""Who may use the API: whoever sends a token. Cookies count for nothing here, so no page of another site can use it."""

from __future__ import annotations

import threading
import time

from django.http import HttpRequest
from django.utils import timezone
from ninja.security import HttpBearer

from registry_admin.api.models import ApiToken
from registry_admin.api.problems import Problem
from registry_admin.api.tokens import recognize_token, record_use
from registry_admin.inventory.audit_trail import RowBudget
from registry_admin.request_context import current_request

MAX_REQUESTS = 600  # a minute, of each token at each process

_budgets: dict[str, RowBudget] = {}
_lock = threading.Lock()


class TokenAuth(HttpBearer):
    """A token made by `manage.py api_token make`."""

    def authenticate(self, request: HttpRequest, token: str) -> ApiToken | None:  # noqa: ARG002
        """Returns the token's row, or None. Raises Problem (429) for too many requests."""
        now = timezone.now()
        row = recognize_token(f"Bearer {token}", now=now)
        if row is None:
            return None
        if not _budget(row.key).take():
            raise Problem(
                429, f"A token has {MAX_REQUESTS} requests a minute. Try again in a minute.", retry_after_s=60
            )
        record_use(row, address=current_request().address, now=now)
        return row


def _budget(key: str) -> RowBudget:
    with _lock:  # only of tokens that were recognized, so there are as many as tokens
        return _budgets.setdefault(key, RowBudget(MAX_REQUESTS, clock=time.monotonic))
