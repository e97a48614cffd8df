"""Servers in processes of their own, and what they say to Consul: a plug-in for the tests that ask for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import requests

from tests.parts import ConsulAgent, HttpService, ReceivedRequest, free_port

ROOT = Path(__file__).parent.parent.parent


@dataclass
class Server:
    """A server process under test, and what it and its workers have said to Consul."""

    process: subprocess.Popen[bytes]
    service_id: str
    consul: ConsulAgent
    heard: HttpService
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.service_id.rpartition('-')[2]}"

    def is_registered(self) -> bool:
        return self.service_id in self.consul.request("GET", "/v1/agent/services")

    def health(self) -> str:
        """What Consul's own check of it says: `passing`, `critical`."""
        checks = self.consul.request("GET", "/v1/agent/checks").values()
        return next((str(check["Status"]) for check in checks if check["ServiceID"] == self.service_id), "")

    def count(self, verb: str) -> int:
        """How often Consul was asked to `register` or `deregister`."""
        paths = [request.path for request in list(self.heard.requests) if request.method == "PUT"]
        return sum(path.startswith(f"/v1/agent/service/{verb}") for path in paths)

    def workers(self) -> set[int]:
        pid = self.process.pid
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=2).ok
        except requests.RequestException:
            return False


@pytest.fixture
def listening_consul(consul_agent: ConsulAgent, http_service: Callable[..., HttpService]) -> Iterator[HttpService]:
    """Consul behind a server that writes down what it is asked."""

    def pass_on(handler: BaseHTTPRequestHandler, request: ReceivedRequest) -> None:
        reply = requests.request(request.method, consul_agent.url + request.path, data=request.body, timeout=10)
        handler.send_response(reply.status_code)
        for name in ("Content-Type", "X-Consul-Index"):
            if name in reply.headers:
                handler.send_header(name, reply.headers[name])
        handler.send_header("Content-Length", str(len(reply.content)))
        handler.end_headers()
        handler.wfile.write(reply.content)

    yield http_service(answer=pass_on)
    consul_agent.forget_services()


@pytest.fixture
def serve(consul_agent: ConsulAgent, listening_consul: HttpService, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """`serve("gunicorn", "-w", "4", app)`: starts it on a free port, given to it as `{port}` in its arguments."""
    with ExitStack() as stack:

        def start(*arguments: str, name: str = "module", environ: dict[str, str] | None = None) -> Server:
            port = free_port()
            log = tmp_path / f"{port}.log"
            own = {"SERVICE_NAME": name, "SERVICE_PORT": str(port), "CONSUL_HTTP_ADDR": listening_consul.url}
            command = [sys.executable, "-m", *(argument.format(port=port) for argument in arguments)]
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command, cwd=ROOT, env=os.environ | own | (environ or {}), stdout=output, stderr=output
                )
            stack.callback(_end, process)
            return Server(process, f"{name}-127.0.0.1-{port}", consul_agent, listening_consul, log)

        yield start


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
