"""Child processes that write to logs, are waited for with a deadline, and end in the order that we choose."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.child_process import bound_to_parent, last_lines
from scripts.run_everything.settings import ROOT, RunError

POLL_S = 0.05
GRACE_S = 15.0  # for requests under way and for leaving Consul


class InterruptedRunError(Exception):
    """The signal to end came during a wait."""


@dataclass
class Process:
    """A long-running child in a session of its own, so that the terminal's Ctrl-C doesn't reach it."""

    name: str
    command: Sequence[str]
    log: Path
    env: Mapping[str, str]
    cwd: Path = ROOT
    end_signal: signal.Signals = signal.SIGTERM
    bind: bool = True  # False where the command already ends with us
    _popen: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Starts it, with a new log."""
        command = bound_to_parent(self.command) if self.bind else list(self.command)
        with self.log.open("wb") as output:
            self._popen = subprocess.Popen(
                command, env=self.env, cwd=self.cwd,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its process ID; 0 before it was started."""
        return self._popen.pid if self._popen else 0

    @property
    def ended(self) -> str | None:
        """The signal or exit code that it ended with, as text; None as long as it runs."""
        code = self._popen.poll() if self._popen else 0
        if code is None:
            return None
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    @property
    def log_tail(self) -> str:
        """The end of its log."""
        return last_lines(self.log.read_text(errors="replace"))

    def signal_end(self) -> None:
        """Sends its end signal; `await_end` waits for the end."""
        if self._popen and self._popen.poll() is None:
            self._popen.send_signal(self.end_signal)

    def await_end(self, deadline: float) -> bool:
        """Waits until `deadline` (monotonic), then kills it with its children. Returns whether it ended in time."""
        if self._popen is None:
            return True
        try:
            self._popen.wait(max(0.0, deadline - time.monotonic()))
            in_time = True
        except subprocess.TimeoutExpired:
            in_time = False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)  # what it may have left behind
        self._popen.wait()
        return in_time


class Processes:
    """All processes that were started, and the event that ends them."""

    def __init__(self) -> None:
        self.all: dict[str, Process] = {}
        self.stopping = threading.Event()
        self._reported: set[str] = set()

    def start(self, *processes: Process) -> None:
        """Starts the processes at the same time."""
        for process in processes:
            self.all[process.name] = process
            process.start()

    def wait_until(self, condition: Callable[[], bool], description: str, *, timeout_s: float = 60.0) -> None:
        """Waits for a condition. Raises RunError when a process ends meanwhile or the time is up."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            self.raise_if_ended()
            if time.monotonic() > deadline:
                raise RunError(f"Waited {timeout_s:.0f} s in vain for {description}. See the logs.")
            self.pause()

    def pause(self) -> None:
        """Waits for `POLL_S`. Raises InterruptedRunError after the signal to end."""
        if self.stopping.wait(POLL_S):
            raise InterruptedRunError

    def raise_if_ended(self) -> None:
        """Raises RunError with the end of the log if a process has ended."""
        for process in self.all.values():
            if process.ended:
                raise RunError(
                    f"{process.name} ended while it was starting ({process.ended}). "
                    f"The end of {process.log}:\n{process.log_tail}"
                )

    def newly_ended(self) -> list[Process]:
        """Returns the processes that have ended since the last call."""
        ended = [process for process in self.all.values() if process.ended and process.name not in self._reported]
        self._reported.update(process.name for process in ended)
        return ended

    def end(self, *names: str) -> list[str]:
        """Ends the processes at the same time. Returns the names of those that had to be killed."""
        processes = [self.all[name] for name in names if name in self.all]
        for process in processes:
            process.signal_end()
        deadline = time.monotonic() + GRACE_S
        return [process.name for process in processes if not process.await_end(deadline)]

    def run(self, process: Process, *, accepted: str = "") -> None:
        """Runs the process to its end. Raises RunError where it fails, unless its log holds `accepted`."""
        process.start()
        try:
            while not (ended := process.ended):
                self.pause()
        except InterruptedRunError:
            process.signal_end()
            process.await_end(time.monotonic() + GRACE_S)
            raise
        if ended != "exit code 0" and not (accepted and accepted in process.log.read_text(errors="replace")):
            raise RunError(f"{process.name} failed ({ended}). The end of {process.log}:\n{process.log_tail}")
