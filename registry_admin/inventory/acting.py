"""Who is changing something, and by what way: told once at each entrance, and noted with every change below it."""

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


_current: ContextVar[Callable[[], Actor] | None] = ContextVar("acting", default=None)


@contextmanager
def acting(name: str, via: str) -> Iterator[None]:
    """Whatever is changed within this block was changed by them."""
    with _acting(lambda: Actor(name, via)):
        yield


def current() -> Actor:
    """Who is acting; where nobody has said so, the system's account that this process runs under."""
    say = _current.get()
    return say() if say else Actor(_account(), _command())


class ActingMiddleware:
    """Within a request, it is its user. The user is looked up only when something is changed."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        via = "admin" if request.path.startswith("/admin/") else "dashboard"
        with _acting(lambda: Actor(request.user.get_username(), via)):
            return self._get_response(request)


@contextmanager
def _acting(say: Callable[[], Actor]) -> Iterator[None]:
    token = _current.set(say)
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
