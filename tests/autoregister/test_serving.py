"""Detection of processes that serve, and so register themselves."""

from __future__ import annotations

import pytest

from registry_admin.autoregister.serving import is_serving


@pytest.mark.parametrize(
    "argv",
    [
        ["/venv/bin/gunicorn", "app.wsgi"],
        ["/venv/lib/site-packages/gunicorn/__main__.py", "app.wsgi"],
        ["uvicorn", "app.asgi:application"],
        ["C:/venv/Scripts/waitress-serve.exe", "app:wsgi"],
        ["daphne", "app.asgi:application"],
        ["hypercorn", "app.asgi"],
        ["granian", "app"],
        ["uwsgi"],
        ["manage.py", "runserver"],
        ["manage.py", "runserver", "--noreload"],
        ["/venv/lib/django/__main__.py", "runserver", "8000", "--noreload"],
    ],
    ids=" ".join,
)
def test_is_serving_server_is_true(argv):
    assert is_serving(argv, {})


@pytest.mark.parametrize(
    "argv",
    [
        *(["manage.py", command] for command in ("migrate", "test", "shell", "check", "collectstatic", "help")),
        ["manage.py"],
        ["django-admin", "migrate", "gunicorn"],
        ["celery", "-A", "app", "worker"],
        ["/venv/bin/pytest"],
        ["/venv/lib/pytest/__main__.py", "--noreload"],
        ["python", "gunicorn"],
        ["/opt/gunicorn/manage.py", "migrate"],
        ["gunicorn", "--check-config", "app.wsgi"],
        ["script.py"],
        [""],
        ["-c"],
        [],
    ],
    ids=" ".join,
)
def test_is_serving_other_program_is_false(argv):
    assert not is_serving(argv, {})


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("true", True), ("0", False), ("no", False)])
def test_is_serving_environment_overrides_the_arguments(value, expected):
    assert is_serving(["serve.py"], {"SERVICE_AUTOREGISTER": value}) is expected
    assert is_serving(["gunicorn", "app"], {"SERVICE_AUTOREGISTER": value}) is expected
