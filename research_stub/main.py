"""research-api: enriches what it is given and has backend-api publish it. A whole Django project in one file.

It shows the two lines that a Django module needs: `registry_admin.autoregister` among the apps to register itself, and
`call_service` to call another. Run it as `gunicorn research_stub.main:application -b 127.0.0.1:8001`.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import secrets

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from registry_admin.consul import ConsulConfig
from registry_admin.discovery import call_service
from registry_admin.discovery.identity import own_address
from registry_admin.errors import (
    CallFailedError,
    ConsulUnavailableError,
    DeadlineExceededError,
    InvalidValueError,
    NoHealthyInstanceError,
    NoSuchServiceError,
    RegistryError,
)

BACKEND = "backend-api"

os.environ.setdefault("SERVICE_NAME", "research-api")
os.environ.setdefault("SERVICE_PORT", "8001")


def allowed_hosts() -> list[str]:
    """By which names this module may be called: loopback, its own address, by which Consul asks, and what is set."""
    hosts = ["localhost", "127.0.0.1", "[::1]"]
    hosts += [host.strip() for host in os.environ.get("DJANGO_ALLOWED_HOSTS", "").split(",") if host.strip()]
    try:
        return [*hosts, os.environ.get("SERVICE_ADDRESS") or own_address(ConsulConfig.from_env())]
    except RegistryError:
        return hosts


if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=allowed_hosts(),
        DATA_UPLOAD_MAX_MEMORY_SIZE=64 * 1024,
        INSTALLED_APPS=["registry_admin.autoregister"],
        LOGGING={
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"stderr": {"class": "logging.StreamHandler"}},
            "loggers": {"registry_admin": {"handlers": ["stderr"], "level": "INFO"}},
        },
        MIDDLEWARE=[
            "registry_admin.autoregister.middleware.propagate_context",
            "django.middleware.security.SecurityMiddleware",
            "django.middleware.common.CommonMiddleware",
        ],
        ROOT_URLCONF=__name__,
        SECRET_KEY=secrets.token_urlsafe(50),  # signs nothing here, so each process may have its own
        USE_TZ=True,
    )


@require_GET
def health(_request: HttpRequest) -> HttpResponse:
    """What Consul asks for."""
    return JsonResponse({"status": "ok"})


@csrf_exempt  # an API for programs: there is no session that another site could abuse
@require_POST
def enrich(request: HttpRequest) -> HttpResponse:
    """Adds what research knows to a JSON object and has it published; answers with the card, and with who served it."""
    try:
        given = json.loads(request.body)
    except RequestDataTooBig:
        return _problem(413, "Send at most 64 KiB.")
    except (ValueError, RecursionError):
        return _problem(400, 'The body is not JSON. Send an object, such as {"title": "Test"}.')
    if not isinstance(given, dict) or not given:
        return _problem(400, 'Send a JSON object that is not empty, such as {"title": "Test"}.')
    findings = {"by": os.environ["SERVICE_NAME"], "at": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")}
    return _publish({**given, "enriched": {**findings, "words": len(str(given.get("title", "")).split())}})


def _publish(card: dict[str, object]) -> HttpResponse:
    # The key tells the backend that it is the same card, so the call may be tried again even if it was received.
    headers = {"Idempotency-Key": secrets.token_hex(16)}
    try:
        reply = call_service(BACKEND, "/publish", method="POST", json=card, headers=headers)
    except InvalidValueError as error:
        return _problem(400, str(error))
    except DeadlineExceededError as error:
        return _problem(504, str(error))
    except (NoSuchServiceError, NoHealthyInstanceError, ConsulUnavailableError) as error:
        return _problem(503, str(error))
    except (CallFailedError, RegistryError) as error:
        return _problem(502, str(error))
    if not reply.ok:
        return _problem(502, f"{BACKEND} answered with status {reply.status_code}.")
    try:
        published = reply.json()
        return JsonResponse({"served_by": published["served_by"], "card": published})
    except (ValueError, TypeError, KeyError):
        return _problem(502, f"{BACKEND} answered with something that is no card.")


def _problem(status: int, message: str) -> HttpResponse:
    return JsonResponse({"error": message}, status=status)


urlpatterns = [path("health", health), path("enrich", enrich)]
application = get_wsgi_application()
