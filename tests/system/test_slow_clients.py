"""Slow and half requests against the real server, alone and behind the shipped examples of proxies."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from tests.parts import free_port, wait_until
from tests.parts.programs import program_path

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
LOGIN = "/admin/login/"
SLOW = 200
HALF_HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
HALF_BODY = (
    b"POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\nContent-Type: text/plain\r\n\r\nhalf"
)


@pytest.fixture
def processes(tmp_path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """`processes(command, environment)`: runs it until the test ends, its output in a file."""
    with ExitStack() as stack:

        def start(command: list[str], **variables: str) -> subprocess.Popen[bytes]:
            with (tmp_path / f"{Path(command[0]).name}.log").open("wb") as output:
                process = subprocess.Popen(
                    command, cwd=ROOT, env=os.environ | variables, stdout=output, stderr=output, start_new_session=True
                )
            stack.callback(process.wait)
            stack.callback(os.killpg, process.pid, signal.SIGTERM)
            return process

        yield start


@pytest.fixture
def site(manage, environment, processes) -> int:
    """The port of the admin: gunicorn with its configuration, two processes of four threads."""
    port = free_port()
    processes(
        [sys.executable, "-m", "gunicorn", "registry_admin.wsgi", "-c", "registry_admin/gunicorn.conf.py"],
        **environment, WEB_BIND=f"127.0.0.1:{port}", DJANGO_BEHIND_PROXY="1", SERVICE_AUTOREGISTER="0",
    )  # fmt: skip
    wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), 60, "gunicorn to answer")
    return port


def answers(url: str, *, verify: str | bool = True) -> bool:
    try:
        return requests.get(url, timeout=5, verify=verify).status_code == 200
    except requests.RequestException:
        return False


@pytest.fixture
def slow_clients() -> Iterator[Callable[..., list[socket.socket]]]:
    """`slow_clients(port, tls)`: 200 connections, each with half a request: every other one stops within its body."""
    with ExitStack() as stack:

        def connect(port: int, *, tls: bool, number: int = SLOW, source: str = "127.0.0.2") -> list[socket.socket]:
            context = ssl._create_unverified_context()
            connections = []
            for half in [HALF_HEAD, HALF_BODY] * (number // 2):
                connection = socket.create_connection(("127.0.0.1", port), 20, source_address=(source, 0))
                if tls:
                    connection = context.wrap_socket(connection, server_hostname="localhost")
                stack.callback(connection.close)
                connection.sendall(half)
                connections.append(connection)
            return connections

        yield connect


@pytest.fixture
def certificate(tmp_path) -> tuple[Path, Path]:
    """A certificate for localhost and its key."""
    files = tmp_path / "site.pem", tmp_path / "site-key.pem"
    command = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run(
        [program_path("openssl"), *command.split(), "-out", files[0], "-keyout", files[1]],
        check=True,
        capture_output=True,
    )
    return files


@pytest.fixture
def nginx(site, processes, certificate, tmp_path) -> int:
    """The port of nginx, with the shipped example; only its addresses and files are of the test."""
    port = free_port()
    text = (DEPLOY / "nginx" / "registry-admin.conf").read_text()
    for before, after in {
        "127.0.0.1:8080": f"127.0.0.1:{site}",
        "listen 443": f"listen 127.0.0.1:{port}",
        "listen 80;": f"listen 127.0.0.1:{free_port()};",
        "registry.example.com;": "localhost;",
        "/etc/nginx/tls/registry.example.com.pem": str(certificate[0]),
        "/etc/nginx/tls/registry.example.com-key.pem": str(certificate[1]),
    }.items():
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "site.conf").write_text(text)
    folders = "".join(
        f"{kind}_temp_path {tmp_path / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path / 'nginx.pid'}; error_log stderr; worker_processes 1;\n"
        "events { worker_connections 1024; }\n"
        f"http {{ access_log off; {folders} include {tmp_path / 'site.conf'}; }}\n"
    )
    processes([program_path("nginx", "/usr/sbin/nginx"), "-e", "stderr", "-c", str(tmp_path / "nginx.conf")])
    wait_until(lambda: answers(f"https://localhost:{port}{LOGIN}", verify=str(certificate[0])), 30, "nginx to answer")
    return port


def caddy_program() -> str:
    """Returns the path of Caddy; skips the test where CADDY_BIN names none."""
    if program := os.environ.get("CADDY_BIN"):
        return program
    pytest.skip("CADDY_BIN names no Caddy of 2.7 or later; Debian's is older")


@pytest.fixture
def caddy(site, processes, certificate, tmp_path) -> int:
    """The port of Caddy, with the shipped example; only its addresses and its certificate are of the test."""
    program = caddy_program()
    port = free_port()
    text = (DEPLOY / "caddy" / "Caddyfile").read_text()
    head = f"https://localhost:{port} {{\n\tbind 127.0.0.1\n\ttls {certificate[0]} {certificate[1]}"
    assert "127.0.0.1:8080" in text
    text, sites = re.subn(
        r"^registry\.example\.com \{", head, text.replace("127.0.0.1:8080", f"127.0.0.1:{site}"), flags=re.MULTILINE
    )
    assert sites == 1
    text = text.replace("{\n\tservers {", "{\n\tadmin off\n\tauto_https disable_redirects\n\tservers {", 1)
    (tmp_path / "Caddyfile").write_text(text)
    processes([program, "run", "--config", str(tmp_path / "Caddyfile"), "--adapter", "caddyfile"], HOME=str(tmp_path))
    wait_until(lambda: answers(f"https://localhost:{port}{LOGIN}", verify=str(certificate[0])), 30, "Caddy to answer")
    return port


def is_open(connection: socket.socket) -> bool:
    """Returns whether the server still waits for the rest: it has sent nothing, and has not closed."""
    connection.settimeout(0)
    try:
        connection.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        pass
    return False


@pytest.mark.parametrize("proxy", ["nginx", "caddy"])
def test_site_behind_proxy_answers_beside_200_slow_clients(proxy, request, certificate, slow_clients):
    port = request.getfixturevalue(proxy)
    connections = slow_clients(port, tls=True)
    answer = requests.get(f"https://localhost:{port}{LOGIN}", timeout=20, verify=str(certificate[0]))
    waiting = sum(map(is_open, connections))
    assert (answer.status_code, "Registry Admin" in answer.text) == (200, True)
    assert waiting > SLOW // 3, "the slow clients were gone before the site was asked"


@pytest.mark.parametrize("proxy", ["nginx", "caddy"])
def test_site_behind_proxy_knows_the_clients_address_and_protocol(proxy, request, certificate):
    port = request.getfixturevalue(proxy)
    forged = {"X-Forwarded-For": "198.51.100.66", "X-Forwarded-Proto": "http", "X-Request-ID": "forged-by-the-client"}
    answer = requests.get(
        f"https://localhost:{port}/", headers=forged, timeout=20, verify=str(certificate[0]), allow_redirects=False
    )
    assert (answer.status_code, answer.headers["Location"]) == (302, f"{LOGIN}?next=/")
    assert answer.headers["X-Request-ID"] != "forged-by-the-client"
    large = requests.post(
        f"https://localhost:{port}{LOGIN}", data=b"x" * 4_000_000, timeout=20, verify=str(certificate[0])
    )
    assert large.status_code == 413


def test_site_without_proxy_gives_up_half_requests_and_answers_again(site, slow_clients):
    slow_clients(site, tls=False, number=8)
    wait_until(lambda: answers(f"http://127.0.0.1:{site}/health"), 60, "the site to give up the half requests")


def test_caddy_example_is_well_formed():
    program = caddy_program()
    command = [program, "validate", "--adapter", "caddyfile", "--config", str(DEPLOY / "caddy" / "Caddyfile")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
