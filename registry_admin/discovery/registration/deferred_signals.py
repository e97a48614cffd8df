"""Delays the signals that end this process until its registrations have left Consul.

The process goes on serving meanwhile: the handler only wakes a thread, which leaves and then sends the signal again, to
the handler that the program has set. `signal.signal` and `signal.getsignal` are replaced while a registration lives,
because most servers set their handlers after the application is imported; `add_signal_handler` of event loops is
wrapped for the same reason.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from registry_admin.discovery.registration.event_loop_signals import EventLoopSignals, is_of_event_loop

try:
    from posix import write  # eventlet replaces os.write by one that can't be called within a handler
except ImportError:
    from os import write

logger = logging.getLogger(__name__)

Handler = Callable[[int, FrameType | None], Any] | int | None

# gunicorn ends its workers with SIGQUIT after a Ctrl-C.
DEFERRED = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGQUIT") if hasattr(signal, name))
_REPEAT_S, _REPEATS = 0.2, 50  # of a signal that the main thread hasn't noticed, as can happen within a lock
_EXITS_CLEANLY = "waitress"  # drains on SystemExit, and is killed by SIGTERM


class DeferredSignals:
    """Handlers of this process for the signals that end it; `leave` is called in a thread before they are passed on."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave = leave
        self._handlers: dict[int, Handler] = {}  # of the program
        self._pending: list[int] = []
        self._passed: set[int] = set()
        self._has_left = False
        self._pipe: tuple[int, int] | None = None
        self._signal, self._getsignal = signal.signal, signal.getsignal
        self._event_loops = EventLoopSignals(leave, DEFERRED)

    def install(self) -> None:
        """Takes over the signals. Handlers can be replaced in the main thread only: from another one it warns."""
        if self._pipe is not None and not self._has_left:
            return
        if not self._is_main_thread():
            logger.warning(
                "A signal will end this process before it has left Consul, because it registers in a thread. Start the "
                "registration in the main thread, or start the process by `python -m registry_admin.discovery run`."
            )
            return
        self._close_pipe()
        self._pending, self._passed, self._has_left = [], set(), False
        self._pipe = os.pipe()
        self._own_wakeup_file(self._pipe[1])
        if not self._handlers:
            self._signal, self._getsignal = signal.signal, signal.getsignal
            for signum in DEFERRED:
                self._handlers[signum] = handler = self._getsignal(signum)
                if (callable(handler) and not is_of_event_loop(handler)) or handler == signal.SIG_DFL:
                    self._signal(signum, self._on_signal)
            signal.signal, signal.getsignal = self._set_handler, self._get_handler
            self._event_loops.wrap()
        threading.Thread(target=self._run, args=self._pipe, name="leave-before-stop", daemon=True).start()

    def uninstall(self) -> None:
        """Gives the signals back to the program, where this is the main thread; else it passes them on at once."""
        self._has_left = True
        if self._is_main_thread():
            self._close_pipe()
            self._restore()

    def after_fork(self) -> None:
        """Gives the signals back to the program in a child, where the thread doesn't run."""
        if self._pipe is not None:
            os.close(self._pipe[0])
        self._close_pipe()
        self._has_left = True
        self._restore()

    @staticmethod
    def _own_wakeup_file(descriptor: int) -> None:
        """Makes the interpreter write each signal to `descriptor`, unless it has another file for that.

        The main thread can miss a signal within a lock, where another thread of the process got it from the kernel.
        """
        os.set_blocking(descriptor, False)
        former = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
        if former != -1:
            signal.set_wakeup_fd(former)

    def _close_pipe(self) -> None:
        """Ends the thread, if it still waits, and gives up the wake-up file."""
        if self._pipe is None:
            return
        current = signal.set_wakeup_fd(-1)
        if current not in (-1, self._pipe[1]):
            signal.set_wakeup_fd(current)
        os.close(self._pipe[1])
        self._pipe = None

    def _is_main_thread(self) -> bool:
        """Returns whether handlers can be set here. Asks the interpreter, because eventlet replaces threads."""
        try:
            self._signal(signal.SIGTERM, self._getsignal(signal.SIGTERM))
        except (ValueError, TypeError):  # a handler that isn't Python's can't be set again
            return False
        return True

    def _restore(self) -> None:
        for signum, handler in self._handlers.items():
            if self._getsignal(signum) == self._on_signal:
                self._signal(signum, handler)
        self._handlers = {}
        if signal.signal == self._set_handler:
            signal.signal, signal.getsignal = self._signal, self._getsignal
        self._event_loops.unwrap()

    # -- in place of signal.signal and signal.getsignal ----------------------------------------------------------------

    def _set_handler(self, signalnum: int, handler: Handler) -> Handler:
        """Sets the program's handler. A signal that is ignored or left to an event loop isn't taken over."""
        is_deferred = signalnum in self._handlers and handler != signal.SIG_IGN and not is_of_event_loop(handler)
        if not is_deferred:
            previous = self._signal(signalnum, handler)
        elif callable(handler) or handler == signal.SIG_DFL:
            previous = self._signal(signalnum, self._on_signal)
        else:
            return self._signal(signalnum, handler)  # raises
        if signalnum in self._handlers:
            previous, self._handlers[signalnum] = self._handlers[signalnum], handler
        return previous

    def _get_handler(self, signalnum: int) -> Handler:
        """Returns the program's handler."""
        return self._handlers[signalnum] if signalnum in self._handlers else self._getsignal(signalnum)

    # -- when a signal comes -------------------------------------------------------------------------------------------

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._has_left or self._pipe is None:
            self._passed.add(signum)
            self._pass_on(signum, frame)
        elif signum not in self._pending:
            self._pending.append(signum)
            if len(self._pending) == 1:
                write(self._pipe[1], b"\0")

    def _pass_on(self, signum: int, frame: FrameType | None) -> None:
        handler = self._handlers.get(signum, signal.SIG_DFL)
        if callable(handler):
            handler(signum, frame)
        elif os.getpid() == 1 or _EXITS_CLEANLY in sys.modules:  # the kernel's default doesn't end a container's first
            sys.exit(128 + signum)
        else:
            self._signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    def _run(self, receiver: int, _sender: int) -> None:
        """Waits for a signal, leaves, and sends the signal again. Ends when `uninstall` closes the pipe."""
        if not self._wait_for_signal(receiver):
            os.close(receiver)
            return
        self._leave()
        self._has_left = True
        for signum in self._pending:
            for _ in range(_REPEATS):
                os.kill(os.getpid(), signum)
                time.sleep(_REPEAT_S)
                if signum in self._passed:
                    break

    def _wait_for_signal(self, receiver: int) -> bool:
        """Reads the pipe: the number of a signal, or 0 where one is pending already."""
        with selectors.DefaultSelector() as selector:  # select() takes no file above 1023
            selector.register(receiver, selectors.EVENT_READ)
            while not self._pending:
                selector.select()
                number = os.read(receiver, 1)
                if not number or self._has_left:
                    return False
                signum = number[0]
                is_ours = signum in self._handlers and self._getsignal(signum) == self._on_signal
                if is_ours and signum not in self._pending:
                    self._pending.append(signum)
        return True
