"""Tells registrations that their process ends or was forked, whichever way that comes about."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import weakref
from types import FrameType
from typing import Protocol


class Participant(Protocol):
    """Who wants to know."""

    def stop(self) -> None:
        """The process ends."""

    def after_fork(self) -> None:
        """This is a child, and what was started in the parent doesn't run here."""


_participants: weakref.WeakSet[Participant] = weakref.WeakSet()


def watch_forks(participant: Participant) -> None:
    """From now on its `after_fork` is called in each child."""
    _participants.add(participant)


def watch_end(participant: Participant) -> None:
    """From now on its `stop` is called before the process ends.

    Where SIGTERM would end it on the spot, no `atexit` function would run, so that signal is caught: the process then
    stops its participants and ends by the same signal. A handler that is there already is left alone.
    """
    atexit.register(participant.stop)
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _stop_and_end)


def forget(participant: Participant) -> None:
    """It has stopped."""
    atexit.unregister(participant.stop)
    _participants.discard(participant)


def _stop_and_end(signum: int, _frame: FrameType | None) -> None:
    for participant in list(_participants):
        participant.stop()
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


def _after_fork() -> None:
    for participant in list(_participants):
        participant.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
