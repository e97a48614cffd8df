"""Probes: /health of the process, and /ready of its database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.db import connection
from django.test import Client

from tests.parts.django_process import shared_database

pytestmark = pytest.mark.network

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _static_root(settings, tmp_path):
    """Empty folder, as before collectstatic."""
    settings.STATIC_ROOT = str(tmp_path)


def test_health_uses_no_database(client: Client):
    response = client.get("/health")  # this test may not touch the database
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert "no-store" in response.headers["Cache-Control"]


@pytest.mark.django_db
def test_ready_needs_the_database_and_not_consul(client: Client):
    response = client.get("/ready")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("url", ["/health", "/ready"])
def test_probe_post_is_not_allowed(client: Client, url):
    assert client.post(url).status_code == 405


@pytest.mark.django_db
def test_probes_are_not_redirected_to_https(client: Client, settings):
    settings.SECURE_SSL_REDIRECT = True
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    assert client.get("/admin/").status_code == 301


def test_ready_without_database_is_503_without_password():
    code = (
        "import django; django.setup()\n"
        "from django.test import Client\n"
        "for path in ('/health', '/ready'):\n"
        "    response = Client(headers={'host': 'localhost'}).get(path)\n"
        "    print(response.status_code, response.content.decode())\n"
    )
    # pragma: allowlist nextline secret - only for tests
    environment = os.environ | {"DATABASE_URL": "postgres://me:database-password@127.0.0.1:1/none"}
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    (health, ready) = completed.stdout.splitlines()
    assert health == '200 {"status": "ok"}'
    status, _, body = ready.partition(" ")
    assert status == "503"
    assert json.loads(body) == {"status": "unavailable", "database": "OperationalError"}
    assert "database-password" not in completed.stdout + completed.stderr


def probe_ready(url: str) -> tuple[int, dict[str, str]]:
    """Returns status and body of /ready, from a process on the database at `url`."""
    code = (
        "import django; django.setup()\n"
        "from django.test import Client\n"
        "response = Client(headers={'host': 'localhost'}).get('/ready')\n"
        "print(response.status_code, response.content.decode())\n"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=os.environ | {"DATABASE_URL": url}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    status, _, body = completed.stdout.partition(" ")
    return int(status), json.loads(body)


def test_ready_without_migrations_is_503(tmp_path):
    status, body = probe_ready(f"sqlite:///{tmp_path / 'empty.sqlite3'}")
    assert status == 503
    assert "run manage.py migrate" in body["database"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(os.environ.get("TEST_DATABASE") == "sqlite", reason="roles are PostgreSQL's")
def test_ready_on_read_only_database_is_503(tmp_path):
    url = shared_database(tmp_path)
    assert probe_ready(url) == (200, {"status": "ok"})
    status, body = probe_ready(f"{url}?options=-c%20default_transaction_read_only%3Don")
    assert (status, body["database"]) == (503, "read-only: default_transaction_read_only is on")
    with connection.cursor() as cursor:
        cursor.execute(
            # pragma: allowlist nextline secret - only for tests
            "CREATE ROLE reader LOGIN PASSWORD 'reader'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"
        )
    try:
        address = urlsplit(url)
        reader = address._replace(netloc=f"reader:reader@{address.netloc.rpartition('@')[2]}").geturl()
        assert probe_ready(reader)[1]["database"] == "read-only: this role may not write"
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP OWNED BY reader; DROP ROLE reader")


def test_ready_on_read_only_file_is_503(tmp_path):
    if os.getuid() == 0:
        pytest.skip("root may write everywhere")
    url = f"sqlite:///{tmp_path / 'file.sqlite3'}"
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=os.environ | {"DATABASE_URL": url}, check=True
    )
    (tmp_path / "file.sqlite3").chmod(0o444)
    assert probe_ready(url)[0] == 503
