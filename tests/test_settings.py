"""Settings: safe in production by default; system checks name what is invalid; the documentation lists each."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.checks import run_checks

from registry_admin.errors import ConfigurationError
from registry_admin.inventory.cache import JsonSerializer
from registry_admin.inventory.conf import RegistrySettings, conf

pytestmark = pytest.mark.system

ROOT = Path(__file__).parent.parent
# pragma: allowlist nextline secret - only for tests
SECRET = "a-long-secret-for-this-test-only-0123456789-abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def python(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Returns `python("-c", …, DJANGO_DEBUG="1")`: runs Python with these variables only and an empty database."""

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


def test_check_deploy_with_secrets_finds_no_problem(python):
    completed = python(
        "manage.py", "check", "--deploy", "--fail-level", "WARNING",
        DJANGO_SECRET_KEY=SECRET, DJANGO_ALLOWED_HOSTS="registry.example",
    )  # fmt: skip
    assert (completed.returncode, completed.stderr) == (0, "")


def test_settings_without_debug_are_those_of_production(python):
    names = "DEBUG SECURE_SSL_REDIRECT SESSION_COOKIE_SECURE CSRF_COOKIE_SECURE SESSION_COOKIE_HTTPONLY"
    code = f"from django.conf import settings; print([bool(getattr(settings, n)) for n in {names.split()}])"
    assert python("-c", code).stdout == "[False, True, True, True, True]\n"
    assert python("-c", code, DJANGO_DEBUG="1").stdout == "[True, False, False, False, True]\n"
    assert python("-c", code, DJANGO_HTTPS="0").stdout == "[False, False, False, False, True]\n"


@pytest.mark.parametrize("server", ["wsgi", "asgi"])
def test_server_without_secret_key_refuses_to_start(python, server):
    load = ("-c", f"import registry_admin.{server}")
    refusal = python(*load)
    assert refusal.returncode != 0
    assert "DJANGO_SECRET_KEY is not set. Set it to a long random text" in refusal.stderr
    assert python(*load, DJANGO_DEBUG="1").returncode == 0
    assert python(*load, DJANGO_SECRET_KEY=SECRET).returncode == 0


def test_command_without_secret_key_runs(python):
    assert python("manage.py", "migrate", "-v0").returncode == 0


def test_trusted_proxies_are_those_that_gunicorn_believes(python):
    code = "from django.conf import settings; print(settings.TRUSTED_PROXIES)"
    assert python("-c", code).stdout == "['127.0.0.1', '::1']\n"
    assert python("-c", code, FORWARDED_ALLOW_IPS="").stdout == "['127.0.0.1', '::1']\n"
    assert python("-c", code, FORWARDED_ALLOW_IPS="10.0.0.0/8, ::1").stdout == "['10.0.0.0/8', '::1']\n"
    refusal = python("-c", code, FORWARDED_ALLOW_IPS="10.0.0.1/8")
    assert "FORWARDED_ALLOW_IPS: give addresses and networks of proxies, or *" in refusal.stderr


def test_redis_cache_serializes_as_json(python):
    code = "from django.core.cache import cache; print(type(cache._cache._serializer).__name__)"
    completed = python("-c", f"import django; django.setup(); {code}", REDIS_URL="redis://127.0.0.1:1/0")
    assert completed.stdout == "JsonSerializer\n"


def test_redis_cache_of_another_database_has_other_keys(python):
    code = "import django; django.setup(); from django.core.cache import cache; print(cache.make_key('sums'))"
    urls = ["postgres://a:b@one/inventory", "postgres://c:d@one/inventory", "postgres://a:b@two/inventory"]
    one, same, other = [python("-c", code, REDIS_URL="redis://127.0.0.1:1/0", DATABASE_URL=url).stdout for url in urls]
    assert one.startswith("registry-admin:")
    assert (one == same, one == other) == (True, False)


@pytest.mark.parametrize("value", [True, None, "text", 1.5, [1, "a"], {"a": {"b": None}}])
def test_json_serializer_round_trips_value(value):
    assert JsonSerializer().loads(JsonSerializer().dumps(value)) == value


def test_json_serializer_keeps_integers_for_redis_incr():
    assert JsonSerializer().dumps(7) == 7
    assert JsonSerializer().loads(b"8") == 8


