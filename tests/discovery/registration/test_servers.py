"""Registration of real server processes: one for all workers, through reloads, kills and stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from registry_admin.discovery.registration.worker_lock import WorkerLock
from tests.parts import ConsulAgent, FlakyProxy, HttpService, wait_until
from tests.parts.servers import Server, has_threads

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[3]

WSGI, ASGI = "research_stub.main:application", "backend_stub.main:app"
UVICORN = ["-k", "uvicorn_worker.UvicornWorker"]
KINDS = {"sync": (WSGI, []), "gthread": (WSGI, ["-k", "gthread", "--threads", "2"]), "uvicorn": (ASGI, UVICORN)}


def gunicorn(kind: str, *, workers: int = 4, preload: bool = False) -> list[str]:
    application, options = KINDS[kind]
    options = [*options, *(["--preload"] if preload else [])]
    return ["gunicorn", "--no-control-socket", "-b", "127.0.0.1:{port}", "-w", str(workers), *options, application]


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
@pytest.mark.parametrize("kind", KINDS)
def test_gunicorn_workers_share_one_registration_from_start_to_stop(
    serve: Callable[..., Server], kind: str, preload: bool
) -> None:
    server = serve(*gunicorn(kind, preload=preload))
    wait_until(server.is_registered, 30, "the registration")
    wait_until(server.answers, 30, "an answer")
    first = wait_until(lambda: len(workers := server.workers()) == 4 and workers, 30, "four workers")

    server.process.send_signal(signal.SIGHUP)
    second = wait_until(
        lambda: len(workers := server.workers()) == 4 and not workers & first and workers, 30, "four new workers"
    )
    wait_until(server.answers, 30, "an answer after the reload")

    os.kill(next(iter(second)), signal.SIGKILL)
    wait_until(lambda: len(workers := server.workers()) == 4 and workers != second, 30, "the killed worker's successor")
    wait_until(server.answers, 30, "an answer after a worker was killed")
    # Until a worker of gunicorn has set its handlers, it misses the signal that ends it.
    wait_until(lambda: all(map(has_threads, server.workers())), 30, "the import in all workers")
    assert server.is_registered()
    assert (server.count("register"), server.count("deregister")) == (1, 0)

    server.process.terminate()
    server.process.wait(30)
    assert not server.is_registered()
    assert (server.count("register"), server.count("deregister")) == (1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_gunicorn_replaced_worker_keeps_the_registration(serve: Callable[..., Server], kind: str) -> None:
    server = serve(*gunicorn(kind, workers=1))
    wait_until(server.is_registered, 30, "the registration")
    wait_until(server.answers, 30, "an answer")
    (old,) = server.workers()
    os.kill(old, signal.SIGTERM)
    wait_until(lambda: server.workers() and old not in server.workers(), 30, "another worker")
    wait_until(server.answers, 30, "an answer of the new worker")
    assert server.count("deregister") == 0


def test_gunicorn_killed_with_all_workers_turns_critical(serve: Callable[..., Server]) -> None:
    server = serve(*gunicorn("sync", workers=2))
    wait_until(server.is_registered, 30, "the registration")
    pids = server.workers()
    server.process.kill()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    server.process.wait()
    wait_until(lambda: server.health() == "critical", 30, "Consul's own check")
    assert server.count("deregister") == 0


def test_server_registers_again_after_the_agent_lost_its_state(
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


def test_server_started_while_consul_is_away_serves_and_registers_later(
    serve: Callable[..., Server], flaky_proxy: Callable[..., FlakyProxy], recording_consul: HttpService
) -> None:
    proxy = flaky_proxy(recording_consul.host, recording_consul.port)
    proxy.cut()
    server = serve(*gunicorn("sync", workers=2), environ={"CONSUL_HTTP_ADDR": proxy.url})
    wait_until(server.answers, 30, "an answer")
    wait_until(lambda: "will register when Consul is back" in server.log.read_text(), 30, "a line in the log")
    proxy.restore()
    wait_until(server.is_registered, 30, "the registration")
    wait_until(lambda: "is registered now" in server.log.read_text(), 30, "another line in the log")
    assert server.count("register") == 1


def test_forked_job_of_a_server_has_no_share_in_the_registration(consul_agent: ConsulAgent, tmp_path: Path) -> None:
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
            successor = WorkerLock(f"{consul_agent.url} job-127.0.0.1-1234")
            assert successor.join()
            assert successor.leave()
            successor.release()
        finally:
            os.kill(child, signal.SIGKILL)


def test_celery_worker_leaves_and_finishes_its_task(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_FOLDER", str(tmp_path))
    from tests.modules import celery_module

    server = serve("celery", "-A", "tests.modules.celery_module", "worker", "--concurrency", "1")
    wait_until(server.is_registered, 30, "the registration")
    celery_module.slow.delay()
    wait_until((tmp_path / "began").exists, 30, "the task")
    server.process.terminate()
    wait_until(lambda: not server.is_registered(), 10, "the end of the registration")
    assert not (tmp_path / "finished").exists()
    (tmp_path / "may-finish").touch()
    server.process.wait(30)
    assert (tmp_path / "finished").exists()
    assert (server.count("register"), server.count("deregister")) == (1, 1)


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
        # pragma: allowlist nextline secret - only for tests
        "SECRET_KEY = 'only for a test'\n"
        "USE_TZ = True\n"
    )
    return {"DJANGO_SETTINGS_MODULE": "site_settings", "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


@pytest.mark.parametrize("reloader", [True, False], ids=["with its reloader", "without reloader"])
def test_runserver_registers_once(
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


def test_runserver_whose_child_is_killed_deregisters(serve: Callable[..., Server], project: dict[str, str]) -> None:
    server = serve("django", "runserver", "127.0.0.1:{port}", environ=project)
    wait_until(server.is_registered, 30, "the registration")
    (child,) = server.workers()
    os.kill(child, signal.SIGKILL)
    server.process.wait(30)  # the parent ends with its child
    assert not server.is_registered()


def test_runserver_reload_keeps_the_registration(
    serve: Callable[..., Server], project: dict[str, str], tmp_path: Path
) -> None:
    server = serve("django", "runserver", "127.0.0.1:{port}", environ=project)
    wait_until(server.is_registered, 30, "the registration")
    wait_until(server.answers, 30, "an answer")
    (first,) = server.workers()

    def is_replaced() -> bool:
        """Edits a module until its child has ended: the reloader overlooks what changes before its first round."""
        if first in server.workers():
            with (tmp_path / "site_urls.py").open("a") as urls:
                urls.write("\n")
            return False
        return bool(server.workers())

    wait_until(is_replaced, 30, "another child")
    wait_until(server.answers, 30, "an answer of the new child")
    assert (server.count("register"), server.count("deregister")) == (1, 0)


@pytest.mark.parametrize(
    "command",
    [["migrate"], ["test"], ["check"], ["shell", "-c", "print(1)"], ["diffsettings"]],
    ids=lambda command: command[0],
)
def test_command_that_does_not_serve_sends_no_request(
    project: dict[str, str], http_service: Callable[..., HttpService], command: list[str], tmp_path: Path
) -> None:
    # All that a registration needs is there: its settings, and a service that answers.
    module, consul = http_service(), http_service()
    own = {"SERVICE_NAME": "module", "SERVICE_PORT": str(module.port), "CONSUL_HTTP_ADDR": consul.url}
    run = [sys.executable, "-m", "django", *command]
    subprocess.run(run, env=os.environ | project | own, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert not module.requests
    assert not consul.requests


def test_system_check_names_a_wrong_setting(project: dict[str, str], tmp_path: Path) -> None:
    with (tmp_path / "site_settings.py").open("a") as settings:
        settings.write("REGISTRY_AUTOREGISTER = {'PORT': '80', 'TAGS': ['a\\nb'], 'NAME': 'good'}\n")
    run = [sys.executable, "-m", "django", "check"]
    done = subprocess.run(
        run, env=os.environ | project, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "autoregister.E003" in done.stderr
    assert "autoregister.E004" in done.stderr
    assert "autoregister.E001" not in done.stderr


def test_settings_override_the_environment(
    serve: Callable[..., Server], project: dict[str, str], consul_agent: ConsulAgent, tmp_path: Path
) -> None:
    with (tmp_path / "site_settings.py").open("a") as settings:
        settings.write("REGISTRY_AUTOREGISTER = {'NAME': 'named-by-settings', 'TAGS': ['blue'], 'ID': 'by-settings'}\n")
    serve("django", "runserver", "127.0.0.1:{port}", "--noreload", environ=project | {"SERVICE_TAGS": "green"})
    instance = wait_until(
        lambda: consul_agent.request("GET", "/v1/agent/services").get("by-settings"), 30, "the registration"
    )
    assert (instance["Service"], instance["Tags"]) == ("named-by-settings", ["blue"])
