"""No secret of the environment is in any output, log line, page or exception, whichever part fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CANARY = "canary"  # is in each secret, and in nothing else
ENVIRONMENT = {
    # pragma: allowlist nextline secret - only for tests
    "DATABASE_URL": "postgres://me:canary-database@127.0.0.1:1/none",
    # pragma: allowlist nextline secret - only for tests
    "REDIS_URL": "redis://me:canary-redis@127.0.0.1:1/0",
    "CONSUL_HTTP_ADDR": "127.0.0.1:1",
    "CONSUL_HTTP_TOKEN": "canary-consul",
    # pragma: allowlist nextline secret - only for tests
    "DJANGO_SECRET_KEY": "canary-django-0123456789-abcdefghijklmnopqrstuvwxyz-0123",
    "REGISTRY_REPORT_TOKEN": "canary-report",
    "REGISTRY_METRICS_TOKEN": "canary-metrics",
    "DJANGO_HTTPS": "0",
    "LOG_LEVEL": "DEBUG",
    "DJANGO_SETTINGS_MODULE": "registry_admin.settings",
}
# Uses each part, and prints all that a person could see of it.
PROGRAM = """
import logging, traceback
logging.basicConfig(level=0)

def show(use):
    try:
        print(use())
    except BaseException as error:
        traceback.print_exc()
        print(repr(error), str(error), vars(error))

def page(method, path, **options):
    response = getattr(client, method)(path, **options)
    return method, path, response.status_code, dict(response.headers), response.content.decode()

def as_bearer(token):
    return {"content_type": "application/json", "headers": {"Authorization": f"Bearer {token}"}}

from registry_admin.consul import ConsulConfig
from registry_admin.discovery import ServiceRegistry, call_service
show(ConsulConfig.from_env)
show(lambda: vars(ServiceRegistry.from_env()))
show(lambda: ServiceRegistry.from_env().discover_all_services())
show(lambda: ServiceRegistry.from_env().register_service(name="api", address="127.0.0.1", port=1))
show(lambda: call_service("api", "/?key=canary", json={"a": "canary"}, headers={"X": "canary"}, timeout=0.5))

import django
django.setup()
from django.core.cache import cache
from django.core.management import call_command
from django.test import Client
from registry_admin.inventory.cache import CacheGuard
client = Client(headers={"host": "localhost"}, raise_request_exception=False)
show(lambda: page("get", "/ready"))
show(lambda: page("get", "/admin/login/"))
show(lambda: page("post", "/admin/login/", data={"username": "ada", "password": "canary-password"}))
show(lambda: page("get", "/metrics", **as_bearer("canary-metrics")))
show(lambda: page("post", "/api/calls", data="{}", **as_bearer("canary-report")))
show(lambda: page("post", "/api/calls", data="{}", **as_bearer("canary-wrong")))
show(lambda: CacheGuard().call(lambda: cache.get("key")))
for command in ("check", "migrate", "sync_registry", "prune_history", "export_registry"):
    show(lambda: call_command(command))
"""


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, ["'/ready', 503", "'/admin/login/', 503", "'/metrics', 503", "(REDIS_URL) can't be used"]),
        ({"LOG_FORMAT": "json"}, ["'/ready', 503", "(REDIS_URL) can't be used"]),
        # pragma: allowlist nextline secret - only for tests
        ({"DATABASE_URL": "postgres://me:canary/base@127.0.0.1:1/none"}, ["DATABASE_URL is no URL", "as %2F"]),
        # pragma: allowlist nextline secret - only for tests
        ({"DATABASE_URL": "postgres://me:canary?base@127.0.0.1:1/none"}, ["DATABASE_URL is no URL"]),
        # pragma: allowlist nextline secret - only for tests
        ({"REDIS_URL": "redis://:canary/redis@127.0.0.1:1/0"}, ["REDIS_URL is no URL"]),
        # pragma: allowlist nextline secret - only for tests
        ({"CONSUL_HTTP_ADDR": "http://me:canary-consul@127.0.0.1:1"}, ["CONSUL_HTTP_ADDR"]),
        ({"CONSUL_HTTP_TOKEN": "canary\nconsul"}, ["CONSUL_HTTP_TOKEN"]),
    ],
    ids=["all away", "JSON logs", "slash", "question mark", "Redis", "Consul's address", "Consul's token"],
)
def test_no_secret_is_printed_while_parts_are_away_or_set_wrongly(changed, expected):
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    environment = inherited | ENVIRONMENT | changed
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    output = result.stdout + result.stderr
    for text in expected:
        assert text in output
    assert [line for line in output.splitlines() if CANARY in line and 'File "<string>"' not in line] == []
