"""Results of `manage.py` commands that run in processes of their own."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class CommandResult:
    """Exit code, stdout and stderr of a command."""

    code: int
    out: str
    err: str


@dataclass
class WatchProcess:
    """A running `sync_registry --watch` and its log file."""

    process: subprocess.Popen[str]
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends the signal and returns the exit code; waits up to 15 s."""
        self.process.send_signal(number)
        return self.process.wait(15)
