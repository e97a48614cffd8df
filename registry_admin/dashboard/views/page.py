"""The frame of every page: permissions, live updates and common context."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotModified
from django.template.loader import render_to_string
from django.utils.cache import patch_vary_headers
from django.utils.crypto import salted_hmac

from registry_admin.access.authorization import session_rights
from registry_admin.access.middleware import LIVE_HEADER
from registry_admin.access.sessions import session_key
from registry_admin.inventory import selectors


@dataclass(frozen=True, kw_only=True)
class Page:
    """The result of a view: `dashboard/NAME.html`, whose changing part is `dashboard/NAME_live.html`."""

    name: str
    title: str
    context: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200


@dataclass(frozen=True)
class UserPermissions:
    """Permissions of the user, for templates: a button that would be refused isn't shown."""

    request: HttpRequest

    def _has(self, *permissions: str) -> bool:
        return self.request.user.has_perms([f"inventory.{name}" for name in permissions])

    @property
    def sync(self) -> bool:
        """Sync, put into maintenance, try a check."""
        return self._has("sync_service")

    @property
    def edit(self) -> bool:
        """Change declarations."""
        return self._has("change_service", "change_instance")

    @property
    def adopt(self) -> bool:
        """Declare what is in Consul."""
        return self._has("add_service", "add_instance")

    @property
    def prune(self) -> bool:
        """Remove from Consul what is no longer declared."""
        return self._has("prune_service")

    @property
    def release(self) -> bool:
        """Drop declarations and leave Consul as it is."""
        return self._has("delete_service", "delete_instance")


_FRAME = ("freshness", "lease")

View = Callable[..., "Page | HttpResponse"]


def page(
    *permissions: str, extra_stamp: Callable[[], object] = lambda: ""
) -> Callable[[View], Callable[..., HttpResponse]]:
    """Makes a page of a view: for staff with these permissions (of the inventory), live, and in the common frame.

    `extra_stamp`: returns a value that changes with data that `selectors.state_stamp` doesn't cover.
    """

    def decorate(view: View) -> Callable[..., HttpResponse]:
        @functools.wraps(view)
        def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            is_live = LIVE_HEADER in request.headers and request.method == "GET"
            known = request.headers.get("If-None-Match", "") if is_live and session_key(request) else ""
            etag = _etag(request, extra_stamp) if known else ""
            if known and known == etag:
                return _private(HttpResponseNotModified(), etag)
            user = request.user
            if not (user.is_active and user.is_staff):
                if is_live:
                    return HttpResponse("You have been logged out.", status=401, content_type="text/plain")
                return redirect_to_login(request.get_full_path(), settings.LOGIN_URL)
            if not user.has_perms([f"inventory.{name}" for name in permissions]):
                raise PermissionDenied
            etag = etag or (_etag(request, extra_stamp) if is_live else "")
            result = view(request, *args, **kwargs)
            response = _rendered(request, result, is_live=is_live) if isinstance(result, Page) else result
            return _private(response, etag)

        return wrapped

    return decorate


def _rendered(request: HttpRequest, result: Page, *, is_live: bool) -> HttpResponse:
    frame = {} if "freshness" in result.context else dict(zip(_FRAME, selectors.freshness_and_lease(), strict=True))
    context = {
        **frame,
        "can": UserPermissions(request),
        "title": result.title,
        "section": request.resolver_match.url_name if request.resolver_match else "",
        **result.context,
    }
    if is_live:
        return HttpResponse(
            render_to_string(f"dashboard/{result.name}_live.html", context, request), status=result.status
        )
    context |= {**admin.site.each_context(request), "title": result.title, "live": f"dashboard/{result.name}_live.html"}
    return HttpResponse(render_to_string(f"dashboard/{result.name}.html", context, request), status=result.status)


def _etag(request: HttpRequest, extra_stamp: Callable[[], object]) -> str:
    """Returns a tag of the page for this session with these rights, which the same query reads.

    The tag is only ever sent to who may see the page, so a request that has the right one is authorised by it.
    """
    session = session_key(request)
    text = repr((session, request.get_full_path(), selectors.state_stamp(session_rights(session)), extra_stamp()))
    return f'W/"{salted_hmac("registry_admin.dashboard.live", text).hexdigest()}"'


def _private(response: HttpResponse, etag: str) -> HttpResponse:
    response["Cache-Control"] = "private, no-store"  # the Back button shows nothing after a logout
    patch_vary_headers(response, ["Cookie", LIVE_HEADER])
    if etag and response.status_code in (200, 304):
        response["ETag"] = etag
    return response
