"""Our own node in the catalog, compared with what its agent says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry_admin.consul import CheckResult, Health, ServiceInstance
from registry_admin.consul.own_node import compare

CRITICAL = CheckResult(id="a:http", name="", status="critical")
MAINTENANCE = CheckResult(id="_service_maintenance:a", name="", status="critical")
OURS = ServiceInstance(
    service="api", id="a", address="10.0.0.1", port=8000, tags=("x",), meta={"registry-owner": "us"},
    health=Health.PASSING, node="n1",
)  # fmt: skip
FOREIGN = replace(OURS, meta={})
MODULE = replace(OURS, meta={"registry-self": "d"})


def test_compare_catalog_like_the_agent_finds_nothing():
    assert not compare({"a": OURS}, {"a": replace(OURS, health=Health.UNKNOWN)}, {}).ids


def test_compare_instance_that_the_catalog_has_not_differs():
    assert compare({"a": OURS}, {}, {}).differing == {"a": "the catalog doesn't have it, so callers don't find it"}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"port": 1}, "port"),
        ({"address": "10.9.9.9", "weight": 5}, "address, weight"),
        ({"service": "other"}, "service"),
        ({"tags": ()}, "tags"),
        ({"meta": {"registry-owner": "them"}}, "meta"),
    ],
)
def test_compare_other_values_in_the_catalog_differ_by_name(change, names):
    differing = compare({"a": OURS}, {"a": replace(OURS, **change)}, {}).differing
    assert differing == {"a": f"the catalog has another {names} than its agent"}


def test_compare_tags_that_others_may_change_do_not_differ():
    instance = replace(OURS, tag_override=True)
    assert not compare({"a": instance}, {"a": replace(instance, tags=("theirs",))}, {}).ids


@pytest.mark.parametrize(
    ("health", "failing", "text"),
    [
        (Health.CRITICAL, {}, "the catalog shows it as passing, and its agent as critical"),
        (Health.PASSING, {"a": [CRITICAL]}, "the catalog shows it as critical, and its agent as passing"),
        (Health.PASSING, {"a": [MAINTENANCE]}, "the catalog shows it as maintenance, and its agent as passing"),
        (Health.CRITICAL, {"a": [CRITICAL]}, None),
        (Health.CRITICAL, {"": [CRITICAL]}, None),
        (Health.PASSING, {"b": [CRITICAL]}, None),
    ],
)
def test_compare_health_that_the_catalog_shows_otherwise_differs(health, failing, text):
    instance = replace(OURS, health=health)
    assert compare({"a": instance}, {"a": OURS}, failing).differing == ({"a": text} if text else {})


def test_compare_module_that_registers_itself_is_compared_and_a_stranger_is_not():
    assert compare({"a": MODULE}, {}, {}).ids == {"a"}
    assert not compare({"a": FOREIGN}, {}, {}).ids
    assert not compare({}, {"a": FOREIGN}, {}).ids


def test_compare_instance_that_only_the_catalog_has_is_an_orphan_of_unknown_health():
    (orphan,) = compare({}, {"a": OURS}, {}).orphans.values()
    assert (orphan.id, orphan.health) == ("a", Health.UNKNOWN)


def test_compare_id_that_differs_in_case_only_is_no_orphan():
    assert not compare({"A": replace(FOREIGN, id="A")}, {"a": OURS}, {}).ids
