"""Bulk updates: values per row for every column type, without effect on other rows."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from registry_admin.inventory.bulk_update import BATCH, update_rows
from registry_admin.inventory.models import Instance, ObservedInstance, Service

pytestmark = pytest.mark.django_db

AWKWARD = """back\\slash, "quotes", 'single', {braces}, comma, NULL, %s, naïve 你好"""


def observed(count: int) -> list[int]:
    rows = [ObservedInstance(consul_id=f"i{number}", service_name="api", port=number) for number in range(count)]
    return [row.pk for row in ObservedInstance.objects.bulk_create(rows)]


def test_update_rows_writes_a_value_per_row_for_every_column_type():
    first, second = observed(2)
    since = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
    fields = ["port", "address", "registered_itself", "tags", "meta", "checks", "health_since"]
    values = [
        (81, AWKWARD, True, [AWKWARD, ""], {"a": AWKWARD}, [{"output": AWKWARD, "n": None}], since),
        (-1, "", False, [], {}, [], since.replace(year=1999)),
    ]
    update_rows(ObservedInstance, [(first, *values[0]), (second, *values[1])], fields)
    actual = {row[0]: row[1:] for row in ObservedInstance.objects.values_list("pk", *fields)}
    assert actual == {first: values[0], second: values[1]}


def test_update_rows_writes_null():
    service = Service.objects.create(name="api")
    pks = [Instance.objects.create(service=service, address="10.0.0.1", port=port).pk for port in (1, 2)]
    now = datetime(2026, 11, 23, tzinfo=UTC)
    update_rows(Instance, [(pks[0], now), (pks[1], None)], ["evicted_at"])
    assert dict(Instance.objects.values_list("pk", "evicted_at")) == {pks[0]: now, pks[1]: None}
    update_rows(Instance, [(pk, None) for pk in pks], ["evicted_at"])
    assert set(Instance.objects.values_list("evicted_at", flat=True)) == {None}


def test_update_rows_larger_than_a_batch_updates_only_given_rows():
    keys = observed(BATCH + 2)
    update_rows(ObservedInstance, [(key, f"new-{key}") for key in keys[:-1]], ["address"])
    actual = dict(ObservedInstance.objects.values_list("pk", "address"))
    assert actual == {key: f"new-{key}" for key in keys[:-1]} | {keys[-1]: ""}


def test_update_rows_without_rows_runs_no_query(django_assert_num_queries):
    with django_assert_num_queries(0):
        update_rows(ObservedInstance, [], ["address"])


def test_update_rows_with_a_deleted_row_skips_it():
    (key,) = observed(1)
    update_rows(ObservedInstance, [(key, "new"), (key + 1, "gone")], ["address"])
    assert list(ObservedInstance.objects.values_list("address", flat=True)) == ["new"]
