"""The markers that tests get by what they use: `-m "not consul"` must leave those that need nothing."""

from __future__ import annotations

import pytest

NEEDS = {"consul", "cluster", "postgres", "browser", "system", "network"}


def needs_of(request: pytest.FixtureRequest) -> set[str]:
    return {marker.name for marker in request.node.iter_markers()} & NEEDS


def test_test_that_uses_nothing_has_no_marker(request):
    assert needs_of(request) == set()


def test_test_that_uses_an_agent_is_marked(request, consul_agent):
    assert needs_of(request) == {"consul"}
