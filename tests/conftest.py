"""The plug-ins with the fixtures of the whole suite, and the markers that tell what a test needs."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType

import hypothesis
import pytest

hypothesis.settings.register_profile(  # no test asserts a time
    "suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")

pytest_plugins = [
    "tests.fixtures.consul",
    "tests.fixtures.discovery",
    "tests.fixtures.django",
    "tests.fixtures.redis",
    "tests.fixtures.servers",
    "tests.fixtures.sockets",
    "tests.fixtures.transports",
]

# A test that uses one of these fixtures gets the marker …
MARKED_BY_FIXTURES = {
    "consul": {
        "consul_agent",
        "make_agent",
        "nodes",
        "make_certificates",
        "agent",
        "guarded_agent",
        "versioned",
        "versioned_guarded",
        "hostile_consul",
    },
    "cluster": {"make_cluster"},
    "postgres": {"db", "transactional_db"},
    "browser": {"chromium"},
}
# … and so does one that refers to one of these names, in itself or in a fixture that it uses.
MARKED_BY_NAMES = {
    "consul": {"ConsulAgent", "ConsulCluster", "consul_binary"},
    "cluster": {"ConsulCluster"},
}
IMPLIED = {"cluster": "consul"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test by what it uses, so that `-m "not consul"` needs no list of its own."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if item.get_closest_marker("django_db"):
            fixtures.add("db")
        names = names_used(item)
        for marker, marking in MARKED_BY_FIXTURES.items():
            if fixtures & marking or names & MARKED_BY_NAMES.get(marker, set()):
                item.add_marker(marker)
        for marker, implied in IMPLIED.items():
            if item.get_closest_marker(marker):
                item.add_marker(implied)


def names_used(item: pytest.Item) -> set[str]:
    """Returns the global names that the test and its fixtures refer to, calls of other functions aside.

    Pytest has no public way from a test to the functions of its fixtures.
    """
    definitions = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    functions = [
        getattr(item, "function", None),
        *(definition.func for same_name in definitions.values() for definition in same_name),
    ]
    codes = (getattr(function, "__code__", None) for function in functions)
    return {name for code in codes if code for name in names_in(code)}


def names_in(code: CodeType) -> Iterator[str]:
    """Yields the names that a function refers to, those within its inner functions included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Shortens the ID of a test with a long parameter, so that it fits on a line."""
    if isinstance(val, str | bytes) and len(val) > 60:
        return ascii(val[:60])
    return "a-huge-number" if isinstance(val, int) and abs(val) > 10**60 else None
