"""Ends registrations before their process stops accepting connections, and resets them in each forked child."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import time
import weakref
from typing import Protocol

from registry_admin.consul import validation
from registry_admin.discovery.registration import servers
from registry_admin.discovery.registration.deferred_signals import DeferredSignals
from registry_admin.discovery.registration.servers import notices
from registry_admin.errors import InvalidValueError

logger = logging.getLogger(__name__)

LEAVE_DELAY = "SERVICE_LEAVE_DELAY"
DEFAULT_LEAVE_DELAY_S, MAX_LEAVE_DELAY_S = 0.3, 60.0


class ProcessListener(Protocol):
    """Receiver of the process's events."""

    def stop(self, *, reload_timeout_s: float = 0) -> bool:
        """Called before the process ends; returns whether it deregistered the instance."""

    def after_fork(self) -> None:
        """Called in a forked child, where no thread of the parent runs."""


_listeners: weakref.WeakSet[ProcessListener] = weakref.WeakSet()
_active: dict[int, ProcessListener] = {}  # by id, for those that are to be stopped
_leaving = threading.Lock()
_signals: DeferredSignals | None = None


def install_server_hooks() -> None:
    """Installs the hooks of the servers that are loaded; they do nothing until a registration starts."""
    if leave_delay_s() > 0:
        servers.install_hooks(leave)


def call_after_fork(listener: ProcessListener) -> None:
    """Calls `listener.after_fork` in each child from now on."""
    _listeners.add(listener)


def call_before_exit(listener: ProcessListener, *, is_serving: bool) -> None:
    """Calls `listener.stop` before the process stops accepting connections, whatever ends it but SIGKILL.

    Without `is_serving`, it is called when the process exits.
    """
    global _signals  # noqa: PLW0603
    _active[id(listener)] = listener
    if not is_serving or leave_delay_s() == 0:
        return
    install_server_hooks()
    for notice in notices.notices(signal.getsignal(signal.SIGTERM), has_hook=servers.has_hooks()):
        logger.warning(notice)
    if not notices.is_uwsgi():  # which handles signals itself
        _signals = _signals or DeferredSignals(leave)
        _signals.install()


def remove(listener: ProcessListener) -> None:
    """Calls `listener` no more."""
    _listeners.discard(listener)
    _active.pop(id(listener), None)
    if not _active and _signals is not None and not _leaving.locked():
        _signals.uninstall()


def leave() -> None:
    """Ends all registrations, and returns when callers can have noticed. Whoever calls it meanwhile waits as long."""
    with _leaving:
        if _active:
            _stop_all(reload_timeout_s=leave_delay_s())
            time.sleep(leave_delay_s())


def leave_delay_s() -> float:
    """Returns the time between the end of a registration and the end of accepting: SERVICE_LEAVE_DELAY, 0.3 s."""
    text = os.environ.get(LEAVE_DELAY, "").strip()
    if not text:
        return DEFAULT_LEAVE_DELAY_S
    try:
        return validation.seconds(validation.duration(text, LEAVE_DELAY, minimum_s=0, maximum_s=MAX_LEAVE_DELAY_S))
    except InvalidValueError as error:
        logger.error("%s, so it is %s s.", error, DEFAULT_LEAVE_DELAY_S)  # noqa: TRY400 - no traceback
        return DEFAULT_LEAVE_DELAY_S


def _stop_all(*, reload_timeout_s: float = 0) -> bool:
    stopped = [listener.stop(reload_timeout_s=reload_timeout_s) for listener in list(_active.values())]
    return any(stopped)


@atexit.register
def _at_exit() -> None:
    """Leaves where no signal and no server did. Threads that serve go on meanwhile, if they are daemons."""
    with _leaving:
        if _stop_all():
            time.sleep(leave_delay_s())


def _after_fork() -> None:
    global _leaving, _signals  # noqa: PLW0603
    _leaving = threading.Lock()
    _active.clear()
    if _signals is not None:
        _signals.after_fork()
        _signals = None
    for listener in list(_listeners):
        listener.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
