"""Differences between a declaration and its instance, field by field."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry_admin.reconcile.diff import diff_fields
from registry_admin.reconcile.diffed_fields import DIFFED_FIELDS
from tests.reconcile.planning import registered, spec

OTHER_VALUES = {
    "name": {"service": "other"}, "address": {"address": "10.9.9.9"}, "port": {"port": 9},
    "weight": {"weight": 9}, "warning_weight": {"warning_weight": 9}, "tag_override": {"tag_override": True},
    "tagged_addresses": {"tagged_addresses": {"wan": "10.0.0.9:80"}}, "tags": {"tags": ("other",)},
    "meta": {"meta": {"other": "x"}},
}  # fmt: skip


def test_diffed_fields_are_all_fields_of_a_spec_but_the_check():
    declared = spec(warning_weight=0, tag_override=True, tagged_addresses={"wan": "10.0.0.9:80"})
    assert {field.name for field in DIFFED_FIELDS} == declared.fields.keys() - {"check"}


@pytest.mark.parametrize("field", DIFFED_FIELDS, ids=lambda field: field.name)
def test_diffed_field_that_differs_is_a_change_of_that_name(field):
    declared, instance = spec(), registered(spec())
    assert diff_fields(declared, instance) == ()
    changed = OTHER_VALUES[field.name]
    if field.name == "meta":
        changed = {"meta": {**instance.meta, "other": "x"}}
    (change,) = diff_fields(declared, replace(instance, **changed))
    assert change.field.partition(".")[0] == field.name
