"""One registration however many workers a server has, through everything that happens to them: with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import requests

from tests.parts import ConsulAgent, HttpService, ReceivedRequest, free_port, wait_until

ROOT = Path(__file__).parent.parent.parent
WSGI, ASGI = "research_stub.main:application", "backend_stub.main:app"
UVICORN = ["-k", "uvicorn_worker.UvicornWorker"]
KINDS = {"sync": (WSGI, []), "gthread": (WSGI, ["-k", "gthread", "--threads", "2"]), "uvicorn": (ASGI, UVICORN)}


@dataclass
class Server:
    """A server process under test, and what it and its workers have said to Consul."""

    process: subprocess.Popen[bytes]
    service_id: str
    consul: ConsulAgent
    heard: HttpService
    log: Path

    def is_registered(self) -> bool:
        return self.service_id in self.consul.request("GET", "/v1/agent/services")

    def count(self, verb: str) -> int:
        """How often Consul was asked to `register` or `deregister`."""
        paths = [request.path for request in list(self.heard.requests) if request.method == "PUT"]
        return sum(path.startswith(f"/v1/agent/service/{verb}") for path in paths)

    def workers(self) -> set[int]:
        pid = self.process.pid
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def answers(self) -> bool:
        port = self.service_id.rpartition("-")[2]
        try:
            return requests.get(f"http://127.0.0.1:{port}/health", timeout=2).ok
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


def gunicorn(kind: str, *, workers: int = 4, preload: bool = False) -> list[str]:
    application, options = KINDS[kind]
    options = [*options, *(["--preload"] if preload else [])]
    return ["gunicorn", "--no-control-socket", "-b", "127.0.0.1:{port}", "-w", str(workers), *options, application]


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
@pytest.mark.parametrize("kind", KINDS)
def test_four_workers_are_one_registration_from_start_to_stop(
    serve: Callable[..., Server], kind: str, preload: bool
) -> None:
    server = serve(*gunicorn(kind, preload=preload))
    wait_until(server.is_registered, 30, "the registration")
    wait_until(server.answers, 30, "an answer")
    first = wait_until(lambda: len(found := server.workers()) == 4 and found, 30, "four workers")

    server.process.send_signal(signal.SIGHUP)
    second = wait_until(
        lambda: len(found := server.workers()) == 4 and not found & first and found, 30, "four new workers"
    )
    wait_until(server.answers, 30, "an answer after the reload")

    os.kill(next(iter(second)), signal.SIGKILL)
    wait_until(lambda: len(found := server.workers()) == 4 and found != second, 30, "the killed worker's successor")
    wait_until(server.answers, 30, "an answer after a worker was killed")
    assert server.is_registered()
    assert (server.count("register"), server.count("deregister")) == (1, 0)

    server.process.terminate()
    server.process.wait(30)
    assert not server.is_registered()
    assert (server.count("register"), server.count("deregister")) == (1, 1)
