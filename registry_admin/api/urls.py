"""The addresses of the API, and how it answers errors."""

from __future__ import annotations

from typing import Any

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.http import require_safe
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, ValidationError

from registry_admin.api.authentication import TokenAuth
from registry_admin.api.operations import router
from registry_admin.api.problems import CONTENT_TYPE, FieldError, Problem, problem_response
from registry_admin.errors import DatabaseUnavailableError

DESCRIPTION = (
    "Reads the registry as the pages show it. Make a token with `manage.py api_token make NAME` and send it as "
    "`Authorization: Bearer TOKEN`. Every error is a problem document (RFC 9457)."
)
RETRY_AFTER = {"Retry-After": "5"}

api = NinjaAPI(
    title="Registry Admin",
    version="1",
    description=DESCRIPTION,
    docs_url=None,  # its pages load scripts from elsewhere, which our policy forbids
    openapi_url=None,
    auth=TokenAuth(),
    urls_namespace="api",
)
api.add_router("", router)


@api.exception_handler(Problem)
def respond(_request: HttpRequest, problem: Any) -> HttpResponse:
    """Returns the document of a problem that an operation has raised."""
    return problem_response(problem.status, problem.detail, errors=problem.errors, headers=problem.headers)


@api.exception_handler(AuthenticationError)
def unauthenticated(_request: HttpRequest, _error: Any) -> HttpResponse:
    """Answers 401."""
    detail = "Give a token that is in use as 'Authorization: Bearer …'. `manage.py api_token make NAME` makes one."
    return problem_response(401, detail, headers={"WWW-Authenticate": "Bearer"})


@api.exception_handler(ValidationError)
def invalid(_request: HttpRequest, error: Any) -> HttpResponse:
    """Answers 422, and names each parameter with what is wrong about it."""
    errors = [FieldError(str(item["loc"][-1]), item["msg"]) for item in error.errors]
    return problem_response(422, "Parameters are wrong.", errors=errors)


def database_away(_request: HttpRequest, _error: Any) -> HttpResponse:
    """Answers 503."""
    return problem_response(503, "The database is away. Try again in a few seconds.", headers=RETRY_AFTER)


for _kind in (OperationalError, InterfaceError, DatabaseUnavailableError):
    api.add_exception_handler(_kind, database_away)


def document() -> dict[str, Any]:
    """Returns the OpenAPI document, as docs/reference/openapi.json has it."""
    schema = dict(api.get_openapi_schema(path_prefix="/api/v1/"))
    for operation in (operation for methods in schema["paths"].values() for operation in methods.values()):
        for status, response in operation["responses"].items():
            if int(status) >= 400:  # ninja names the same type for all
                response["content"] = {CONTENT_TYPE: response["content"].pop("application/json")}
    return schema


@require_safe
def openapi(_request: HttpRequest) -> HttpResponse:
    """Returns the OpenAPI document; it says nothing about what is in the registry, so it needs no token."""
    return JsonResponse(document())


urlpatterns = [
    path("api/v1/openapi.json", openapi, name="openapi"),
    path("api/v1/", api.urls),
]
