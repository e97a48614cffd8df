"""Actor of a change (name and interface): set once at each entry point, recorded with every change below it."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import PurePath
from typing import NamedTuple

from django.http import HttpRequest, HttpResponse


class Actor(NamedTuple):
    """A person's or an account's name, and the way: `admin`, `dashboard`, `manage.py import_registry` …"""

    name: str
    via: str


_current: ContextVar[Callable[[], Actor] | None] = ContextVar("actor", default=None)


@contextmanager
def acting_as(name: str, via: str) -> Iterator[None]:
    """Attributes all changes within the block to this actor."""
    with _acting(lambda: Actor(name, via)):
        yield


def current_actor() -> Actor:
    """Returns the actor that `acting_as` has set, else the system account of this process."""
    get_actor = _current.get()
    return get_actor() if get_actor else Actor(_account(), _command())


class ActorMiddleware:
    """Attributes changes within a request to its user, who is loaded only if something changes."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        via = "admin" if request.path.startswith("/admin/") else "dashboard"
        with _acting(lambda: Actor(request.user.get_username(), via)):
            return self._get_response(request)


@contextmanager
def _acting(get_actor: Callable[[], Actor]) -> Iterator[None]:
    token = _current.set(get_actor)
    try:
        yield
    finally:
        _current.reset(token)


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # containers run under numbers that have no name
        return ""


def _command() -> str:
    program, *arguments = sys.argv or [""]
    name = PurePath(program).name
    return f"{name} {arguments[0]}"[:100] if name == "manage.py" and arguments else name[:100]
