"""Prepares the environment before Django's settings read it, so that no developer's shell can change a result.

Loaded by `-p tests.environment` (pyproject.toml), which comes before pytest-django. The database is a temporary SQLite
file with TEST_DATABASE=sqlite, or the caller's DATABASE_URL, or else a PostgreSQL that starts with the first test that
needs it and ends with the run; with pytest-xdist, each worker has one.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import pytest

OWN_POSTGRES = "REGISTRY_TESTS_OWN_POSTGRES"  # the port that this run has chosen for its PostgreSQL
WORKER = "PYTEST_XDIST_WORKER"  # set in pytest-xdist's workers, which inherit the environment of the process above them


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Called by pytest before pytest-django's own hook loads the settings."""
    if WORKER not in os.environ:
        forget_the_shell()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "registry_admin.settings")
    if os.environ.get("TEST_DATABASE") == "sqlite":
        folder = Path(tempfile.mkdtemp(prefix="registry-admin-test-"))
        early_config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        os.environ["DATABASE_URL"] = f"sqlite:///{folder / 'test.sqlite3'}"
    elif not os.environ.get("DATABASE_URL") or OWN_POSTGRES in os.environ:
        with warnings.catch_warnings(action="ignore"):
            from scripts import embedded_postgres

        port = embedded_postgres.free_port()
        os.environ[OWN_POSTGRES] = str(port)
        user, database = embedded_postgres.USER, embedded_postgres.DATABASE  # its password is made when it starts
        # pragma: allowlist nextline secret - only for tests
        os.environ["DATABASE_URL"] = f"postgres://{user}:unknown@{embedded_postgres.HOST}:{port}/{database}"


def forget_the_shell() -> None:
    """Takes out what would reach the product from outside: Consul's and modules' variables, proxies, secrets."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background job, and in all that it starts
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in list(os.environ):
        if name == "CONSUL_BIN":  # which agent to test against is for the caller to say
            continue
        if (
            name.startswith(("CONSUL_", "SERVICE_", "DJANGO_", "REGISTRY_"))
            or name.lower().endswith("_proxy")
            or name == "REDIS_URL"
        ):
            del os.environ[name]
    # pragma: allowlist nextline secret - only for tests
    os.environ["DJANGO_SECRET_KEY"] = "only-for-tests-and-long-enough-for-the-checks-of-django-0123456789"
    os.environ["REGISTRY_IDLE_TIMEOUT"] = "5m"  # tests wait for other processes inside their transaction
    os.environ["DJANGO_HTTPS"] = "0"  # the test client and the browser speak plain HTTP


def start_own_postgres(config: pytest.Config) -> None:
    """Starts this run's PostgreSQL, unless the caller has named a database; it ends and is removed with the run."""
    if OWN_POSTGRES not in os.environ:
        return
    from django.db import connection

    with warnings.catch_warnings(action="ignore"):  # what it warns of is no fault of the tests
        from scripts import embedded_postgres

        folder = Path(tempfile.mkdtemp(prefix="registry-admin-test-postgres-"))
        folder.chmod(0o711)  # the server may run as another user
        config.add_cleanup(lambda: embedded_postgres.remove(folder))
        url = embedded_postgres.start(folder, port=int(os.environ[OWN_POSTGRES]), durable=False)
    os.environ["DATABASE_URL"] = url
    connection.settings_dict["PASSWORD"] = urlsplit(url).password
