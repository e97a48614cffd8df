"""Takes the screenshots of the README, in a browser, of pages with the rows of `demonstration`."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.benchmarks.parts import Parts
from scripts.embedded_postgres import free_port
from scripts.run_everything.processes import Process
from scripts.run_everything.settings import RunError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parent.parent
SCREENSHOTS = {  # name: path of the page, height in pixels
    "dashboard": ("/", 900),
    "service": ("/services/search-index/", 1000),
    "drift": ("/drift/", 460),
    "map": ("/map/", 720),
}
WIDTH = 1280
ARGUMENTS = [
    "--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


def main(target: Path) -> int:
    """Writes NAME-light.png and NAME-dark.png into `target`; returns 1 if a program is missing, else 0."""
    parts = Parts(say=lambda message: print(message, file=sys.stderr))
    try:
        parts.use_postgres()
        from scripts import demonstration  # noqa: PLC0415 - Django is set up by now

        demonstration.fill()
        with _site(parts) as (url, password), _browser() as browser:
            for scheme in ("light", "dark"):
                _take(browser, url, password, scheme=scheme, target=target)
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        parts.end()
    return 0


@contextlib.contextmanager
def _site(parts: Parts) -> Iterator[tuple[str, str]]:
    from django.contrib.auth.models import User  # noqa: PLC0415

    password, port = secrets.token_urlsafe(12), free_port()
    User.objects.create_superuser("ada", password=password)
    env = {**os.environ, "DJANGO_DEBUG": "1", "SERVICE_AUTOREGISTER": "0"}
    command = [sys.executable, "manage.py", "runserver", f"127.0.0.1:{port}", "--noreload"]
    parts.settings.logs.mkdir(exist_ok=True)
    parts.processes.start(Process("site", command, parts.settings.logs / "site.log", env))
    url = f"http://127.0.0.1:{port}"
    from scripts.run_everything.parts import is_healthy  # noqa: PLC0415

    parts.processes.wait_until(lambda: is_healthy(f"{url}/health"), "the site to answer")
    try:
        yield url, password
    finally:
        parts.processes.end("site")


@contextlib.contextmanager
def _browser() -> Iterator[Browser]:
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415 - listed in requirements-dev.txt only
    except ImportError as error:
        raise RunError("Playwright is missing: pip install -r requirements-dev.txt") from error
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        raise RunError("Chromium is missing: install it so that `chromium` is on PATH.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def _take(browser: Browser, url: str, password: str, *, scheme: Any, target: Path) -> None:
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": WIDTH, "height": 900}, device_scale_factor=1.5
    )
    page = context.new_page()
    page.goto(f"{url}/admin/login/?next=/")
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    for name, (path, height) in SCREENSHOTS.items():
        page.set_viewport_size({"width": WIDTH, "height": height})
        page.goto(url + path)
        page.locator("#live-controls").wait_for()
        file = target / f"{name}-{scheme}.png"
        page.screenshot(path=file)
        print(f"{file.relative_to(ROOT) if file.is_relative_to(ROOT) else file}")
    context.close()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"))
