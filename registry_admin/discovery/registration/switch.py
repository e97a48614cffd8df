"""Switch of the registration that a module's code asks for: its tests must not register whatever runs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath

from registry_admin.consul.registry import ServiceRegistry

_TRUE = frozenset({"1", "true", "yes", "on"})
_PYTEST = frozenset({"PYTEST_CURRENT_TEST", "PYTEST_VERSION"})  # set by it, and inherited by processes that tests start
_DJANGO_COMMANDS = frozenset({"manage.py", "django-admin"})


def may_register(registry: ServiceRegistry | None) -> bool:
    """Returns whether a module's code registers this process: always with a `registry` that it was given.

    With that of the environment SERVICE_AUTOREGISTER decides, or else whether this process runs tests.
    """
    if registry is not None:
        return True
    switch = read_switch(os.environ)
    return not is_test_run(sys.argv, os.environ, sys.modules) if switch is None else switch


def verifies_address(environ: Mapping[str, str]) -> bool:
    """Returns whether a process makes sure that it answers at its address: unless SERVICE_VERIFY_ADDRESS is 0."""
    return read_switch(environ, "SERVICE_VERIFY_ADDRESS") is not False


def read_switch(environ: Mapping[str, str], name: str = "SERVICE_AUTOREGISTER") -> bool | None:
    """Returns what a variable says, or None where it isn't set."""
    text = environ.get(name, "").strip().lower()
    return text in _TRUE if text else None


def is_test_run(argv: Sequence[str], environ: Mapping[str, str], modules: Collection[str]) -> bool:
    """Returns whether this process runs tests: by pytest, unittest or `manage.py test`."""
    if "pytest" in modules and _PYTEST & environ.keys():
        return True
    program = argv[0] if argv else ""
    return program.endswith("-m unittest") or (PurePath(program).name in _DJANGO_COMMANDS and argv[1:2] == ["test"])
