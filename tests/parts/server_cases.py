"""The servers and modes whose stopping is tested, each with the command that starts it."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from pathlib import Path

TERM, INT = signal.SIGTERM, signal.SIGINT
BIN = Path(sys.executable).parent
STARLETTE = "tests.modules.starlette_module:app"
DJANGO, DJANGO_ASGI = "tests.modules.django_servers:application", "tests.modules.django_servers:asgi"
FLASK = "tests.modules.flask_module:app"
GUNICORN = "gunicorn --no-control-socket -b 127.0.0.1:{port} -w 2"
GRANIAN = "granian --port {port} --workers 2 --respawn-interval 3 --interface"
LAUNCHER = "registry_admin.discovery run --"
UVICORN_WORKER = "-k uvicorn_worker.UvicornWorker"
UWSGI = f"{BIN}/uwsgi --http-socket 127.0.0.1:{{port}} --master -p 2 --need-app --virtualenv {BIN.parent} --wsgi"


@dataclass(frozen=True)
class ServerCase:
    """A server in one mode: what follows `python -m`, `{port}` being its port.

    After a signal in `cuts`, the server itself cuts off requests that take longer than the delay.
    """

    name: str
    command: str
    cuts: tuple[signal.Signals, ...] = ()

    @property
    def workers(self) -> int:
        """Number of processes that serve beside the main one, where several do."""
        return 2 if "-w 2" in self.command or "--workers 2" in self.command else 0


@dataclass(frozen=True)
class ReloadCase:
    """A server, and the signal that replaces its workers; none where the number of requests does."""

    name: str
    command: str
    signum: signal.Signals | None = signal.SIGHUP


CORE = [
    ServerCase("gunicorn, sync", f"{GUNICORN} {DJANGO}", cuts=(INT,)),
    ServerCase("gunicorn, sync, --preload", f"{GUNICORN} --preload {DJANGO}", cuts=(INT,)),
    ServerCase("gunicorn, gevent", f"{GUNICORN} -k gevent {DJANGO}", cuts=(INT,)),
    ServerCase("gunicorn, asgi", f"{GUNICORN} -k asgi {STARLETTE}", cuts=(INT,)),
    ServerCase("uvicorn", f"uvicorn --port {{port}} {STARLETTE}"),
    ServerCase("uvicorn, --workers", f"uvicorn --port {{port}} --workers 2 {STARLETTE}"),
    ServerCase("hypercorn, -w 2", f"hypercorn -b 127.0.0.1:{{port}} -w 2 {STARLETTE}"),
    ServerCase("granian, asgi", f"granian --port {{port}} --interface asgi {STARLETTE}"),
    ServerCase("waitress", f"waitress --listen 127.0.0.1:{{port}} {FLASK}"),
    ServerCase("runserver", "tests.modules.manage runserver 127.0.0.1:{port}", cuts=(TERM, INT)),
    ServerCase("script with handlers", "tests.modules.script handler"),
]
ALL = [
    *CORE,
    ServerCase("gunicorn, gthread", f"{GUNICORN} -k gthread --threads 4 {FLASK}", cuts=(INT,)),
    ServerCase("gunicorn, gevent, --preload", f"{GUNICORN} -k gevent --preload {DJANGO}", cuts=(INT,)),
    ServerCase("gunicorn, asgi, Django", f"{GUNICORN} -k asgi {DJANGO_ASGI}", cuts=(INT,)),
    ServerCase("gunicorn, uvicorn-worker", f"{GUNICORN} {UVICORN_WORKER} {STARLETTE}", cuts=(INT,)),
    ServerCase("gunicorn, uvicorn-worker, Django", f"{GUNICORN} {UVICORN_WORKER} {DJANGO_ASGI}", cuts=(INT,)),
    ServerCase(
        "gunicorn, uvicorn-worker, --preload", f"{GUNICORN} {UVICORN_WORKER} --preload {DJANGO_ASGI}", cuts=(INT,)
    ),
    ServerCase("uvicorn, Django", f"uvicorn --port {{port}} {DJANGO_ASGI}"),
    ServerCase("uvicorn, --reload", f"uvicorn --port {{port}} --reload --reload-dir docker {STARLETTE}"),
    ServerCase("hypercorn", f"hypercorn -b 127.0.0.1:{{port}} {STARLETTE}"),
    ServerCase("hypercorn, -w 0", f"hypercorn -b 127.0.0.1:{{port}} -w 0 {STARLETTE}"),
    ServerCase("hypercorn, Django", f"hypercorn -b 127.0.0.1:{{port}} {DJANGO_ASGI}"),
    ServerCase("granian, asgi, Django", f"granian --port {{port}} --interface asgi --workers 2 {DJANGO_ASGI}"),
    ServerCase("granian, wsgi", f"granian --port {{port}} --interface wsgi --workers 2 --blocking-threads 2 {DJANGO}"),
    ServerCase("daphne", f"daphne -p {{port}} {DJANGO_ASGI}", cuts=(TERM, INT)),
    ServerCase("runserver, --noreload", "tests.modules.manage runserver 127.0.0.1:{port} --noreload", cuts=(TERM, INT)),
    ServerCase("flask run", f"flask --app {FLASK} run --port {{port}}", cuts=(TERM, INT)),
    ServerCase("flask run, --reload", f"flask --app {FLASK} run --port {{port}} --reload", cuts=(TERM, INT)),
    ServerCase("script without handlers", "tests.modules.script threads", cuts=(TERM, INT)),
    ServerCase("script, asyncio", "tests.modules.script asyncio"),
    ServerCase(
        "uWSGI, with the launcher",
        f"{LAUNCHER} {UWSGI} {DJANGO} --hook-master-start=unix_signal:15=gracefully_kill_them_all",
        cuts=(TERM, INT),
    ),
]
RELOADS_CORE = [
    ReloadCase("gunicorn, sync", f"{GUNICORN} {DJANGO}"),
    ReloadCase("uvicorn, --workers", f"uvicorn --port {{port}} --workers 2 {STARLETTE}"),
]
RELOADS = [
    *RELOADS_CORE,
    ReloadCase("gunicorn, sync, --preload", f"{GUNICORN} --preload {DJANGO}"),
    ReloadCase("gunicorn, gthread", f"{GUNICORN} -k gthread --threads 4 {FLASK}"),
    ReloadCase("gunicorn, gevent", f"{GUNICORN} -k gevent {DJANGO}"),
    ReloadCase("gunicorn, asgi", f"{GUNICORN} -k asgi {STARLETTE}"),
    ReloadCase("gunicorn, uvicorn-worker", f"{GUNICORN} {UVICORN_WORKER} {STARLETTE}"),
    ReloadCase("gunicorn, --max-requests", f"{GUNICORN} --max-requests 150 {DJANGO}", None),
    ReloadCase(
        "gunicorn, uvicorn-worker, --max-requests", f"{GUNICORN} {UVICORN_WORKER} --max-requests 150 {STARLETTE}", None
    ),
    ReloadCase("granian, asgi", f"{GRANIAN} asgi {STARLETTE}"),
    ReloadCase("granian, wsgi", f"{GRANIAN} wsgi {DJANGO}"),
]
