"""Gunicorn's configuration for the admin: `gunicorn registry_admin.wsgi -c registry_admin/gunicorn.conf.py`."""

import os
import socket
import struct
from pathlib import Path
from typing import Any

from gunicorn.glogging import Logger, SafeAtoms

from registry_admin.printable import escape_unprintable


def whole_number(name: str, default: int) -> int:
    """A setting from the environment; ends the program with a sentence where it is no number above 0."""
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise SystemExit(f"{name}: give a whole number above 0, not {text!r}.")
    return int(text)


class SingleLineAtoms(SafeAtoms):  # type: ignore[misc]  # gunicorn has no types
    """Parts of the access log, escaped: nothing that a client sends makes a line or moves a cursor."""

    def __init__(self, atoms: dict[str, Any]) -> None:
        super().__init__({k: escape_unprintable(v) if isinstance(v, str) else v for k, v in atoms.items()})


class QuietLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Leaves the probes out of the access log: Consul and compose ask every few seconds."""

    atoms_wrapper_class = SingleLineAtoms

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: Any) -> None:
        """Called by gunicorn once per request."""
        if environ.get("PATH_INFO") not in ("/health", "/ready"):
            super().access(resp, req, environ, request_time)


def when_ready(server: Any) -> None:
    """Called by gunicorn before it forks its workers, whose connections inherit the listener's options.

    A thread waits for the next bytes of a request for so long. Without it, half a request holds a thread for ever.
    """
    for listener in server.LISTENERS:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", SLOW_CLIENT_S, 0))


SLOW_CLIENT_S = 10
bind = os.environ.get("WEB_BIND") or "127.0.0.1:8080"
# Threads, so that a page that waits for the database or for Consul doesn't keep a whole process busy.
worker_class = "gthread"
workers = whole_number("WEB_CONCURRENCY", 2)
threads = whole_number("WEB_THREADS", 4)
timeout = 30  # seconds until a worker that doesn't answer is replaced
graceful_timeout = 20  # seconds for requests under way when it is told to end
keepalive = 5
# Nobody manages it that way, and it would be one more door.
control_socket_disable = True
# Only a proxy on this machine is believed about X-Forwarded-*; for others, list them or `*`.
forwarded_allow_ips = os.environ.get("FORWARDED_ALLOW_IPS") or "127.0.0.1,::1"
# A worker shows that it lives by touching a file: in memory, so that a slow disk can't look like a stuck worker.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
accesslog = "-"
logger_class = QuietLogger
