"""Updating many rows at once: every kind of column gets its own value, and nobody else's row is touched."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from registry_admin.inventory.bulk import BATCH, update_rows
from registry_admin.inventory.models import Instance, ObservedInstance, Service

pytestmark = pytest.mark.django_db

AWKWARD = """back\\slash, "quotes", 'single', {braces}, comma, NULL, %s, naïve 你好"""


def observed(count: int) -> list[int]:
    rows = [ObservedInstance(consul_id=f"i{number}", service_name="api", port=number) for number in range(count)]
    return [row.pk for row in ObservedInstance.objects.bulk_create(rows)]


def test_every_kind_of_column_gets_its_own_value():
    first, second = observed(2)
    since = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
    fields = ["port", "address", "registered_itself", "tags", "meta", "checks", "health_since"]
    values = [
        (81, AWKWARD, True, [AWKWARD, ""], {"a": AWKWARD}, [{"output": AWKWARD, "n": None}], since),
        (-1, "", False, [], {}, [], since.replace(year=1999)),
    ]
    update_rows(ObservedInstance, [(first, *values[0]), (second, *values[1])], fields)
    found = {row[0]: row[1:] for row in ObservedInstance.objects.values_list("pk", *fields)}
    assert found == {first: values[0], second: values[1]}


def test_nothing_is_a_value_too():
    service = Service.objects.create(name="api")
    pks = [Instance.objects.create(service=service, address="10.0.0.1", port=port).pk for port in (1, 2)]
    now = datetime(2026, 11, 23, tzinfo=UTC)
    update_rows(Instance, [(pks[0], now), (pks[1], None)], ["evicted_at"])
    assert dict(Instance.objects.values_list("pk", "evicted_at")) == {pks[0]: now, pks[1]: None}
    update_rows(Instance, [(pk, None) for pk in pks], ["evicted_at"])
    assert set(Instance.objects.values_list("evicted_at", flat=True)) == {None}


def test_more_rows_than_fit_into_one_statement_and_none_besides():
    keys = observed(BATCH + 2)
    update_rows(ObservedInstance, [(key, f"new-{key}") for key in keys[:-1]], ["address"])
    found = dict(ObservedInstance.objects.values_list("pk", "address"))
    assert found == {key: f"new-{key}" for key in keys[:-1]} | {keys[-1]: ""}


def test_no_rows_are_no_query(django_assert_num_queries):
    with django_assert_num_queries(0):
        update_rows(ObservedInstance, [], ["address"])


def test_a_row_that_has_gone_meanwhile_is_passed_over():
    (key,) = observed(1)
    update_rows(ObservedInstance, [(key, "new"), (key + 1, "gone")], ["address"])
    assert list(ObservedInstance.objects.values_list("address", flat=True)) == ["new"]
