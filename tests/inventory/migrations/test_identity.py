"""Migration 0011: claims of a place each, and a first version of declarations from before the audit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from tests.parts.audit_trail import release_trail

BEFORE, AFTER = "0010_removal_approvals", "0011_identity"

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def migrate() -> Iterator[Callable[[str], Any]]:
    """`migrate(name)`: brings the database to this migration, and returns the models of that time."""

    def to(name: str) -> Any:
        executor = MigrationExecutor(connection)
        executor.migrate([("inventory", name)])
        return MigrationExecutor(connection).loader.project_state([("inventory", name)]).apps

    yield to
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())
    release_trail()


def test_migration_places_claims_and_begins_the_history(migrate):
    old = migrate(BEFORE)
    service = old.get_model("inventory", "Service").objects.create(name="api")
    old.get_model("inventory", "ConsulContact").objects.create(pk=1, node="here")
    for port, key, is_claimed in ((1, "marked", True), (2, "unseen", True), (3, "stranger", True), (4, "new", False)):
        old.get_model("inventory", "Instance").objects.create(
            service=service, address="10.0.0.1", port=port, consul_id=key, claimed=is_claimed
        )
    for key, node, owner in (("marked", "there", "registry-admin"), ("marked", "here", ""), ("stranger", "here", "")):
        old.get_model("inventory", "ObservedInstance").objects.create(
            consul_id=key, node=node, owner=owner, port=1, sync_status="synced", health="passing"
        )
    new = migrate(AFTER)
    claims = dict(new.get_model("inventory", "Instance").objects.values_list("consul_id", "claimed_node"))
    assert claims == {"marked": "there", "unseen": "here", "stranger": "", "new": ""}
    history = new.get_model("inventory", "HistoricalInstance").objects
    assert sorted(history.values_list("consul_id", "history_type")) == sorted((key, "+") for key in claims)
    assert new.get_model("inventory", "InventoryIdentity").objects.get().revision == 0
    back = migrate(BEFORE)
    claimed = dict(back.get_model("inventory", "Instance").objects.values_list("consul_id", "claimed"))
    assert claimed == {"marked": True, "unseen": True, "stranger": False, "new": False}
