"""Problem details: every error of the API as a document that names the field and the fix (RFC 9457)."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import NamedTuple

from django.http import HttpResponse, JsonResponse
from ninja import Schema
from pydantic import Field

from registry_admin.request_context import current_request

CONTENT_TYPE = "application/problem+json"


class FieldError(NamedTuple):
    """A parameter that is refused, and what to give instead."""

    field: str
    detail: str


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """Ends an operation with a problem document."""

    def __init__(self, status: int, detail: str, *, errors: Sequence[FieldError] = (), retry_after_s: int = 0) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = {"Retry-After": str(retry_after_s)} if retry_after_s else {}


class ProblemField(Schema):
    """A parameter that is refused, and what to give instead."""

    field: str
    detail: str


class ProblemDocument(Schema):
    """An error (RFC 9457)."""

    title: str
    status: int
    detail: str = Field(description="What has happened, and what to do.")
    request_id: str = Field(description="By which the log has more about it.")
    errors: list[ProblemField] = Field(default=[], description="The parameters that are refused.")


def problem_response(
    status: int, detail: str, *, errors: Sequence[FieldError] = (), headers: dict[str, str] | None = None
) -> HttpResponse:
    """Returns a problem document."""
    body = {
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "request_id": current_request().request_id,
        "errors": [error._asdict() for error in errors],
    }
    return JsonResponse(body, status=status, content_type=CONTENT_TYPE, headers=headers)
