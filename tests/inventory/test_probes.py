"""/health and /ready: whether this process lives, and whether it can do its work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.test import Client

ROOT = Path(__file__).parent.parent.parent


def test_alive_without_asking_anybody(client: Client):
    response = client.get("/health")  # this test may not touch the database
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert "no-store" in response.headers["Cache-Control"]


@pytest.mark.django_db
def test_ready_while_the_database_answers_even_without_consul(client: Client):
    response = client.get("/ready")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("url", ["/health", "/ready"])
def test_probes_are_only_read(client: Client, url):
    assert client.post(url).status_code == 405


@pytest.mark.django_db
def test_probes_come_by_plain_http_even_where_pages_do_not(client: Client, settings):
    settings.SECURE_SSL_REDIRECT = True
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    assert client.get("/admin/").status_code == 301


def test_not_ready_while_the_database_is_away():
    code = (
        "import django; django.setup()\n"
        "from django.test import Client\n"
        "for path in ('/health', '/ready'):\n"
        "    response = Client(headers={'host': 'localhost'}).get(path)\n"
        "    print(response.status_code, response.content.decode())\n"
    )
    environment = os.environ | {"DATABASE_URL": "postgres://me:database-password@127.0.0.1:1/none"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    (health, ready) = done.stdout.splitlines()
    assert health == '200 {"status": "ok"}'
    status, _, body = ready.partition(" ")
    assert status == "503"
    assert json.loads(body) == {"status": "unavailable", "database": "OperationalError"}
    assert "database-password" not in done.stdout + done.stderr
