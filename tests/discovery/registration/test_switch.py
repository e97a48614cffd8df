"""The switch of a module's registration: who runs tests, and what SERVICE_AUTOREGISTER says."""

from __future__ import annotations

import pytest

from registry_admin.discovery.registration.switch import is_test_run, read_switch


@pytest.mark.parametrize(
    ("argv", "environ", "modules", "expected"),
    [
        (["/venv/bin/pytest"], {"PYTEST_VERSION": "9"}, {"pytest"}, True),
        (["-c"], {"PYTEST_CURRENT_TEST": "test_api"}, {"pytest"}, True),
        (["/venv/bin/uvicorn"], {"PYTEST_CURRENT_TEST": "test_api"}, {}, False),  # which a test has started
        (["/venv/bin/uvicorn"], {}, {"pytest"}, False),
        (["python3 -m unittest"], {}, {}, True),
        (["manage.py", "test"], {}, {}, True),
        (["manage.py", "runserver"], {}, {}, False),
        ([], {}, {}, False),
    ],
)
def test_is_test_run_knows_who_runs_tests(argv, environ, modules, expected):
    assert is_test_run(argv, environ, modules) is expected


@pytest.mark.parametrize(("text", "expected"), [("1", True), (" Yes ", True), ("0", False), ("off", False), ("", None)])
def test_read_switch_of_no_text_is_none(text, expected):
    assert read_switch({"SERVICE_AUTOREGISTER": text}) is expected
    assert read_switch({}) is None
