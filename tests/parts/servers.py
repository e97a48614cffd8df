"""Server processes under test."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.parts import ConsulAgent, HttpService


def children_of(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def has_threads(pid: int) -> bool:
    """Returns whether a worker has imported its module, which starts a thread to register it."""
    return len(list(Path(f"/proc/{pid}/task").iterdir())) > 1


def has_joined(pid: int) -> bool:
    """Returns whether a worker shares the registration: it holds the lock file then."""
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            if str(path.readlink()).endswith(".members"):
                return True
    return False


@dataclass
class Server:
    """A server process under test, and the requests to Consul by it and its workers."""

    process: subprocess.Popen[bytes]
    service_id: str
    consul: ConsulAgent
    recorder: HttpService
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.service_id.rpartition('-')[2]}"

    def is_registered(self) -> bool:
        return self.service_id in self.consul.request("GET", "/v1/agent/services")

    def health(self) -> str:
        """Returns the status of Consul's own check: `passing`, `critical`, or empty if there is none."""
        checks = self.consul.request("GET", "/v1/agent/checks").values()
        return next((str(check["Status"]) for check in checks if check["ServiceID"] == self.service_id), "")

    def count(self, verb: str) -> int:
        """Returns the number of requests to `register` or `deregister`."""
        paths = [request.path for request in list(self.recorder.requests) if request.method == "PUT"]
        return sum(path.startswith(f"/v1/agent/service/{verb}") for path in paths)

    def workers(self) -> set[int]:
        """Returns the process IDs of its children; a server may have helpers among them."""
        return children_of(self.process.pid)

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=2).ok
        except requests.RequestException:
            return False
