"""Takes the reports of who calls whom."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt


@csrf_exempt
def report(_request: HttpRequest) -> HttpResponse:
    """To come."""
    return HttpResponse(status=501)
