"""Real processes of the product on a database that they share, told what to do by lines and answering by lines."""

from __future__ import annotations

import os
import queue
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
_BEGINNING = "import django; django.setup(); import sys, time\n"


def shared_database(folder: Path, *, port: int | None = None) -> str:
    """The URL of a migrated database for several processes: the tests' own PostgreSQL (through `port`), or a file."""
    known: dict[str, Any] = connection.settings_dict
    if connection.vendor == "postgresql":
        user, password, name = (quote(str(known[key]), safe="") for key in ("USER", "PASSWORD", "NAME"))
        return f"postgres://{user}:{password}@{known['HOST']}:{port or known['PORT']}/{name}"
    url = f"sqlite:///{folder / 'shared.sqlite3'}"
    environment = {**os.environ, "DATABASE_URL": url}
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=environment, check=True)
    return url


class DjangoProcess:
    """`code` with Django set up, on the database `url`; `tell` gives it a line, `wait_for` waits for one of its own."""

    def __init__(self, url: str, code: str) -> None:
        self.lines: list[str] = []
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-c", _BEGINNING + code],
            cwd=ROOT, env={**os.environ, "DATABASE_URL": url}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.strip())

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def wait_for(self, line: str, *, times: int = 1) -> None:
        """Until it has said this so many times."""
        wait_until(lambda: self.lines.count(line) >= times, timeout=20, what=f"{line!r} among {self.lines}")

    def ask(self, question: str) -> str:
        """What it answers; its answer begins with the question."""
        before = len(self.lines)
        self.tell(question)
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
        """As a crash does: nothing is given back."""
        self._process.kill()
        self.close()

    def finish(self) -> str:
        """Lets it end by itself; returns what it said on stderr."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)
        said = self._process.stderr.read() if self._process.stderr else ""
        self.close()
        return said

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(20)
        self._reader.join(20)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None and not stream.closed:
                stream.close()
