"""What all pages have in common: who may see them, the frame around them, and how they keep themselves current."""

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

from registry_admin.inventory import selectors

LIVE_HEADER = "X-Registry-Live"  # live.js asks with it for the part of a page that changes


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a view shows: `dashboard/NAME.html`, whose changing part is `dashboard/NAME_live.html`."""

    name: str
    title: str
    context: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200


@dataclass(frozen=True)
class Can:
    """What the user may do, for templates: a button that would be refused isn't shown."""

    request: HttpRequest

    def _may(self, *permissions: str) -> bool:
        return self.request.user.has_perms([f"inventory.{name}" for name in permissions])

    @property
    def sync(self) -> bool:
        """Sync, put into maintenance, try a check."""
        return self._may("sync_service")

    @property
    def edit(self) -> bool:
        """Change declarations."""
        return self._may("change_service", "change_instance")

    @property
    def adopt(self) -> bool:
        """Declare what is in Consul."""
        return self._may("add_service", "add_instance")

    @property
    def prune(self) -> bool:
        """Remove from Consul what is no longer declared."""
        return self._may("prune_service")

    @property
    def release(self) -> bool:
        """Drop declarations and leave Consul as it is."""
        return self._may("delete_service", "delete_instance")


_FRAME = ("freshness", "lease")

View = Callable[..., "Page | HttpResponse"]


def page(*permissions: str, also: Callable[[], object] = lambda: "") -> Callable[[View], Callable[..., HttpResponse]]:
    """Makes a page of a view: for staff with these permissions (of the inventory), live, and in the common frame.

    `also`: what the page shows that `selectors.state_stamp` doesn't cover; it must differ when that does.
    """

    def decorate(view: View) -> Callable[..., HttpResponse]:
        @functools.wraps(view)
        def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            is_live = LIVE_HEADER in request.headers and request.method == "GET"
            etag = _etag(request, also) if is_live else ""
            if is_live and request.headers.get("If-None-Match") == etag:
                return _private(HttpResponseNotModified(), etag)
            user = request.user
            if not (user.is_active and user.is_staff):
                if is_live:
                    return HttpResponse("You have been logged out.", status=401, content_type="text/plain")
                return redirect_to_login(request.get_full_path(), settings.LOGIN_URL)
            if not user.has_perms([f"inventory.{name}" for name in permissions]):
                raise PermissionDenied
            shown = view(request, *args, **kwargs)
            response = _rendered(request, shown, is_live=is_live) if isinstance(shown, Page) else shown
            return _private(response, etag)

        return wrapped

    return decorate


def _rendered(request: HttpRequest, shown: Page, *, is_live: bool) -> HttpResponse:
    frame = {} if "freshness" in shown.context else dict(zip(_FRAME, selectors.freshness_and_lease(), strict=True))
    context = {
        **frame,
        "can": Can(request),
        "title": shown.title,
        "section": request.resolver_match.url_name if request.resolver_match else "",
        **shown.context,
    }
    if is_live:
        return HttpResponse(
            render_to_string(f"dashboard/{shown.name}_live.html", context, request), status=shown.status
        )
    context |= {**admin.site.each_context(request), "title": shown.title, "live": f"dashboard/{shown.name}_live.html"}
    return HttpResponse(render_to_string(f"dashboard/{shown.name}.html", context, request), status=shown.status)


def _etag(request: HttpRequest, also: Callable[[], object]) -> str:
    """Bound to the session, so only who was shown just this can have it: it is compared before users are read."""
    session = request.COOKIES.get(settings.SESSION_COOKIE_NAME, "")
    said = repr((session, request.get_full_path(), selectors.state_stamp(), also()))
    return f'W/"{salted_hmac("registry_admin.dashboard.live", said).hexdigest()}"'


def _private(response: HttpResponse, etag: str) -> HttpResponse:
    response["Cache-Control"] = "private, no-cache"
    patch_vary_headers(response, ["Cookie", LIVE_HEADER])
    if etag and response.status_code in (200, 304):
        response["ETag"] = etag
    return response
