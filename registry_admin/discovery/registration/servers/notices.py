"""Lines of the log for what a server needs beside the application to leave before it stops, or to register at all."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator

from registry_admin.discovery.registration.event_loop_signals import is_of_event_loop
from registry_admin.discovery.registration.servers import gunicorn

LAUNCH = "start it by `python -m registry_admin.discovery run -- COMMAND`"
UWSGI = f"uWSGI ends its workers without a word to the application. So that no call is lost then, {LAUNCH}."
EVENT_LOOP = (
    "A signal ends this process before it has left Consul, because an event loop has handled it since before the "
    f"registration. Start the registration before the event loop, or {LAUNCH}."
)
OTHER_USER = (
    "The main process of gunicorn belongs to another user, so a reload takes the service out of Consul for a moment. "
    f"Start gunicorn as this user, or {LAUNCH}."
)
DAPHNE = (
    "daphne runs no lifespan, so this process does not register itself. Call `Registration(…).start()` where the "
    "application is imported."
)


def is_uwsgi(modules: Container[str] = sys.modules) -> bool:
    """Returns whether uWSGI runs this process; its module exists nowhere else."""
    return "uwsgi" in modules


def notices(handler: object, *, modules: Container[str] = sys.modules, has_hook: bool) -> Iterator[str]:
    """Yields what is missing, given the process's handler of SIGTERM and whether its server has a hook of its own."""
    if is_uwsgi(modules):
        yield UWSGI
    elif is_of_event_loop(handler) and not has_hook:
        yield EVENT_LOOP
    if gunicorn.is_master_hidden():
        yield OTHER_USER


def lifespan_notices(modules: Container[str] = sys.modules) -> Iterator[str]:
    """Yields what is missing for an application that registers in its lifespan."""
    if "daphne.server" in modules:
        yield DAPHNE
