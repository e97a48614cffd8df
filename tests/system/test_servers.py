"""One registration however many workers a server has, through everything that happens to them: with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from registry_admin.discovery.membership import Membership
from tests.parts import ConsulAgent, FlakyProxy, HttpService, wait_until

if TYPE_CHECKING:
    from tests.system.servers import Server

pytest_plugins = ["tests.system.servers"]  # `serve` and `listening_consul`
ROOT = Path(__file__).parent.parent.parent

WSGI, ASGI = "research_stub.main:application", "backend_stub.main:app"
UVICORN = ["-k", "uvicorn_worker.UvicornWorker"]
KINDS = {"sync": (WSGI, []), "gthread": (WSGI, ["-k", "gthread", "--threads", "2"]), "uvicorn": (ASGI, UVICORN)}


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


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_is_replaced_does_not_take_the_registration_along(
    serve: Callable[..., Server], kind: str
) -> None:
    server = serve(*gunicorn(kind, workers=1))
    wait_until(server.is_registered, 30, "the registration")
    wait_until(server.answers, 30, "an answer")
    (old,) = server.workers()
    os.kill(old, signal.SIGTERM)
    wait_until(lambda: server.workers() and old not in server.workers(), 30, "another worker")
    wait_until(server.answers, 30, "an answer of the new worker")
    assert server.count("deregister") == 0


def test_killing_everything_leaves_it_to_consuls_check(serve: Callable[..., Server]) -> None:
    server = serve(*gunicorn("sync", workers=2))
    wait_until(server.is_registered, 30, "the registration")
    pids = server.workers()
    server.process.kill()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    server.process.wait()
    wait_until(lambda: server.health() == "critical", 30, "Consul's own check")
    assert server.count("deregister") == 0


def test_an_agent_that_lost_everything_gets_the_module_back(
    serve: Callable[..., Server], make_agent: Callable[..., ConsulAgent]
) -> None:
    agent = make_agent()
    # One worker: another that is still to register would hide whether the first one noticed.
    serve(*gunicorn("uvicorn", workers=1), environ={"CONSUL_HTTP_ADDR": agent.url})

    def is_callable() -> bool:
        return len(agent.request("GET", "/v1/health/service/module?passing")) == 1

    wait_until(is_callable, 30, "the registration")
    agent.stop()
    agent.start()
    wait_until(is_callable, 30, "the registration to come back")


@pytest.mark.parametrize(
    "arguments",
    [
        ["uvicorn", ASGI],
        ["uvicorn", "--workers", "2", ASGI],
        ["uvicorn", "--interface", "wsgi", WSGI],
        ["gunicorn", "--no-control-socket", "-k", "gthread", WSGI, "-b", "127.0.0.1:{port}"],
    ],
    ids=["uvicorn", "uvicorn with workers", "Django under uvicorn", "gunicorn"],
)
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_any_server_deregisters_once_when_it_is_stopped(
    serve: Callable[..., Server], arguments: list[str], stop: signal.Signals
) -> None:
    server = serve(*arguments, *([] if arguments[0] == "gunicorn" else ["--port", "{port}"]))
    wait_until(server.is_registered, 30, "the registration")
    wait_until(server.answers, 30, "an answer")
    server.process.send_signal(stop)
    server.process.wait(30)
    wait_until(lambda: not server.is_registered(), 5, "the end of the registration")
    assert (server.count("register"), server.count("deregister")) == (1, 1)


def test_a_module_that_starts_while_consul_is_away_serves_and_registers_later(
    serve: Callable[..., Server], flaky_proxy: Callable[..., FlakyProxy], listening_consul: HttpService
) -> None:
    proxy = flaky_proxy(listening_consul.host, listening_consul.port)
    proxy.cut()
    server = serve(*gunicorn("sync", workers=2), environ={"CONSUL_HTTP_ADDR": proxy.url})
    wait_until(server.answers, 30, "an answer")
    wait_until(lambda: "will register when Consul is back" in server.log.read_text(), 30, "a line in the log")
    proxy.mend()
    wait_until(server.is_registered, 30, "the registration")
    wait_until(lambda: "is registered now" in server.log.read_text(), 30, "another line in the log")
    assert server.count("register") == 1


def test_a_job_that_a_serving_process_forks_has_no_part_in_the_registration(
    consul_agent: ConsulAgent, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    script = (
        "import os, pathlib, sys, time\n"
        "from registry_admin.consul import CheckSpec\n"
        "from registry_admin.discovery import registered\n"
        "with registered('job', port=1234, check=CheckSpec(kind='none')) as started:\n"
        "    assert started.wait(10)\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        pathlib.Path(sys.argv[1]).touch()\n"
        "        time.sleep(60)\n"
        "    while not pathlib.Path(sys.argv[1]).exists():\n"
        "        time.sleep(0.01)\n"
        "print(pid, flush=True)\n"
    )
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, str(ready)]
    with subprocess.Popen(command, env=os.environ | consul_agent.env, stdout=subprocess.PIPE) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        try:
            process.wait(20)
            assert "job-127.0.0.1-1234" not in consul_agent.request("GET", "/v1/agent/services")
            successor = Membership(f"{consul_agent.url} job-127.0.0.1-1234")
            assert successor.join()
            assert successor.leave()
            successor.release()
        finally:
            os.kill(child, signal.SIGKILL)


# -- a Django project with registry_admin.autoregister ----------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> dict[str, str]:
    """The environment for `python -m django` in a small project."""
    (tmp_path / "site_urls.py").write_text(
        "from django.http import HttpResponse\n"
        "from django.urls import path\n"
        "urlpatterns = [path('health', lambda request: HttpResponse('ok'))]\n"
    )
    (tmp_path / "site_settings.py").write_text(
        "INSTALLED_APPS = ['django.contrib.contenttypes', 'django.contrib.auth', 'registry_admin.autoregister']\n"
        f"DATABASES = {{'default': {{'ENGINE': 'django.db.backends.sqlite3', 'NAME': '{tmp_path / 'db.sqlite3'}'}}}}\n"
        "DEBUG = True\n"
        "ROOT_URLCONF = 'site_urls'\n"
        "SECRET_KEY = 'only for a test'\n"
        "USE_TZ = True\n"
    )
    return {"DJANGO_SETTINGS_MODULE": "site_settings", "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


@pytest.mark.parametrize("reloader", [True, False], ids=["with its reloader", "without reloader"])
def test_runserver_is_registered_once(
    serve: Callable[..., Server], project: dict[str, str], reloader: bool, tmp_path: Path
) -> None:
    options = [] if reloader else ["--noreload"]
    server = serve("django", "runserver", "127.0.0.1:{port}", *options, environ=project)
    wait_until(server.is_registered, 30, "the registration")
    assert server.count("register") == 1
    for pid in server.workers() or {server.process.pid}:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not server.is_registered(), 15, "the end of the registration")
    assert server.count("deregister") == 1


@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["", "preload"])
def test_django_under_uvicorn_workers_is_deregistered_once(
    serve: Callable[..., Server], project: dict[str, str], options: list[str]
) -> None:
    application = "django.core.asgi:get_asgi_application()"
    arguments = ["-b", "127.0.0.1:{port}", "-w", "2", *UVICORN, *options, application]
    server = serve("gunicorn", "--no-control-socket", *arguments, environ=project)
    wait_until(server.is_registered, 30, "the registration")
    wait_until(lambda: server.log.read_text().count("Application startup complete") == 2, 30, "both workers")
    server.process.terminate()
    server.process.wait(30)
    assert not server.is_registered()
    assert (server.count("register"), server.count("deregister")) == (1, 1)


def test_the_reloaders_parent_has_no_part_in_the_registration(
    serve: Callable[..., Server], project: dict[str, str]
) -> None:
    server = serve("django", "runserver", "127.0.0.1:{port}", environ=project)
    wait_until(server.is_registered, 30, "the registration")
    (child,) = server.workers()
    os.kill(child, signal.SIGKILL)
    server.process.wait(30)  # the parent ends with its child, and had it a part it would now deregister
    assert server.is_registered()


@pytest.mark.parametrize(
    "command",
    [["migrate"], ["test"], ["check"], ["shell", "-c", "print(1)"], ["diffsettings"]],
    ids=lambda command: command[0],
)
def test_commands_register_nothing(
    project: dict[str, str], http_service: Callable[..., HttpService], command: list[str], tmp_path: Path
) -> None:
    # Everything it would need to register: it is called as the service, and the service answers.
    module, consul = http_service(), http_service()
    own = {"SERVICE_NAME": "module", "SERVICE_PORT": str(module.port), "CONSUL_HTTP_ADDR": consul.url}
    run = [sys.executable, "-m", "django", *command]
    subprocess.run(run, env=os.environ | project | own, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert not module.requests
    assert not consul.requests


def test_a_wrong_setting_is_named_by_the_system_check(project: dict[str, str], tmp_path: Path) -> None:
    with (tmp_path / "site_settings.py").open("a") as settings:
        settings.write("REGISTRY_AUTOREGISTER = {'PORT': '80', 'TAGS': ['a,b'], 'NAME': 'good'}\n")
    run = [sys.executable, "-m", "django", "check"]
    done = subprocess.run(
        run, env=os.environ | project, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "autoregister.E003" in done.stderr
    assert "autoregister.E004" in done.stderr
    assert "autoregister.E001" not in done.stderr


def test_settings_come_before_the_environment(
    serve: Callable[..., Server], project: dict[str, str], consul_agent: ConsulAgent, tmp_path: Path
) -> None:
    with (tmp_path / "site_settings.py").open("a") as settings:
        settings.write("REGISTRY_AUTOREGISTER = {'NAME': 'named-by-settings', 'TAGS': ['blue'], 'ID': 'by-settings'}\n")
    serve("django", "runserver", "127.0.0.1:{port}", "--noreload", environ=project | {"SERVICE_TAGS": "green"})
    found = wait_until(
        lambda: consul_agent.request("GET", "/v1/agent/services").get("by-settings"), 30, "the registration"
    )
    assert (found["Service"], found["Tags"]) == ("named-by-settings", ["blue"])
