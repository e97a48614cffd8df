"""Django on a real database, and the shared Consul agent as the product finds it: by its environment."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from registry_admin.consul import ConsulApi, ServiceRegistry
from registry_admin.inventory.controller import Controller
from registry_admin.inventory.models import Instance, Service, SyncRun
from registry_admin.inventory.passes import Pass, SyncOutcome
from tests.inventory.processes import ROOT, Ended, Watching
from tests.parts import ConsulAgent, FlakyProxy, free_port, wait_until

OWNER = "registry-admin"


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """SQLite in a file, as in real life: in memory threads share it, and then nobody waits for a writer, but fails."""
    if connection.vendor == "sqlite":
        connection.settings_dict["TEST"]["NAME"] = str(tmp_path_factory.mktemp("sqlite") / "inventory.sqlite3")


@pytest.fixture(autouse=True)
def _no_collected_static_files(settings, tmp_path_factory) -> None:
    """The pages are tested as in production, but nobody has run collectstatic."""
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }
    settings.STATIC_ROOT = str(tmp_path_factory.mktemp("static"))


@pytest.fixture(autouse=True)
def _quick_passwords(settings) -> None:
    """Not a second of work for each user that a test makes."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def _no_consul_unless_asked_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that says nothing of Consul finds none: a sync that it didn't mean is an error that can be seen."""
    if "consul" not in request.fixturenames:
        monkeypatch.setenv("CONSUL_HTTP_ADDR", f"127.0.0.1:{free_port()}")


@pytest.fixture
def consul(consul_agent: ConsulAgent, registry: ServiceRegistry, monkeypatch: pytest.MonkeyPatch) -> ConsulApi:
    """The product's Consul is the shared agent; this is another connection to it, to look and to meddle."""
    for name, value in consul_agent.env.items():
        monkeypatch.setenv(name, value)
    return registry.api


@pytest.fixture
def use_consul(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`use_consul(agent_or_proxy)`: the product's Consul is this from now on."""

    def use(where: Any) -> None:
        monkeypatch.setenv("CONSUL_HTTP_ADDR", f"{where.host}:{where.port}")

    return use


@pytest.fixture
def proxied_consul(
    consul: ConsulApi,
    consul_agent: ConsulAgent,
    flaky_proxy: Callable[..., FlakyProxy],
    use_consul: Callable[..., None],
) -> FlakyProxy:
    """The product reaches the shared agent through this proxy, which can be cut; `consul` goes past it."""
    proxy = flaky_proxy(consul_agent.host, consul_agent.port)
    use_consul(proxy)
    return proxy


@pytest.fixture
def declare() -> Callable[..., Service]:
    """`declare("api", 8001, 8002, tags=[…])`: a saved service without checks, with an instance at each port."""

    def make(name: str = "api", *ports: int, **fields: Any) -> Service:
        service = Service.objects.create(**{"name": name, "check_kind": Service.Check.NONE} | fields)
        for port in ports:
            Instance.objects.create(service=service, address="127.0.0.1", port=port)
        return service

    return make


@pytest.fixture
def sync() -> Callable[..., SyncOutcome]:
    """`sync(only=[…], …)`: one pass as the command makes it."""

    def one_pass(**options: Any) -> SyncOutcome:
        return Pass(**{"trigger": SyncRun.Trigger.COMMAND} | options).make()

    return one_pass


@pytest.fixture
def count_queries() -> Callable[[Callable[[], Any]], list[str]]:
    """`count_queries(action)`: the SQL statements that it ran, without those that only begin or end transactions."""

    def count(action: Callable[[], Any]) -> list[str]:
        with CaptureQueriesContext(connection) as queries:
            action()
        return [
            query["sql"]
            for query in queries
            if not query["sql"].startswith(("SAVEPOINT", "RELEASE", "BEGIN", "COMMIT", "SELECT 1"))
        ]

    return count


@pytest.fixture
def make_user(db) -> Callable[..., User]:
    """`make_user("view_service", …)`: a member of staff with these permissions; `superuser=True` for all of them."""

    def make(*permissions: str, name: str = "ada", staff: bool = True, superuser: bool = False) -> User:
        user = User.objects.create_user(name, password="secret", is_staff=staff, is_superuser=superuser)
        for codename in permissions:
            user.user_permissions.add(Permission.objects.get(codename=codename))
        return user

    return make


@pytest.fixture
def client_of() -> Callable[[User], Client]:
    """`client_of(user)`: a client that is logged in as this user."""

    def make(user: User) -> Client:
        client = Client()
        client.force_login(user)
        return client

    return make


@pytest.fixture
def operator(make_user, client_of) -> Client:
    """A client logged in as a superuser."""
    return client_of(make_user(name="operator", superuser=True))


@pytest.fixture
def own_agent(make_agent: Callable[..., ConsulAgent], use_consul: Callable[..., None]) -> ConsulAgent:
    """The product's Consul is an agent of this test's own, to be stopped, frozen and filled with what never goes."""
    agent = make_agent()
    use_consul(agent)
    return agent


@pytest.fixture
def environment(transactional_db, tmp_path) -> dict[str, str]:
    """For manage.py in a process of its own, on the same kind of database as this run's tests."""
    if connection.vendor == "postgresql":
        address = urlsplit(os.environ["DATABASE_URL"])
        url = address._replace(path=f"/{connection.settings_dict['NAME']}").geturl()
    else:
        url = f"sqlite:///{tmp_path / 'processes.sqlite3'}"
    return os.environ | {"DATABASE_URL": url, "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def manage(environment) -> Callable[..., Ended]:
    """`manage("sync_registry", …, CONSUL_HTTP_ADDR=…)`: manage.py in a process; its database is migrated."""

    def command(*arguments: str, **variables: str) -> Ended:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT, env=environment | variables, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)

    if connection.vendor == "sqlite":
        assert command("migrate", "-v0").code == 0
    return command


@pytest.fixture
def watch(manage, environment, tmp_path) -> Iterator[Callable[..., Watching]]:
    """`watch("--no-prune")`: a watcher in a process of its own, past its first pass."""
    with ExitStack() as stack:

        def start(*arguments: str, **variables: str) -> Watching:
            log = tmp_path / f"watch-{len(list(tmp_path.glob('watch-*')))}.log"
            with log.open("w") as stderr:
                process = subprocess.Popen(
                    [sys.executable, "manage.py", "sync_registry", "--watch", *arguments],
                    cwd=ROOT, env=environment | variables, stdout=stderr, stderr=stderr, text=True,
                )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.kill)
            running = Watching(process, log)
            wait_until(lambda: "watching Consul" in running.log, 30, "the watcher to begin")
            return running

        yield start


@pytest.fixture
def lead(own_agent: ConsulAgent, transactional_db: None) -> Iterator[Callable[[], None]]:
    """`lead()`: a controller in a thread of this process, until the test ends."""
    with ExitStack() as stack:

        def start() -> None:
            controller = Controller()
            thread = threading.Thread(target=controller.run)
            stack.callback(thread.join, 30)
            stack.callback(controller.stop)
            thread.start()

        yield start
