"""Parts that a measurement runs against: a Consul agent and a PostgreSQL on one core, the client on another."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scripts import embedded_postgres
from scripts.run_everything import parts as run_parts
from scripts.run_everything.processes import Process, Processes
from scripts.run_everything.settings import HOST, NOT_PASSED_ON, RunError, Settings

_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


class Parts:
    """Starts parts on demand; `end` ends all and leaves nothing behind. `say` prints progress."""

    def __init__(self, *, say: Callable[[str], None]) -> None:
        self.say = say
        self.processes = Processes()
        self._folder = Path(tempfile.mkdtemp(prefix="registry-admin-bench-"))
        self._folder.chmod(0o755)  # PostgreSQL runs as another user if this process runs as root
        self.port, self._postgres_port = embedded_postgres.free_port(), embedded_postgres.free_port()
        if len(_CORES) > 1:
            os.sched_setaffinity(0, {_CORES[1]})

    @property
    def settings(self) -> Settings:
        """Settings for starting Consul and PostgreSQL as scripts/run does."""
        if not os.environ.get("CONSUL_BIN"):
            raise RunError("CONSUL_BIN is not set. Start this with scripts/bench, which finds Consul.")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(NOT_PASSED_ON)}
        ports = {"CONSUL_PORT": self.port, "POSTGRES_PORT": self._postgres_port}
        return Settings(consul=os.environ["CONSUL_BIN"], folder=self._folder, ports=ports, inherited=inherited)

    def empty_consul(self) -> None:
        """Starts an empty agent on the same port as before."""
        settings = self.settings
        settings.logs.mkdir(exist_ok=True)
        self.processes.end("consul")
        with on_core(0):
            self.processes.start(run_parts.consul(settings))
        self.processes.wait_until(lambda: run_parts.consul_is_ready(settings), "Consul to elect itself")

    def use_postgres(self) -> None:
        """Starts a PostgreSQL, and sets up Django in this process on it and on the agent."""
        self.say("Starting PostgreSQL")
        with on_core(0):
            database = embedded_postgres.start(self.settings.postgres, port=self._postgres_port)
        os.environ.update(
            CONSUL_HTTP_ADDR=self.settings.consul_url,
            DATABASE_URL=database,
            DJANGO_SETTINGS_MODULE="registry_admin.settings",
            DJANGO_SECRET_KEY=secrets.token_urlsafe(50),
            LOG_LEVEL="ERROR",
            REGISTRY_CONSUL_TIMEOUT="60s",
        )
        import django  # noqa: PLC0415 - its settings read the environment that was made just now
        from django.core.management import call_command  # noqa: PLC0415

        django.setup()
        call_command("migrate", verbosity=0)

    def start_watcher(self) -> int:
        """Starts `sync_registry --watch` on the client's core and returns its process ID."""
        command = [sys.executable, "manage.py", "sync_registry", "--watch"]
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = Process("watcher", command, self._folder / "watcher.log", env)
        self.processes.start(process)
        return process.pid

    def stop_watcher(self) -> None:
        """Ends the watcher and waits for its end."""
        self.processes.end("watcher")
        self.processes.all.pop("watcher", None)

    def request(self, method: str, path: str, body: bytes | None = None) -> Any:
        """Returns the agent's reply on a plain connection, decoded; None for a 404."""
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body=body)
            reply = connection.getresponse()
            text = reply.read()
            return json.loads(text) if reply.status == 200 and text else None

    def connect(self) -> http.client.HTTPConnection:
        """Returns a connection to the agent."""
        return http.client.HTTPConnection(HOST, self.port, timeout=120)

    def end(self) -> None:
        """Ends everything and deletes the folder."""
        self.processes.end("watcher")
        self.processes.end("consul")
        embedded_postgres.remove(self._folder / "postgres")
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def on_core(number: int) -> Iterator[None]:
    """Pins processes that are started within to this core, where there are several and the system allows it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {_CORES[number % len(_CORES)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
