"""A real browser in front of the real site, a watcher and a Consul agent."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.staticfiles.storage import StaticFilesStorage
from django.test import override_settings

from registry_admin.consul import ConsulApi
from registry_admin.inventory.controller import Controller
from tests.parts import ConsulAgent, FlakyProxy

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ARGUMENTS = [
    "--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE_MS = 20_000
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def can_not_be_run(why: str) -> None:
    """On a developer's machine that is no failure; where everything is to be tested, it is."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for a module: Playwright keeps an event loop going, which others' asynchronous tests can't stand."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        can_not_be_run("no Chromium: none of its names is on PATH")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        can_not_be_run("no Playwright: pip install -r requirements-dev.txt")
    with sync_playwright() as playwright, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # for that very loop's sake
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Page]:
    """A page of a fresh browser. A script's error, or anything that it complains of in its console, fails the test."""
    complaints: list[str] = []
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.complaints = complaints  # type: ignore[attr-defined]
    yield page
    context.close()
    assert complaints == []


@pytest.fixture(scope="session", autouse=True)
def _no_collected_static_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """As in production, but nobody has run collectstatic. For the session, because the live server lasts as long."""
    storages = settings.STORAGES | {"staticfiles": {"BACKEND": f"{StaticFilesStorage.__module__}.StaticFilesStorage"}}
    with override_settings(STORAGES=storages, STATIC_ROOT=str(tmp_path_factory.mktemp("static"))):
        yield


@pytest.fixture(autouse=True)
def _quick_passwords(settings) -> None:
    """Not a second of work for each user that a test makes."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def proxy(
    consul_agent: ConsulAgent, flaky_proxy: Callable[..., FlakyProxy], monkeypatch: pytest.MonkeyPatch
) -> FlakyProxy:
    """The site and the watcher reach Consul through this, so that it can be taken away from them."""
    proxy = flaky_proxy(consul_agent.host, consul_agent.port)
    monkeypatch.setenv("CONSUL_HTTP_ADDR", f"{proxy.host}:{proxy.port}")
    return proxy


@pytest.fixture
def consul(registry: Any, proxy: FlakyProxy) -> ConsulApi:
    """The shared agent, past the proxy."""
    api: ConsulApi = registry.api
    return api


@pytest.fixture
def start_watcher(consul: ConsulApi, transactional_db: None) -> Iterator[Callable[..., None]]:
    """`start_watcher()`: what `sync_registry --watch` does, in a thread."""
    with ExitStack() as stack:

        def start() -> None:
            controller = Controller()
            thread = threading.Thread(target=controller.run)
            stack.callback(thread.join, 30)
            stack.callback(controller.stop)
            thread.start()

        yield start


@pytest.fixture
def operator_page(tab: Page, live_server: Any) -> Page:
    """A browser whose user has logged in by the form, as an operator does."""
    User.objects.create_superuser("operator", password="a password for tests")
    tab.goto(f"{live_server.url}/")
    tab.get_by_label("Username").fill("operator")
    tab.get_by_label("Password").fill("a password for tests")
    tab.get_by_role("button", name="Log in").click()
    tab.get_by_role("heading", name="Services", exact=True).wait_for()
    return tab
