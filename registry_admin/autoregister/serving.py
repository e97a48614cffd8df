"""Whether this process serves requests, told from how it was started: only then may it register itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

_SERVERS = frozenset({"gunicorn", "uvicorn", "daphne", "hypercorn", "granian", "waitress-serve", "waitress", "uwsgi"})
_ONLY_LOOKS = frozenset({"--check-config", "--print-config", "--version", "--help", "-h", "-v"})
_DJANGO = frozenset({"manage.py", "django-admin", "django"})
_TRUE = frozenset({"1", "true", "yes", "on"})


def serves(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether `argv` is a server's, or `runserver` in the process that serves; SERVICE_AUTOREGISTER=1 or 0 overrides.

    Never for `migrate`, `test`, `shell` and other commands, for Celery, or for the autoreloader's parent.
    """
    override = environ.get("SERVICE_AUTOREGISTER", "").strip().lower()
    if override:
        return override in _TRUE
    program, arguments = _program(argv), list(argv[1:])
    if program in _SERVERS:
        return not _ONLY_LOOKS.intersection(arguments)
    if program in _DJANGO and arguments[:1] == ["runserver"]:
        # The reloader's parent runs no server; it starts a child and marks it with RUN_MAIN.
        return environ.get("RUN_MAIN") == "true" or "--noreload" in arguments
    return False


def _program(argv: Sequence[str]) -> str:
    """`gunicorn` for `/usr/bin/gunicorn` and for `python -m gunicorn`, whose argv[0] is `…/gunicorn/__main__.py`."""
    path = PurePath(argv[0]) if argv else PurePath()
    name = path.parent.name if path.name == "__main__.py" else path.name
    return name.lower().removesuffix(".exe")
