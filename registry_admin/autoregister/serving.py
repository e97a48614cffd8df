"""Detection of processes that serve requests, from how they were started: only those register themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from registry_admin.discovery.registration.switch import read_switch

_SERVERS = frozenset({"gunicorn", "uvicorn", "daphne", "hypercorn", "granian", "waitress-serve", "waitress", "uwsgi"})
_OPTIONS_THAT_EXIT = frozenset({"--check-config", "--print-config", "--version", "--help", "-h", "-v"})
_DJANGO_COMMANDS = frozenset({"manage.py", "django-admin", "django"})


def is_serving(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Returns whether `argv` is that of a server, or of `runserver`.

    True also for the parent of runserver's reloader, which kills the process that serves before that could leave. False
    for `migrate`, `test`, `shell` and other commands, and for Celery. SERVICE_AUTOREGISTER=1 or 0 overrides it.
    """
    override = read_switch(environ)
    if override is not None:
        return override
    program, arguments = _program(argv), list(argv[1:])
    if program in _SERVERS:
        return not _OPTIONS_THAT_EXIT.intersection(arguments)
    return program in _DJANGO_COMMANDS and arguments[:1] == ["runserver"]


def _program(argv: Sequence[str]) -> str:
    """Returns `gunicorn` for `/usr/bin/gunicorn`, and for `python -m gunicorn` (`…/gunicorn/__main__.py`)."""
    path = PurePath(argv[0]) if argv else PurePath()
    name = path.parent.name if path.name == "__main__.py" else path.name
    return name.lower().removesuffix(".exe")
