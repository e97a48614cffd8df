"""Importing again and again, in any order: an import is matched with the inventory, and collisions are found before."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import IntegrityError

from registry_admin.inventory.exchange import DocumentError, Import, export_document, prepare_import
from registry_admin.inventory.models import Instance, Service

pytestmark = pytest.mark.django_db(transaction=True)

Place = tuple[str, str, int, str]  # service, address, port and service ID


def document(**services: list[dict[str, Any]]) -> str:
    return json.dumps({"format": 1, "services": [{"name": key, "instances": rows} for key, rows in services.items()]})


def at(port: int, consul_id: str = "", address: str = "10.0.0.1", **fields: Any) -> dict[str, Any]:
    return {"address": address, "port": port} | ({"id": consul_id} if consul_id else {}) | fields


def apply(text: str, **options: Any) -> Import:
    """Imports, and asserts that the same import again has nothing to do."""
    result = prepare_import(text, **options)
    result.apply()
    again = prepare_import(text, **options)
    assert again.changes == []
    again.apply()
    return result


def places() -> set[Place]:
    return set(Instance.objects.values_list("service__name", "address", "port", "consul_id"))


def problems(text: str, **options: Any) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        prepare_import(text, **options)
    return [str(problem) for problem in caught.value.problems]


def test_import_keeps_a_given_id_that_was_the_default_of_the_former_address():
    apply(document(api=[at(80)]))
    pk = Instance.objects.get().pk
    apply(document(api=[at(80, "api-10.0.0.1-80", address="10.0.0.2")]))
    assert places() == {("api", "10.0.0.2", 80, "api-10.0.0.1-80")}
    assert Instance.objects.get().pk == pk


def test_import_after_an_address_was_edited_in_an_export_has_no_changes():
    apply(document(api=[at(80), at(81, "x-1")]))
    edited = export_document(Service.objects.all()).replace("10.0.0.1\n    port", "10.0.0.9\n    port")
    apply(edited)
    assert {address for _, address, _, _ in places()} == {"10.0.0.9"}
    assert prepare_import(export_document(Service.objects.all())).changes == []


@pytest.mark.parametrize(
    "address", ["2001:DB8::0001", "::ffff:10.0.0.1", "db.example.com.", "10.0.0.1"],
)  # fmt: skip
def test_import_matches_an_address_in_any_spelling(address):
    apply(document(api=[at(80, address=address, weight=2)]))
    assert Instance.objects.count() == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param([at(1, "a"), at(2, "b")], [at(2, "a"), at(1, "b")], id="swapped ports"),
        pytest.param([at(1, "a"), at(2, "b")], [at(1, "b"), at(2, "a")], id="swapped IDs"),
        pytest.param(
            [at(1, "a", "10.0.0.1"), at(1, "b", "10.0.0.2")], [at(1, "a", "10.0.0.2"), at(1, "b", "10.0.0.1")],
            id="swapped addresses",
        ),
        pytest.param(
            [at(1, "a"), at(2, "b"), at(3, "c")], [at(2, "a"), at(3, "b"), at(4, "c")], id="shifted to a new port"
        ),
        pytest.param([at(1, "a"), at(2, "b"), at(3, "c")], [at(2, "a"), at(3, "b"), at(1, "c")], id="rotated"),
        pytest.param([at(1, "a")], [at(1, "b")], id="new ID at the same address"),
        pytest.param([at(1, "a")], [at(2, "a"), at(1, "b")], id="another takes the former address"),
        pytest.param([at(1), at(2)], [at(1, "api-10.0.0.1-2"), at(2, "api-10.0.0.1-1")], id="each other's default ID"),
        pytest.param([at(1), at(2, "b")], [at(2), at(3, "b")], id="a default ID at a former address"),
    ],
)  # fmt: skip
def test_import_of_instances_that_take_over_values_from_one_another(before, after):
    apply(document(api=before))
    apply(document(api=after), delete_unlisted=True)
    assert places() == {
        ("api", row["address"], row["port"], row.get("id", f"api-{row['address']}-{row['port']}")) for row in after
    }


def test_import_swaps_ids_across_services():
    apply(document(a=[at(1, "x")], b=[at(2, "y")]))
    apply(document(a=[at(1, "y")], b=[at(2, "x")]))
    assert places() == {("a", "10.0.0.1", 1, "y"), ("b", "10.0.0.1", 2, "x")}


@pytest.mark.parametrize("delete_unlisted", [False, True])
def test_import_moves_an_instance_between_listed_services(delete_unlisted):
    apply(document(a=[at(1, "x")], b=[]))
    pk = Instance.objects.get().pk
    result = apply(document(a=[], b=[at(1, "x")]), delete_unlisted=delete_unlisted)
    assert [change.fields for change in result.changes] == [(("service", "a", "b"),)]
    assert result.names == {"a", "b"}
    assert places() == {("b", "10.0.0.1", 1, "x")}
    assert Instance.objects.get().pk == pk
    assert Instance.history.first().service.name == "b"


def test_import_moves_an_instance_to_a_new_service_as_its_own_is_deleted():
    apply(document(old=[at(1, "x"), at(2, "y")]))
    pk = Instance.objects.get(consul_id="x").pk
    apply(document(new=[at(1, "x")]), delete_unlisted=True)
    assert places() == {("new", "10.0.0.1", 1, "x")}
    assert Instance.objects.get().pk == pk


def test_import_replaces_a_deleted_instance_at_the_same_address():
    apply(document(a=[at(1, "x")]))
    apply(document(a=[], b=[at(1, "y")]), delete_unlisted=True)
    assert places() == {("b", "10.0.0.1", 1, "y")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (document(a=[at(2, "x")]), "instances[1]: id: other has an instance of this ID at 10.0.0.1:9"),
        (document(a=[at(3, "k"), at(3, "l")]), "address: the same address and port as services[1] 'a', instances[1]"),
        (document(a=[at(3, "k")], b=[at(4, "K")]), "'b', instances[1]: id: the same service ID as services[1] 'a'"),
        (document(a=[at(2, "k")]), "address: the same address and port as stays, not in the document"),
        (document(a=[at(5, "a-10.0.0.1-6"), at(6)]), "id: the same service ID as services[1] 'a', instances[1]"),
    ],
)  # fmt: skip
def test_import_collision_is_found_in_the_dry_run_and_names_both(text, expected):
    apply(document(a=[at(1, "k"), at(2, "stays")], other=[at(9, "x")]))
    before = places()
    assert any(expected in problem for problem in problems(text)), problems(text)
    assert places() == before


def test_import_over_a_concurrent_change_says_so():
    result = prepare_import(document(api=[at(1)]))
    Instance.objects.create(
        service=Service.objects.create(name="web"), address="10.0.0.1", port=1, consul_id="api-10.0.0.1-1"
    )
    with pytest.raises(DocumentError, match="somebody has changed the inventory meanwhile") as caught:
        result.apply()
    assert isinstance(caught.value.__cause__, IntegrityError)
    assert set(Service.objects.values_list("name", flat=True)) == {"web"}


@pytest.mark.parametrize("text", ["\x00", "\ud800", "a\udfffb"])
def test_import_of_text_that_no_database_takes_is_refused(text):
    entry = {"name": "api", "description": text, "owner": text}
    found = problems(json.dumps({"format": 1, "services": [entry]}))
    assert [problem.partition(": ")[2] for problem in found] == [
        "description: must not hold NUL or half a character", "owner: must not hold NUL or half a character",
    ]  # fmt: skip
