"""Processes with Django on a shared database, controlled by lines on stdin and read by lines on stdout."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

from django.db import connection

from tests.parts import wait_until

ROOT = Path(__file__).parent.parent.parent
_SETUP = "import django; django.setup(); import sys, time\n"


def shared_database(folder: Path, *, port: int | None = None) -> str:
    """Returns the URL of a migrated database: the tests' PostgreSQL (through `port`), or an SQLite file in `folder`."""
    parameters: dict[str, Any] = connection.settings_dict
    if connection.vendor == "postgresql":
        user, password, name = (quote(str(parameters[key]), safe="") for key in ("USER", "PASSWORD", "NAME"))
        return f"postgres://{user}:{password}@{parameters['HOST']}:{port or parameters['PORT']}/{name}"
    url = f"sqlite:///{folder / 'shared.sqlite3'}"
    environment = {**os.environ, "DATABASE_URL": url}
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=environment, check=True)
    return url


class DjangoProcess:
    """A Python process that runs `code` with Django set up, on the database `url`."""

    def __init__(self, url: str, code: str) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-c", _SETUP + code],
            cwd=ROOT, env={**os.environ, "DATABASE_URL": url}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.strip())

    def send(self, line: str) -> None:
        """Writes the line to the process's stdin."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def wait_for(self, line: str, *, times: int = 1) -> None:
        """Waits up to 20 s until the process has printed the line `times` times."""
        wait_until(lambda: self.lines.count(line) >= times, timeout=20, what=f"{line!r} among {self.lines}")

    def query(self, question: str) -> str:
        """Sends the question and returns the rest of the first line printed that starts with it."""
        before = len(self.lines)
        self.send(question)
        answer = wait_until(
            lambda: next((line for line in self.lines[before:] if line.startswith(f"{question} ")), ""),
            timeout=20,
            what=f"an answer to {question!r}",
        )
        return answer.partition(" ")[2]

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends the process by SIGKILL, as a crash does: it releases no lease and no lock."""
        self._process.kill()
        self.close()

    def finish(self) -> str:
        """Closes stdin so that the process ends by itself; returns its stderr."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)
        errors = self._process.stderr.read() if self._process.stderr else ""
        self.close()
        return errors

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(20)
        self._reader.join(20)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None and not stream.closed:
                stream.close()
