"""Middleware: the context of each request, the size of its body, and the use of sessions."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse

from registry_admin.access.client_address import client_address, is_from_proxy
from registry_admin.access.sessions import SessionStore
from registry_admin.inventory.audit_trail import record_refusal
from registry_admin.inventory.models import AuditEvent
from registry_admin.request_context import RequestContext, serving

LIVE_HEADER = "X-Registry-Live"  # live.js asks with it for the part of a page that changes
ID_HEADER = "X-Request-ID"
_ID = re.compile(r"[\w.:-]{8,64}", re.ASCII)


class RequestContextMiddleware:
    """Gives each request an ID, which its answer carries, and refuses host names that aren't ours. The first of all."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        context = RequestContext(request_id=_request_id(request), address=client_address(request))
        with serving(context):
            response = self._answer(request)
        response[ID_HEADER] = context.request_id
        return response

    def _answer(self, request: HttpRequest) -> HttpResponse:
        try:
            request.get_host()
        except DisallowedHost:
            host = request.META.get("HTTP_HOST", "")
            record_refusal(AuditEvent.Action.HOST_REFUSED, target=host, detail=request.path, actor="")
            text = "This host name isn't served here. If it should be, add it to DJANGO_ALLOWED_HOSTS.\n"
            return HttpResponse(text, status=400, content_type="text/plain; charset=utf-8")
        return self._get_response(request)


class BodyLimitMiddleware:
    """Refuses a body that is larger than any form of ours before a byte of it is read, whoever sends it.

    A view that takes more has `takes_large_bodies`, and looks at its user and at the size itself.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._get_response(request)

    def process_view(self, request: HttpRequest, view: Any, *_arguments: Any) -> HttpResponse | None:
        """Called by Django before the view, and before the middleware that looks for a form's token in the body."""
        length = request.META.get("CONTENT_LENGTH") or "0"
        if getattr(view, "takes_large_bodies", False) or (length.isdigit() and int(length) <= settings.MAX_BODY_BYTES):
            return None
        text = f"A request has at most {settings.MAX_BODY_BYTES} bytes.\n"
        return HttpResponse(text, status=413, content_type="text/plain; charset=utf-8")


def _request_id(request: HttpRequest) -> str:
    """Returns the ID that the proxy has given, where there is one, or a new one."""
    given = request.headers.get(ID_HEADER, "") if is_from_proxy(request) else ""
    return given if _ID.fullmatch(given) else uuid.uuid4().hex


class SessionUseMiddleware:
    """Keeps the session of a person who does something; the polls of an open page are nobody's doing."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self._get_response(request)
        session = request.session
        if isinstance(session, SessionStore) and session.accessed and LIVE_HEADER not in request.headers:
            session.touch()
        return response
