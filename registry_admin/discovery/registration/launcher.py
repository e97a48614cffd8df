"""Runs a command as a registered service, for servers that no hook in the application can make leave first.

The launcher registers the service that SERVICE_NAME and the other variables describe, once for all processes of the
command and through all its reloads. It passes signals on to the command: those that end it after the service has left.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType

from registry_admin.discovery.registration.registration import LAUNCHER, Registration

_FORWARDED = ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "TTIN", "TTOU", "WINCH")


def run(command: Sequence[str]) -> int:
    """Runs the command until it ends, and returns its exit code, or 128 and the number of the signal that ended it.

    The command has a process group of its own, so that a Ctrl-C reaches it through the launcher alone, as SIGTERM: some
    servers cut requests off after a SIGINT. Raises OSError if it can't be started.
    """
    process = subprocess.Popen(command, env=os.environ | {LAUNCHER: str(os.getpid())}, process_group=0)  # noqa: S603

    def forward(signum: int, _frame: FrameType | None) -> None:
        process.send_signal(signal.SIGTERM if signum == signal.SIGINT else signum)

    for name in _FORWARDED:
        signal.signal(getattr(signal, f"SIG{name}"), forward)
    registration = Registration().start()
    try:
        code = process.wait()
    finally:
        registration.stop()
    return 128 - code if code < 0 else code
