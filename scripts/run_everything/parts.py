"""Parts of the system: the command of each, and requests that tell whether it works."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

from scripts import embedded_postgres
from scripts.run_everything.processes import Process
from scripts.run_everything.settings import HOST, RunError, Settings

MODULES = ("research", "backend-1", "backend-2")
# Number of healthy instances of each service once everything runs.
EXPECTED = {"backend-api": 2, "research-api": 1, "registry-admin": 1}
REQUEST_TIMEOUT_S = 2.0
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy between us and loopback


def consul(settings: Settings) -> Process:
    """An agent for development: in memory, on loopback. Its inner ports are free ones, so that several can run."""
    binary = settings.consul
    version = subprocess.run([binary, "version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    ports = {
        "http": settings.ports["CONSUL_PORT"],
        "server": embedded_postgres.free_port(),
        "serf_lan": embedded_postgres.free_port(),
        "serf_wan": -1,
        "dns": -1,
        "grpc": -1,
    }
    match = re.search(r"v(\d+)\.(\d+)", version)
    if match and (int(match[1]), int(match[2])) >= (1, 14):
        ports["grpc_tls"] = -1
    config = settings.folder / "consul.json"
    config.write_text(
        json.dumps(
            {"bind_addr": HOST, "client_addr": HOST, "ports": ports, "disable_update_check": True, "log_level": "info"}
        )
    )
    command = [binary, "agent", "-dev", "-config-file", str(config)]
    return Process("consul", command, settings.logs / "consul.log", environment(settings))


def postgres(settings: Settings) -> Process:
    """PostgreSQL, with its data in the folder. Raises RunError where it can't be run here."""
    try:
        embedded_postgres.prepare(settings.postgres)
        command = embedded_postgres.command(settings.postgres, settings.ports["POSTGRES_PORT"])
    except embedded_postgres.EmbeddedPostgresError as error:
        raise RunError(str(error)) from error
    return Process(
        "postgres", command, settings.logs / "postgres.log", embedded_postgres.environment(),
        cwd=Path("/"), end_signal=signal.SIGINT, bind=False,
    )  # fmt: skip


def web(settings: Settings) -> Process:
    """The admin, which registers itself too."""
    port = settings.ports["WEB_PORT"]
    return Process(
        "web",
        [
            sys.executable, "-m", "gunicorn", "registry_admin.wsgi",
            "--config", "registry_admin/gunicorn.conf.py", "--bind", f"{HOST}:{port}",
        ],
        settings.logs / "web.log",
        environment(settings, **_service("registry-admin", port, tags="admin")),
    )  # fmt: skip


def watcher(settings: Settings) -> Process:
    """The watcher, which keeps Consul as declared."""
    return Process(
        "watcher",
        [sys.executable, "manage.py", "sync_registry", "--watch"],
        settings.logs / "watcher.log",
        environment(settings),
    )


def modules(settings: Settings) -> list[Process]:
    """Two backends and the research module that calls them."""
    asgi = ["--worker-class", "uvicorn_worker.UvicornWorker"]
    return [
        _module(settings, "backend-1", "backend_stub.main:app", "BACKEND_PORT", *asgi),
        _module(settings, "backend-2", "backend_stub.main:app", "BACKEND2_PORT", *asgi),
        _module(settings, "research", "research_stub.main:application", "RESEARCH_PORT", "--threads", "4"),
    ]


def _module(settings: Settings, name: str, application: str, port_name: str, *options: str) -> Process:
    port, service = settings.ports[port_name], "research-api" if name == "research" else "backend-api"
    command = [sys.executable, "-m", "gunicorn", application, "--bind", f"{HOST}:{port}", "--no-control-socket"]
    env = environment(settings, **_service(service, port))
    return Process(name, [*command, *options], settings.logs / f"{name}.log", env)


def manage(settings: Settings, *arguments: str, **env: str) -> Process:
    """A Django command, to be run to its end."""
    command = [sys.executable, "manage.py", *arguments]
    return Process(
        f"manage.py {arguments[0]}", command, settings.logs / f"{arguments[0]}.log", environment(settings, **env)
    )


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """Returns the environment of a process: the inherited one, with the addresses of the parts."""
    return {
        **settings.inherited,
        "PYTHONUNBUFFERED": "1",
        "CONSUL_HTTP_ADDR": settings.consul_url,
        "DATABASE_URL": embedded_postgres.url(settings.postgres, settings.ports["POSTGRES_PORT"]),
        "DJANGO_SECRET_KEY": settings.secret("django-secret-key"),
        "REGISTRY_REPORT_TOKEN": settings.secret("report-token"),
        "DJANGO_HTTPS": "0",  # served on loopback only
        **more,
    }


def _service(name: str, port: int, *, tags: str = "") -> dict[str, str]:
    return {"SERVICE_NAME": name, "SERVICE_ADDRESS": HOST, "SERVICE_PORT": str(port), "SERVICE_TAGS": tags}


def is_healthy(url: str) -> bool:
    """Returns whether an HTTP GET of the URL gives 200."""
    try:
        with _opener.open(url, timeout=REQUEST_TIMEOUT_S) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def consul_is_ready(settings: Settings) -> bool:
    """Returns whether the agent has elected itself; it takes registrations only then."""
    return bool(_request(settings, "/v1/status/leader"))


def passing(settings: Settings, service: str) -> int:
    """Returns the number of healthy instances in Consul."""
    return len(_request(settings, f"/v1/health/service/{service}?passing") or ())


def deregister_all(settings: Settings) -> int:
    """Deregisters all services that are still at the agent, such as the declared ones. Returns their number.

    Consul refuses paths with some of the IDs that it takes: these stay. Waits up to 2 s for the catalog to follow,
    because the agent may be ended next.
    """
    remaining = [str(service_id) for service_id in _request(settings, "/v1/agent/services") or ()]
    for service_id in remaining:
        _request(settings, f"/v1/agent/service/deregister/{quote(service_id, safe='')}", method="PUT")
    deadline = time.monotonic() + 2
    while (
        remaining and set(_request(settings, "/v1/catalog/services") or ()) - {"consul"} and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    return len(remaining)


def _request(settings: Settings, path: str, *, method: str = "GET") -> list[object] | dict[str, object] | str | None:
    """Returns the agent's reply, decoded, or None where there is none."""
    request = urllib.request.Request(settings.consul_url + path, method=method)
    try:
        with _opener.open(request, timeout=REQUEST_TIMEOUT_S) as reply:
            content: list[object] | dict[str, object] | str | None = json.loads(reply.read() or b"null")
            return content
    except (OSError, ValueError):
        return None


def relative_path(path: Path) -> str:
    """Returns the path relative to the current folder if it is within it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