def test_json_serializer_rejects_pickle():
    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return os.putenv, ("PICKLE_WAS_LOADED", "1")

    with pytest.raises(ValueError, match=r"utf-8|Expecting"):
        JsonSerializer().loads(pickle.dumps(Malicious()))


# -- settings of the inventory ----------------------------------------------------------------------------------------


def problem_ids(*, deploy: bool = False) -> set[str]:
    problems = run_checks(include_deployment_checks=deploy)
    return {str(problem.id) for problem in problems if str(problem.id).startswith("registry.")}


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("OWNER", "a/b", "registry.E001"), ("OWNER", "", "registry.E001"), ("PASS_INTERVAL", "10", "registry.E002"),
        ("PASS_INTERVAL", "0s", "registry.E002"), ("STALE_AFTER", "soon", "registry.E003"),
        ("CONSUL_TIMEOUT", "-1s", "registry.E004"), ("SYNC_ON_SAVE", "maybe", "registry.E005"),
        ("HISTORY_KEPT", "30d", "registry.E007"), ("HISTORY_KEPT", "59m", "registry.E007"),
    ],
)  # fmt: skip
def test_invalid_setting_is_reported_by_its_system_check(settings, key, value, code):
    assert problem_ids() == set()
    settings.REGISTRY = {key: value}
    assert problem_ids() == {code}
    (problem,) = [problem for problem in run_checks() if problem.id == code]
    assert f"REGISTRY['{key}']" in problem.msg
    assert f"REGISTRY_{key}" in problem.msg


@pytest.mark.parametrize("variable", ["CONSUL_HTTP_ADDR", "CONSUL_HTTP_SSL", "CONSUL_CACERT", "CONSUL_HTTP_TOKEN_FILE"])
def test_invalid_consul_address_is_reported_by_system_check(monkeypatch, variable):
    monkeypatch.setenv(variable, "ftp://nonsense")
    assert problem_ids() == {"registry.E006"}


@pytest.mark.parametrize(
    ("address", "token", "codes"),
    [
        ("http://consul.example:8500", "secret", {"registry.W001"}), ("http://consul.example:8500", "", set()),
        ("https://consul.example:8500", "secret", set()), ("http://127.0.0.1:8500", "secret", set()),
    ],
)  # fmt: skip
def test_check_deploy_warns_of_token_sent_without_tls(monkeypatch, address, token, codes):
    monkeypatch.setenv("CONSUL_HTTP_ADDR", address)
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", token)
    assert problem_ids(deploy=True) == codes
    messages = [problem.msg for problem in run_checks(include_deployment_checks=True) if problem.id == "registry.W001"]
    assert len(messages) == len(codes)
    assert "secret" not in str(messages)


def test_settings_are_read_on_each_access(settings):
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


def test_registry_settings_are_read_from_environment(python):
    code = "from django.conf import settings; print(settings.REGISTRY)"
    assert python("-c", code).stdout == "{}\n"
    assert python("-c", code, REGISTRY_OWNER="us", REGISTRY_NONSENSE="1").stdout == "{'OWNER': 'us'}\n"


@pytest.mark.parametrize("setting", RegistrySettings.declarations(), ids=lambda setting: setting.key)
def test_declared_setting_is_set_by_its_environment_variable(python, setting):
    code = "from django.conf import settings; print(settings.REGISTRY)"
    completed = python("-c", code, **{RegistrySettings.variable(setting): str(setting.default)})
    assert completed.stdout == f"{ {setting.key: setting.default} }\n"


@pytest.mark.parametrize("setting", RegistrySettings.declarations(), ids=lambda setting: setting.key)
def test_declared_setting_has_a_valid_default_and_a_system_check(settings, setting):
    settings.REGISTRY = {}
    assert setting.value(conf) is not None
    assert problem_ids() == set()
    settings.REGISTRY = {setting.key: ""}
    assert problem_ids() == {setting.check_id}


def test_settings_page_lists_each_declared_setting():
    lines = (ROOT / "docs" / "reference" / "settings.md").read_text().partition("## Syncing")[2].splitlines()
    assert [line for line in lines if line.startswith("| `REGISTRY_")] == RegistrySettings.documentation_rows()
