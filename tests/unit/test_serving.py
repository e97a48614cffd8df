"""Which processes serve, and so may register themselves."""

from __future__ import annotations

import pytest

from registry_admin.autoregister.serving import serves


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
        ["manage.py", "runserver", "--noreload"],
        ["/venv/lib/django/__main__.py", "runserver", "8000", "--noreload"],
    ],
    ids=" ".join,
)
def test_servers_serve(argv):
    assert serves(argv, {})


@pytest.mark.parametrize(
    "argv",
    [
        *(["manage.py", command] for command in ("migrate", "test", "shell", "check", "collectstatic", "help")),
        ["manage.py"],
        ["django-admin", "migrate", "gunicorn"],
        ["manage.py", "runserver"],
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
def test_nothing_else_does(argv):
    assert not serves(argv, {})


def test_runserver_serves_in_the_child_of_its_reloader():
    assert serves(["manage.py", "runserver"], {"RUN_MAIN": "true"})
    assert not serves(["manage.py", "migrate"], {"RUN_MAIN": "true"})


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("true", True), ("0", False), ("no", False)])
def test_the_environment_can_say_so(value, expected):
    assert serves(["serve.py"], {"SERVICE_AUTOREGISTER": value}) is expected
    assert serves(["gunicorn", "app"], {"SERVICE_AUTOREGISTER": value}) is expected
