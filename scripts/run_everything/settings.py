"""Settings of scripts/run, read from the environment once and checked before anything starts."""

from __future__ import annotations

import errno
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HOST = "127.0.0.1"
DEFAULT_PORTS = {
    "WEB_PORT": 8080,
    "BACKEND_PORT": 8000,
    "BACKEND2_PORT": 8010,
    "RESEARCH_PORT": 8001,
    "CONSUL_PORT": 8500,
    "POSTGRES_PORT": 5433,
}
# Prefixes of variables that would lead the processes to another system than the one that is started here.
NOT_PASSED_ON = ("CONSUL_", "SERVICE_", "DATABASE_URL", "REDIS_URL", "DJANGO_", "REGISTRY_", "GUNICORN_CMD_ARGS")


class RunError(Exception):
    """An obstacle to running; the message says what to do."""


@dataclass(frozen=True)
class Settings:
    """Consul's binary, ports by their variables' names, and the folder for data, secrets and logs."""

    consul: str
    folder: Path
    ports: Mapping[str, int]
    inherited: Mapping[str, str]

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Reads the variables. Raises RunError that names an invalid one."""
        ports = {name: _port(environ, name) for name in DEFAULT_PORTS}
        for name, port in ports.items():
            twin = next((other for other in ports if other != name and ports[other] == port), None)
            if twin:
                raise RunError(f"{name} and {twin} are both {port}. Give each its own port.")
        inherited = {name: value for name, value in environ.items() if not name.startswith(NOT_PASSED_ON)}
        if not environ.get("CONSUL_BIN"):
            raise RunError("CONSUL_BIN is not set. Start this with scripts/run, which finds Consul.")
        return cls(
            consul=environ["CONSUL_BIN"],
            folder=Path(environ.get("RUN_DIR") or ROOT / ".run").resolve(),
            ports=ports,
            inherited=inherited,
        )

    @property
    def consul_url(self) -> str:
        """`http://127.0.0.1:8500`"""
        return f"http://{HOST}:{self.ports['CONSUL_PORT']}"

    @property
    def logs(self) -> Path:
        """Folder in which each process writes NAME.log."""
        return self.folder / "logs"

    @property
    def postgres(self) -> Path:
        """PostgreSQL's folder, with the facts about its database."""
        return self.folder / "postgres"

    @property
    def inventory(self) -> list[str]:
        """Declarations of the first start, as arguments of `manage.py seed_inventory`."""
        port = self.ports
        return [
            f"backend-api={HOST}:{port['BACKEND_PORT']},{HOST}:{port['BACKEND2_PORT']}",
            f"research-api={HOST}:{port['RESEARCH_PORT']}",
            f"postgres=tcp://{HOST}:{port['POSTGRES_PORT']}",
        ]

    def secret(self, name: str, *, length: int = 50) -> str:
        """Returns a random text that belongs to this folder, made on first use and readable by its owner only."""
        path = self.folder / name
        if not path.exists():
            new = path.with_name(f"{name}.new")
            new.touch(mode=0o600)
            new.write_text(secrets.token_urlsafe(length))
            new.replace(path)
        return path.read_text()

    def check_ports(self) -> None:
        """Raises RunError that names every port that is taken, with the variable and a free port to choose instead."""
        taken = {name: reason for name, port in self.ports.items() if (reason := _obstacle(port))}
        if not taken:
            return
        problem = ", ".join(f"port {self.ports[name]} ({name}) {reason}" for name, reason in taken.items())
        free: dict[str, int] = {}
        for name in taken:
            free[name] = _free_port(self.ports[name], {*self.ports.values(), *free.values()})
        choice = " ".join(f"{name}={port}" for name, port in free.items())
        raise RunError(f"P{problem[1:]}. End what uses it, or choose another: {choice} scripts/run")


def _port(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name) or str(DEFAULT_PORTS[name])
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise RunError(f"{name} is {text!r}. Give a port from 1 to 65535.")
    return int(text)


def _obstacle(port: int) -> str:
    """Returns the reason why the port of the loopback address can't be listened on; empty where it can."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen(1)
        except OSError as error:
            return "is taken" if error.errno == errno.EADDRINUSE else f"can't be used ({error.strerror})"
    return ""


def _free_port(after: int, reserved: set[int]) -> int:
    """Returns the next free port, which is easier to remember than a random one."""
    candidates = (port for port in range(after + 1, 65536) if port not in reserved and not _obstacle(port))
    return next(candidates, 0)
