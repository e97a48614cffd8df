"""Fixtures of the browser tests: Chromium, the live site, a watcher and a Consul agent."""

from __future__ import annotations

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
from registry_admin.inventory.watcher.controller import Controller
from tests.parts import ConsulAgent, FlakyProxy
from tests.parts.programs import program_path, skip_unless_ci

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ARGUMENTS = [
    "--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
TIMEOUT_MS = 20_000
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Browser for one module, because Playwright's running event loop breaks asynchronous tests elsewhere."""
    path = program_path(*NAMES)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip_unless_ci("no Playwright: pip install -r requirements-dev.txt")
    with sync_playwright() as playwright, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # because of that event loop
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Page]:
    """Page of a new browser context. Errors of scripts and warnings in the console fail the test."""
    complaints: list[str] = []
    context = chromium.new_context()
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.complaints = complaints  # type: ignore[attr-defined]
    yield page
    context.close()
    assert complaints == []


@pytest.fixture(scope="session", autouse=True)
def _no_collected_static_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Static files without collectstatic. For the session, because the live server lasts as long."""
    storages = settings.STORAGES | {"staticfiles": {"BACKEND": f"{StaticFilesStorage.__module__}.StaticFilesStorage"}}
    with override_settings(STORAGES=storages, STATIC_ROOT=str(tmp_path_factory.mktemp("static"))):
        yield


@pytest.fixture(autouse=True)
def _quick_passwords(settings) -> None:
    """Fast password hashing, because each login would take a second."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def proxy(
    consul_agent: ConsulAgent, flaky_proxy: Callable[..., FlakyProxy], monkeypatch: pytest.MonkeyPatch
) -> FlakyProxy:
    """Proxy between Consul and the site and watcher; can cut their connections."""
    proxy = flaky_proxy(consul_agent.host, consul_agent.port)
    monkeypatch.setenv("CONSUL_HTTP_ADDR", f"{proxy.host}:{proxy.port}")
    return proxy


@pytest.fixture
def consul(registry: Any, proxy: FlakyProxy) -> ConsulApi:
    """API of the shared agent, without the proxy."""
    api: ConsulApi = registry.api
    return api


@pytest.fixture
def start_watcher(consul: ConsulApi, transactional_db: None) -> Iterator[Callable[..., None]]:
    """Returns `start_watcher()`: runs the controller of `sync_registry --watch` in a thread."""
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
    """Page of a superuser who has logged in by the form."""
    # pragma: allowlist nextline secret - only for tests
    User.objects.create_superuser("operator", password="a password for tests")
    tab.goto(f"{live_server.url}/")
    tab.get_by_label("Username").fill("operator")
    tab.get_by_label("Password").fill("a password for tests")
    tab.get_by_role("button", name="Log in").click()
    tab.get_by_role("heading", name="Services", exact=True).wait_for()
    return tab
