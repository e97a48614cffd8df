"""The settings: safe in production by default, and whatever is wrong is named before anything runs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.checks import run_checks

from registry_admin.dashboard.cache import JsonSerializer
from registry_admin.errors import ConfigurationError
from registry_admin.inventory.conf import conf

ROOT = Path(__file__).parent.parent.parent
SECRET = "a-long-secret-for-this-test-only-0123456789-abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def python(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`python("-c", …, DJANGO_DEBUG="1")`: Python in a process that has these variables only; its database is empty."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "DJANGO_SETTINGS_MODULE": "registry_admin.settings",
            "DATABASE_URL": f"sqlite:///{tmp_path / 'empty.sqlite3'}",
        }
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT, env=environment | variables, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return run


def test_a_deployment_with_its_secrets_passes_every_check(python):
    done = python(
        "manage.py", "check", "--deploy", "--fail-level", "WARNING",
        DJANGO_SECRET_KEY=SECRET, DJANGO_ALLOWED_HOSTS="registry.example",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_production_is_the_default(python):
    names = "DEBUG SECURE_SSL_REDIRECT SESSION_COOKIE_SECURE CSRF_COOKIE_SECURE SESSION_COOKIE_HTTPONLY"
    code = f"from django.conf import settings; print([bool(getattr(settings, n)) for n in {names.split()}])"
    assert python("-c", code).stdout == "[False, True, True, True, True]\n"
    assert python("-c", code, DJANGO_DEBUG="1").stdout == "[True, False, False, False, True]\n"
    assert python("-c", code, DJANGO_HTTPS="0").stdout == "[False, False, False, False, True]\n"


@pytest.mark.parametrize("server", ["wsgi", "asgi"])
def test_without_a_secret_key_nothing_is_served(python, server):
    load = ("-c", f"import registry_admin.{server}")
    refused = python(*load)
    assert refused.returncode != 0
    assert "DJANGO_SECRET_KEY is not set. Set it to a long random text" in refused.stderr
    assert python(*load, DJANGO_DEBUG="1").returncode == 0
    assert python(*load, DJANGO_SECRET_KEY=SECRET).returncode == 0


def test_without_a_secret_key_commands_work_all_the_same(python):
    assert python("manage.py", "migrate", "-v0").returncode == 0


def test_redis_is_asked_for_json_and_never_for_pickles(python):
    code = "from django.core.cache import cache; print(type(cache._cache._serializer).__name__)"
    done = python("-c", f"import django; django.setup(); {code}", REDIS_URL="redis://127.0.0.1:1/0")
    assert done.stdout == "JsonSerializer\n"


@pytest.mark.parametrize("value", [True, None, "text", 1.5, [1, "a"], {"a": {"b": None}}])
def test_what_is_cached_comes_back(value):
    assert JsonSerializer().loads(JsonSerializer().dumps(value)) == value


def test_a_whole_number_is_stored_so_that_redis_can_count_with_it():
    assert JsonSerializer().dumps(7) == 7
    assert JsonSerializer().loads(b"8") == 8


def test_a_pickle_that_lies_in_the_cache_is_not_opened():
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.putenv, ("PICKLE_WAS_OPENED", "1")

    with pytest.raises(ValueError, match=r"utf-8|Expecting"):
        JsonSerializer().loads(pickle.dumps(Evil()))


# -- the settings of the registry, and the system checks --------------------------------------------------------------


def found() -> set[str]:
    return {problem.id for problem in run_checks() if str(problem.id).startswith("registry.")}


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("OWNER", "a/b", "registry.E001"), ("OWNER", "", "registry.E001"), ("PASS_INTERVAL", "10", "registry.E002"),
        ("PASS_INTERVAL", "0s", "registry.E002"), ("STALE_AFTER", "soon", "registry.E003"),
        ("CONSUL_TIMEOUT", "-1s", "registry.E004"), ("SYNC_ON_SAVE", "maybe", "registry.E005"),
        ("HISTORY_KEPT", "30d", "registry.E007"), ("HISTORY_KEPT", "59m", "registry.E007"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_by_a_system_check(settings, key, value, code):
    assert found() == set()
    settings.REGISTRY = {key: value}
    assert found() == {code}
    (problem,) = [problem for problem in run_checks() if problem.id == code]
    assert f"REGISTRY['{key}']" in problem.msg
    assert f"REGISTRY_{key}" in problem.msg


@pytest.mark.parametrize("variable", ["CONSUL_HTTP_ADDR", "CONSUL_HTTP_SSL", "CONSUL_CACERT", "CONSUL_HTTP_TOKEN_FILE"])
def test_a_wrong_address_of_consul_is_named_by_a_system_check(monkeypatch, variable):
    monkeypatch.setenv(variable, "ftp://nonsense")
    assert found() == {"registry.E006"}


@pytest.mark.parametrize(
    ("address", "token", "codes"),
    [
        ("http://consul.example:8500", "secret", {"registry.W001"}), ("http://consul.example:8500", "", set()),
        ("https://consul.example:8500", "secret", set()), ("http://127.0.0.1:8500", "secret", set()),
    ],
)  # fmt: skip
def test_a_token_in_the_clear_to_another_machine_is_warned_of(monkeypatch, address, token, codes):
    monkeypatch.setenv("CONSUL_HTTP_ADDR", address)
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", token)
    problems = run_checks(include_deployment_checks=True)
    assert {problem.id for problem in problems if str(problem.id).startswith("registry.")} == codes
    assert "secret" not in str([problem.msg for problem in problems if problem.id == "registry.W001"])


def test_settings_are_read_anew_each_time(settings):
    settings.REGISTRY = {}
    assert (conf.owner, conf.pass_interval_s, conf.stale_after_s, conf.sync_on_save) == (
        "registry-admin",
        300,
        90,
        True,
    )
    settings.REGISTRY = {"OWNER": "us", "PASS_INTERVAL": "1m", "SYNC_ON_SAVE": "false"}
    assert (conf.owner, conf.pass_interval_s, conf.sync_on_save) == ("us", 60, False)
    settings.REGISTRY = {"OWNER": "a b"}
    with pytest.raises(ConfigurationError, match="OWNER"):
        _ = conf.owner


def test_the_environment_reaches_the_settings(python):
    code = "from django.conf import settings; print(settings.REGISTRY)"
    assert python("-c", code).stdout == "{}\n"
    assert python("-c", code, REGISTRY_OWNER="us", REGISTRY_NONSENSE="1").stdout == "{'OWNER': 'us'}\n"
