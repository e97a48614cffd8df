"""`scripts/bench pages`: cost of every page on the server at 10,000 instances, and of a poll of an unchanged page."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

from scripts.benchmarks.figures import Figure, seconds
from scripts.benchmarks.parts import Parts
from scripts.run_everything.settings import RunError

if TYPE_CHECKING:
    from django.test import Client

COUNT, QUICK_COUNT = 10_000, 300
ROUNDS, QUICK_ROUNDS = 15, 3
KB = 1024
PERMISSIONS = ("view", "change", "add")


def measure(parts: Parts, *, quick: bool) -> list[Figure]:
    """Returns figures of each page, through all middleware, for a staff user with permissions but not a superuser."""
    parts.use_postgres()
    from scripts.benchmarks import filled  # noqa: PLC0415 - Django is set up by now

    count, rounds = (QUICK_COUNT, QUICK_ROUNDS) if quick else (COUNT, ROUNDS)
    parts.say(f"Making {count:,} instances and their history")
    filled.fill(count)
    _prepare(parts)
    client = _operator()
    figures = []
    for name, path in pages(count).items():
        parts.say(f"Asking for {path}")
        figures += _page(client, name, path, rounds=rounds)
    figures += _unchanged(client, rounds=rounds)
    return figures


def pages(count: int) -> dict[str, str]:
    """Returns the paths of the pages by their names in the table of figures."""
    from registry_admin.inventory.models import Service, SyncRun  # noqa: PLC0415

    service = Service.objects.order_by("name")[min(3, count // 100)]
    return {
        "dashboard": "/",
        "dashboard, searched": "/?q=service-00",
        "dashboard, filtered and sorted": "/?health=critical&sort=-name",
        "service": f"/services/{service.name}/",
        "drift": "/drift/",
        "history of health": "/history/",
        "history of syncs": "/history/syncs/",
        "one sync": f"/history/syncs/{SyncRun.objects.latest('started_at').pk}/",
        "history of changes": "/history/changes/",
        "map": "/map/",
        "admin: services": "/admin/inventory/service/",
        "admin: one service": f"/admin/inventory/service/{service.pk}/change/",
        "admin: in Consul": "/admin/inventory/observedinstance/",
    }


def _page(client: Client, name: str, path: str, *, rounds: int) -> list[Figure]:
    first = _get(client, path)  # templates are compiled once
    queries = _queries(lambda: _get(client, path))
    duration = median(seconds(lambda: _get(client, path)) for _ in range(rounds))
    return [
        Figure(name=name, value=duration * 1000, unit="ms", goal=60, rounds=rounds),
        Figure(name=f"{name}: queries", value=queries, unit="queries", goal=12),
        Figure(name=f"{name}: compressed", value=len(first) / KB, unit="KB", goal=60),
    ]


def _unchanged(client: Client, *, rounds: int) -> list[Figure]:
    """Measures a poll of an open page while nothing changes."""
    live = {"X-Registry-Live": "1"}
    etag = client.get("/", headers=live, secure=True)["ETag"]
    conditional = {**live, "If-None-Match": etag}

    def poll() -> None:
        status = client.get("/", headers=conditional, secure=True).status_code
        if status != 304:
            raise RunError(f"An unchanged page was answered with {status} and not with 304.")

    poll()
    queries = _queries(poll)
    duration = median(seconds(poll) for _ in range(rounds * 3))
    return [
        Figure(name="an unchanged poll", value=duration * 1000, unit="ms", goal=5, rounds=rounds * 3),
        Figure(name="an unchanged poll: queries", value=queries, unit="queries", goal=2),
    ]


def _get(client: Client, path: str) -> bytes:
    """Returns the compressed body of the page."""
    response = client.get(path, secure=True)
    if response.status_code != 200 or response.get("Content-Encoding") != "gzip":
        raise RunError(f"{path} was answered with {response.status_code} {response.get('Content-Encoding', '')}.")
    return response.content


def _queries(action: Callable[[], object]) -> int:
    from django.db import connection  # noqa: PLC0415
    from django.test.utils import CaptureQueriesContext  # noqa: PLC0415

    with CaptureQueriesContext(connection) as queries:
        action()
    return len(queries)


def _operator() -> Client:
    from django.conf import settings  # noqa: PLC0415
    from django.contrib.auth.models import Permission, User  # noqa: PLC0415
    from django.db.models import Q  # noqa: PLC0415
    from django.test import Client  # noqa: PLC0415

    settings.ALLOWED_HOSTS = ["testserver"]
    user = User.objects.create_user("operator", is_staff=True)
    codenames = Q(codename__startswith="view_") | Q(codename__in=["change_service", "change_instance", "sync_service"])
    user.user_permissions.set(Permission.objects.filter(codenames, content_type__app_label="inventory"))
    client = Client(headers={"Accept-Encoding": "gzip"})
    client.force_login(user)
    return client


def _prepare(parts: Parts) -> None:
    """Collects static files and runs ANALYZE, so that pages are measured as in production."""
    from django.conf import settings  # noqa: PLC0415
    from django.core.management import call_command  # noqa: PLC0415
    from django.db import connection  # noqa: PLC0415

    settings.STATIC_ROOT = str(parts.settings.folder / "static")
    call_command("collectstatic", interactive=False, verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
