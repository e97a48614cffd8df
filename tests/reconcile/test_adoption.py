"""What registering an adopted instance changes."""

from __future__ import annotations

import pytest

from registry_admin.consul import CheckResult, CheckSpec
from registry_admin.reconcile.adoption import adoption_changes
from tests.reconcile.planning import foreign, spec

TCP = CheckResult(id="service:api-1", name="Service 'api' check", status="passing", type="tcp", interval="20s")


@pytest.mark.parametrize("kind", ["keep", "none"])
@pytest.mark.parametrize("checks", [(), (TCP,), (TCP, CheckResult(id="theirs", name="", status="passing"))])
def test_adoption_that_keeps_the_checks_changes_nothing(kind, checks):
    declared = spec(check=CheckSpec(kind=kind))
    assert adoption_changes(declared, foreign(declared, checks=checks)) == ()


def test_adoption_into_a_service_with_a_check_names_the_check_that_is_replaced():
    (change,) = adoption_changes(spec(), foreign(spec(), checks=(TCP,)))
    assert change.field == "check service:api-1"
    assert change.before.startswith("tcp, every 20s, and all that Consul doesn't show of it")
    assert change.after == str(spec().check)


@pytest.mark.parametrize(
    ("check_id", "before"), [("theirs", None), ("api-1:http", "another definition")], ids=["beside", "same ID"]
)
def test_adoption_into_a_service_with_a_check_names_the_check_that_is_added(check_id, before):
    check = CheckResult(id=check_id, name="", status="passing")
    (change,) = adoption_changes(spec(), foreign(spec(), checks=(check,)))
    assert (change.field, change.before, change.after) == ("check", before, str(spec().check))


def test_adoption_names_each_field_that_would_differ():
    actual = foreign(spec(tags=("old",), weight=5, meta={"a": "1"}), checks=(TCP,))
    changes = adoption_changes(spec(tags=("new",), check=CheckSpec(kind="keep")), actual)
    assert [change.field for change in changes] == ["weight", "tags", "meta.a"]
