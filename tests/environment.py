"""Prepares the environment before Django's settings read it, so that no developer's shell can change a result.

Loaded by `-p tests.environment` (pyproject.toml), which comes before pytest-django. Where the tests that were asked
for need Django, it makes sure of a database: a temporary SQLite file with TEST_DATABASE=sqlite, or the caller's
DATABASE_URL, or else a PostgreSQL of its own that ends with the run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KNOW_NO_DJANGO = (ROOT / "tests" / "unit", ROOT / "tests" / "consul")
WORKER = "PYTEST_XDIST_WORKER"  # set in pytest-xdist's workers, which inherit all of this from the process above them


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Called by pytest before pytest-django's own hook loads the settings."""
    if WORKER in os.environ:
        return
    forget_the_shell()
    if not needs_django(early_config.known_args_namespace.file_or_dir, where=early_config.invocation_params.dir):
        return
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "registry_admin.settings")
    if os.environ.get("TEST_DATABASE") == "sqlite":
        folder = Path(tempfile.mkdtemp(prefix="registry-admin-test-"))
        early_config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        os.environ["DATABASE_URL"] = f"sqlite:///{folder / 'test.sqlite3'}"
    elif not os.environ.get("DATABASE_URL"):
        os.environ["DATABASE_URL"] = start_postgres(early_config)


def forget_the_shell() -> None:
    """Takes out what would reach the product from outside: Consul's and modules' variables, proxies, secrets."""
    for name in list(os.environ):
        if name == "CONSUL_BIN":  # which agent to test against is for the caller to say
            continue
        if (
            name.startswith(("CONSUL_", "SERVICE_", "DJANGO_", "REGISTRY_"))
            or name.lower().endswith("_proxy")
            or name == "REDIS_URL"
        ):
            del os.environ[name]
    os.environ["DJANGO_SECRET_KEY"] = "only-for-tests-and-long-enough-for-the-checks-of-django-0123456789"
    os.environ["DJANGO_HTTPS"] = "0"  # the test client and the browser speak plain HTTP


def needs_django(asked_for: list[str], *, where: Path) -> bool:
    """Whether any of the paths given to pytest (none means all tests) lies outside the folders that know no Django."""
    paths = [(where / path.partition("::")[0]).resolve() for path in asked_for]
    return not paths or any(not any(path.is_relative_to(folder) for folder in KNOW_NO_DJANGO) for path in paths)


def start_postgres(config: pytest.Config) -> str:
    """Starts a PostgreSQL in a folder of its own, to be ended and removed with the run; returns its URL."""
    with warnings.catch_warnings(action="ignore"):  # what it warns of is no fault of the tests
        from scripts import embedded_postgres

        folder = Path(tempfile.mkdtemp(prefix="registry-admin-test-postgres-"))
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        url = embedded_postgres.start(folder, durable=False)
    config.add_cleanup(lambda: embedded_postgres.stop(folder))
    return url
