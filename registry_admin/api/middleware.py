"""What holds for every request under /api/v1/, whichever part of the site answers it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.utils.cache import get_conditional_response

from registry_admin.api.problems import CONTENT_TYPE, problem_response

ROOT = "/api/v1/"
_DETAILS = {
    400: "The request can't be read.",
    403: "This isn't allowed.",
    404: "There is nothing at this address. /api/v1/openapi.json lists what there is.",
    405: "This address doesn't take the method; the Allow header lists those it takes.",
    413: "The body is too large.",
    503: "The database is away. Try again in a few seconds.",
}
_KEPT = ("Allow", "Retry-After", "WWW-Authenticate")


class ApiMiddleware:
    """Answers HEAD like GET, makes a problem document of every error, and gives what is read an ETag."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not request.path_info.startswith(ROOT):
            return self._get_response(request)
        if "\x00" in request.path_info or any("\x00" in text for pair in request.GET.lists() for text in flat(pair)):
            return problem_response(400, "An address has no NUL characters.")
        response = self._answer(request)
        response["Cache-Control"] = "private, no-cache"
        if response.status_code >= 400 and response["Content-Type"] != CONTENT_TYPE:
            kept = {name: response[name] for name in _KEPT if name in response}
            detail = _DETAILS.get(response.status_code, "The server has failed; its log has more by the request's ID.")
            return problem_response(response.status_code, detail, headers=kept)
        return _conditional(request, response) if response.status_code == 200 else response

    def _answer(self, request: HttpRequest) -> HttpResponse:
        method = request.method
        request.method = "GET" if method == "HEAD" else method
        try:
            return self._get_response(request)
        finally:
            request.method = method


def flat(pair: tuple[str, list[str]]) -> list[str]:
    """Returns the name and the values of a query parameter."""
    return [pair[0], *pair[1]]


def _conditional(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """Returns 304 without a body where the client has this very document."""
    etag = f'"{hashlib.sha256(response.content).hexdigest()[:32]}"'
    response["ETag"] = etag
    conditional = get_conditional_response(request, etag=etag, response=response)
    return response if conditional is None else conditional
