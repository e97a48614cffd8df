"""The live pane of a service: rendered from the mirror, and sent again only when it has changed."""

from __future__ import annotations

import hashlib

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotModified
from django.template.loader import render_to_string

from registry_admin.inventory.selectors import freshness, service_pane


def live_view(request: HttpRequest, pk: int, *, may_view: bool) -> HttpResponse:
    """The pane as an HTML fragment; raises PermissionDenied or Http404."""
    if not may_view:
        raise PermissionDenied
    pane = service_pane(pk)
    if pane is None:
        raise Http404
    html = render_to_string("admin/inventory/service/pane.html", {"pane": pane, "freshness": freshness()}, request)
    etag = f'"{hashlib.sha256(html.encode()).hexdigest()[:24]}"'
    if request.headers.get("If-None-Match") == etag:
        response: HttpResponse = HttpResponseNotModified()
    else:
        response = HttpResponse(html)
    response["ETag"] = etag
    response["Cache-Control"] = "private, no-cache"
    return response
